"""Heaps that are odd, that change while they are worked on, and disks that are full."""

from __future__ import annotations

import os
import resource
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from medidiff.errors import OutputError
from medidiff.ingest import ingest
from medidiff.ingestion.lines import INTERNAL
from medidiff.ingestion.spool import Spool
from medidiff.io.archives import extract_zip
from medidiff.io.dicom import Reason
from medidiff.privacy.keys import PrivacyKey
from tests.ingest.heaps import PLAIN, nifti, run, series, tree

NAMES = [
    b"line\nfeed.dcm", b"\xff\xfenot utf-8.dcm", b"x" * 251 + b".dcm", b"-rf", b" ", "\u202egpj.dcm".encode(),
    b"%s%n{0}.dcm", b"'; DROP TABLE object;--.dcm", b"\x80/\x01in.dcm", b"*", b"\\", b"a\tb",
]  # fmt: skip


def test_names_need_not_be_text(tmp_path: Path) -> None:
    heap = tmp_path / "heap"
    heap.mkdir()
    for path, name in zip(series(tmp_path / "plain"), NAMES, strict=True):
        place = os.fsencode(heap) + b"/" + name
        os.makedirs(os.path.dirname(place), exist_ok=True)  # noqa: PTH103, PTH120 - a Path is text
        os.rename(path, place)  # noqa: PTH104
    nifti(tmp_path / "scan.nii")
    os.rename(tmp_path / "scan.nii", os.fsencode(heap) + b"/sc\xe9n_T1w.nii")  # noqa: PTH104
    (heap / "stray.dcm").symlink_to(heap)
    result = run(heap, tmp_path / "dataset")
    assert (result.kept, result.volumes, result.set_apart) == (len(NAMES) + 1, 2, {Reason.UNREADABLE.value: 1})
    before = tree(tmp_path / "dataset")
    assert run(heap, tmp_path / "dataset").added == ()
    assert tree(tmp_path / "dataset") == before


def gone(path: Path) -> None:
    path.unlink()


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def endless(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize("damage", [gone, folder, pipe, endless])
def test_what_changes_under_a_run_has_a_reason_and_comes_in_when_it_is_back(
    damage: Callable[[Path], None], tmp_path: Path
) -> None:
    heap, dataset = tmp_path / "heap", tmp_path / "dataset"
    slices = series(heap / "a")
    series(heap / "b", "P-2", seed=1)
    nifti(heap / "scan_T1w.nii")
    victims = [slices[5], heap / "scan_T1w.nii"]
    shutil.copytree(heap, tmp_path / "safe")
    done = []

    def between(count: int, total: int, what: str) -> None:
        del count, total
        if what == "series" and not done:
            done.append(what)
            for victim in victims:
                damage(victim)

    result = ingest([heap], dataset, PLAIN, between)
    assert (result.volumes, result.exit_code) == (1, 3)
    assert INTERNAL not in result.set_apart
    for victim in victims:
        shutil.rmtree(victim) if victim.is_dir() else victim.unlink(missing_ok=True)
        shutil.copy2(tmp_path / "safe" / victim.relative_to(heap), victim)
    again = run(heap, dataset)
    assert (again.volumes, again.exit_code) == (3, 0)


def test_a_torn_table_of_scans_is_swept_away(tmp_path: Path) -> None:
    series(tmp_path / "heap")
    run(tmp_path / "heap", tmp_path / "dataset")
    before = tree(tmp_path / "dataset")
    (table,) = (tmp_path / "dataset").glob("sub-*/ses-*/*_scans.tsv")
    table.with_name(f".medidiff-tmp-16214-096ddae5-{table.name}").write_text("filename")
    run(tmp_path / "heap", tmp_path / "dataset")
    assert tree(tmp_path / "dataset") == before


def test_an_archive_is_the_same_source_each_time(tmp_path: Path) -> None:
    heap, dataset = tmp_path / "heap", tmp_path / "dataset"
    heap.mkdir()
    with zipfile.ZipFile(heap / "scans.zip", "w") as archive:
        for path in series(tmp_path / "plain"):
            archive.write(path, path.name)
    run(heap, dataset)
    before = tree(dataset)
    run(heap, dataset)
    assert tree(dataset) == before


def test_other_content_in_an_archive_has_another_time(tmp_path: Path) -> None:
    times = []
    for content in (b"one", b"two", b"one"):
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
            archive.writestr(zipfile.ZipInfo("f", (2020, 5, 4, 3, 2, 2)), content)
        ((_, target),) = extract_zip(tmp_path / "a.zip", tmp_path / "out")
        assert target is not None
        times.append(target.stat().st_mtime_ns)
    assert times[0] == times[2] != times[1]


def test_an_index_that_finds_no_room_is_one_line(tmp_path: Path) -> None:
    """In a child whose files may not grow: as on a full disk."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))
            with Spool(tmp_path / "index.sqlite") as spool:
                for number in range(50_000):
                    spool.add_image(f"/a/long/path/to/some/file/{number}", f"file-{number}")
        except OutputError as error:
            code = 0 if "make room" in str(error) else 2
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0


def test_a_full_disk_leaves_no_half_and_the_next_run_ends_the_same(tmp_path: Path) -> None:
    heap = tmp_path / "heap"
    series(heap / "a")
    series(heap / "b", "P-2", seed=1)
    key = PrivacyKey.create(tmp_path / "whole.key")
    del key
    shutil.copy(tmp_path / "whole.key", tmp_path / "full.key")
    run(heap, tmp_path / "whole")
    largest = max(path.stat().st_size for path in (tmp_path / "whole").rglob("*") if path.is_file())
    child = os.fork()
    if child == 0:
        code = 1
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest - 1, largest - 1))
            run(heap, tmp_path / "full")
        except OutputError:
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    assert not list(tmp_path.rglob(".medidiff-tmp-*"))
    run(heap, tmp_path / "full")
    assert tree(tmp_path / "full") == tree(tmp_path / "whole")
