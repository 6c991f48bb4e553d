"""Files appear whole or not at all, whatever kills the writer."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from medidiff.errors import InputError, OutputError
from medidiff.io import read_volume
from medidiff.io.atomic import (
    atomic_file,
    atomic_write_bytes,
    atomic_write_json,
    atomic_write_text,
    is_temporary,
    remove_stale,
)

NOBODY = 65534


def test_the_new_file_takes_the_place_of_the_old(tmp_path: Path) -> None:
    target = tmp_path / "result.json"
    atomic_write_text(target, "old")
    with atomic_file(target) as temporary:
        temporary.write_text("new")
        assert target.read_text() == "old"
        assert temporary.parent == target.parent
        assert temporary.suffix == target.suffix
        assert is_temporary(temporary)
    assert target.read_text() == "new"
    assert list(tmp_path.iterdir()) == [target]
    assert not is_temporary(target)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_any_exception_leaves_the_old_file_and_nothing_else(error: type[BaseException], tmp_path: Path) -> None:
    target = tmp_path / "result.bin"
    atomic_write_bytes(target, b"old")

    def fail() -> None:
        with atomic_file(target) as temporary:
            temporary.write_bytes(b"half")
            raise error

    with pytest.raises(error):
        fail()
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_json_is_standard_and_ends_with_a_newline(tmp_path: Path) -> None:
    atomic_write_json(tmp_path / "a.json", {"grüße": [1, 2.5, None]})
    text = (tmp_path / "a.json").read_text(encoding="utf-8")
    assert json.loads(text) == {"grüße": [1, 2.5, None]}
    assert text.endswith("}\n")
    with pytest.raises(ValueError, match="JSON"):
        atomic_write_json(tmp_path / "a.json", float("nan"))
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == text


def test_the_mode_obeys_the_umask(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        atomic_write_text(tmp_path / "a.txt", "")
    finally:
        os.umask(old)
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o640


def test_a_link_is_followed_and_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real.txt").write_text("old")
    (tmp_path / "link.txt").symlink_to("real.txt")
    atomic_write_text(tmp_path / "link.txt", "new")
    assert (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "real.txt").read_text() == "new"


def test_a_very_long_name_still_has_room_for_the_temporary_one(tmp_path: Path) -> None:
    target = tmp_path / ("x" * 250 + ".nii")
    atomic_write_text(target, "fits")
    assert target.read_text() == "fits"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("missing/a.txt", "there is no folder"),
        ("file/a.txt", "there is no folder"),
        ("folder", "it is a folder"),
        ("pipe", "not a plain file"),
        ("x" * 300, "name is too long"),
        ("nul\0l", "cannot write"),
    ],
)
def test_places_that_cannot_be_written(name: str, words: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(OutputError, match=words) as caught:
        atomic_write_text(tmp_path / name, "text")
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_an_error_about_another_file_is_not_dressed_up(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_file(tmp_path / "a.txt"):
        (tmp_path / "other").read_text()
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def foreign_folder() -> Iterator[Path]:
    """A folder that an ordinary user may look into but not write; pytest's own are closed to others."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o555)
    yield folder
    folder.chmod(0o755)
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()


@contextmanager
def ordinary_user() -> Iterator[None]:
    """Root may do everything: be somebody else for a while."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


def test_no_permission_is_said(foreign_folder: Path) -> None:
    with ordinary_user(), pytest.raises(OutputError, match="no permission to write"):
        atomic_write_text(foreign_folder / "a.txt", "x")
    assert list(foreign_folder.iterdir()) == []


def test_no_permission_to_read_is_said(foreign_folder: Path) -> None:
    foreign_folder.chmod(0o755)
    (foreign_folder / "scan.nii").write_bytes(b"secret")
    (foreign_folder / "scan.nii").chmod(0o000)
    with ordinary_user(), pytest.raises(InputError, match="no permission to read"):
        read_volume(foreign_folder / "scan.nii")


def test_a_full_disk_is_said_and_nothing_stays(tmp_path: Path) -> None:
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(tmp_path)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("mounting a small file system is not permitted here")
    try:
        target = tmp_path / "result.bin"
        atomic_write_bytes(target, b"old")
        with pytest.raises(OutputError, match="no room left"):
            atomic_write_bytes(target, b"x" * 1_000_000)
        assert target.read_bytes() == b"old"
        assert list(tmp_path.iterdir()) == [target]
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


WRITER = """
import sys, time
from medidiff.io.atomic import atomic_file
with atomic_file(sys.argv[1]) as temporary, temporary.open("wb") as file:
    file.write(b"n" * 500_000)
    file.flush()
    print("half", flush=True)
    time.sleep(60)
"""

LOOP = """
import sys
from medidiff.io.atomic import atomic_write_bytes
print("go", flush=True)
while True:
    for letter in (b"a", b"b"):
        atomic_write_bytes(sys.argv[1], letter * 3_000_000)
"""


def start(code: str, target: Path, repository: Path) -> subprocess.Popen[bytes]:
    child = subprocess.Popen([sys.executable, "-c", code, str(target)], cwd=repository, stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert child.stdout.readline()
    return child


def kill(child: subprocess.Popen[bytes]) -> None:
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert child.stdout is not None
    child.stdout.close()


def test_a_killed_writer_leaves_the_old_file_and_a_recognisable_rest(tmp_path: Path, repository: Path) -> None:
    target = tmp_path / "result.bin"
    target.write_bytes(b"old")
    child = start(WRITER, target, repository)
    assert remove_stale(tmp_path, older_than=0) == 0  # its writer lives
    kill(child)
    assert target.read_bytes() == b"old"
    (rest,) = (path for path in tmp_path.iterdir() if path != target)
    assert is_temporary(rest)
    assert remove_stale(tmp_path) == 0  # too young: another machine might be writing it
    assert remove_stale(tmp_path, older_than=0) == 1
    assert list(tmp_path.iterdir()) == [target]


def test_killed_at_any_moment_the_file_is_old_or_new(tmp_path: Path, repository: Path) -> None:
    target = tmp_path / "result.bin"
    atomic_write_bytes(target, b"a" * 3_000_000)
    for delay in (0.0, 0.013, 0.031, 0.052, 0.077):
        child = start(LOOP, target, repository)
        time.sleep(delay)
        kill(child)
        content = target.read_bytes()
        assert content in (b"a" * 3_000_000, b"b" * 3_000_000)
    remove_stale(tmp_path, older_than=0)
    assert list(tmp_path.iterdir()) == [target]
