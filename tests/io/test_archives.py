"""Zips from anywhere: what is good in them comes out, what is not stays in, with a reason."""

from __future__ import annotations

import io
import stat
import struct
import zipfile
from pathlib import Path, PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medidiff.errors import BudgetError, InputError
from medidiff.io.archives import ArchiveLimits, extract_zip, list_zip, safe_relative


def pack(path: Path, members: dict[str, bytes], *, modes: dict[str, int] | None = None) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = (modes or {}).get(name, stat.S_IFREG | 0o644) << 16
            archive.writestr(info, content)
    return path


def files(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_an_honest_archive_is_unpacked(tmp_path: Path) -> None:
    members = {"study/series 1/IM0001": b"one", "study/series 1/IM0002": b"two" * 10_000, "notes.txt": b""}
    path = pack(tmp_path / "scan.zip", members)
    done = extract_zip(path, tmp_path / "out")
    assert files(tmp_path / "out") == members
    assert [target for _, target in done if target] == [tmp_path / "out" / name for name in members]


def test_only_what_is_wanted_is_unpacked(tmp_path: Path) -> None:
    path = pack(tmp_path / "scan.zip", {"a.dcm": b"a", "b.txt": b"b"})
    extract_zip(path, tmp_path / "out", wanted=lambda m: m.path is not None and m.path.suffix == ".dcm")
    assert files(tmp_path / "out") == {"a.dcm": b"a"}


@pytest.mark.parametrize(
    "name", ["../evil", "a/../../evil", "/etc/evil", "C:\\evil", "\\\\host\\evil", "a\\..\\..\\evil", "..", "x" * 300]
)
def test_nothing_gets_out_of_the_folder(name: str, tmp_path: Path) -> None:
    path = pack(tmp_path / "scan.zip", {name: b"evil", "good": b"good"})
    done = extract_zip(path, tmp_path / "deep" / "out")
    assert files(tmp_path) == {"scan.zip": path.read_bytes(), "deep/out/good": b"good"}
    (reason,) = [member.refused for member, target in done if target is None]
    assert "leads out of the archive" in reason
    assert "evil" not in reason


def test_links_and_devices_stay_in(tmp_path: Path) -> None:
    modes = {"link": stat.S_IFLNK | 0o777, "device": stat.S_IFBLK | 0o666, "pipe": stat.S_IFIFO | 0o666}
    path = pack(tmp_path / "scan.zip", {"link": b"/etc/passwd", "device": b"", "pipe": b"", "good": b"g"}, modes=modes)
    done = extract_zip(path, tmp_path / "out")
    assert files(tmp_path / "out") == {"good": b"g"}
    assert [member.refused for member, _ in done] == ["it is a link or a device"] * 3 + [""]


def test_a_link_that_lay_in_the_folder_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out" / "sub").symlink_to(tmp_path / "elsewhere")
    ((_, target),) = extract_zip(pack(tmp_path / "scan.zip", {"sub/file": b"x"}), tmp_path / "out")
    assert target is None
    assert files(tmp_path / "elsewhere") == {}


def test_names_that_differ_only_in_case_do_not_overwrite(tmp_path: Path) -> None:
    done = extract_zip(pack(tmp_path / "scan.zip", {"IM1": b"first", "im1": b"second"}), tmp_path / "out")
    assert files(tmp_path / "out") == {"IM1": b"first"}
    assert done[1][0].refused == "its name is there twice"


@pytest.mark.parametrize("names", [("a", "a/b"), ("a/b", "a")])
def test_a_name_that_is_file_and_folder(names: tuple[str, str], tmp_path: Path) -> None:
    done = extract_zip(pack(tmp_path / "scan.zip", dict.fromkeys(names, b"x")), tmp_path / "out")
    assert files(tmp_path / "out") == {names[0]: b"x"}
    assert done[1][0].refused == "its name is both a file and a folder"


def test_limits_are_kept(tmp_path: Path) -> None:
    path = pack(tmp_path / "scan.zip", {f"{n}": b"\0" * 1_000_000 for n in range(4)})
    with pytest.raises(BudgetError, match=r"would unpack to 3\.8 MiB, the limit is 2\.9 MiB"):
        extract_zip(path, tmp_path / "out", limits=ArchiveLimits(total_bytes=3_000_000))
    with pytest.raises(BudgetError, match="more than 3 members"):
        list_zip(path, ArchiveLimits(members=3))
    assert not (tmp_path / "out").exists()
    members = list_zip(path, ArchiveLimits(member_bytes=999_999))
    assert all("declares 976.6 KiB" in member.refused for member in members)


def test_a_bomb_that_declares_little_is_stopped(tmp_path: Path) -> None:
    path = pack(tmp_path / "scan.zip", {"bomb": b"\0" * 50_000_000, "good": b"g"})
    raw = bytearray(path.read_bytes())
    at = raw.find(b"PK\x01\x02")  # the first entry of the directory: its uncompressed size stands at 24
    raw[at + 24 : at + 28] = struct.pack("<I", 1000)
    path.write_bytes(raw)
    done = extract_zip(path, tmp_path / "out")
    assert files(tmp_path / "out") == {"good": b"g"}
    assert "damaged" in done[0][0].refused


def test_a_member_that_declares_more_than_it_can_hold(tmp_path: Path) -> None:
    path = pack(tmp_path / "scan.zip", {"liar": b"x" * 100})
    raw = bytearray(path.read_bytes())
    at = raw.find(b"PK\x01\x02")
    raw[at + 24 : at + 28] = struct.pack("<I", 2**31)
    path.write_bytes(raw)
    assert list_zip(path)[0].refused == "it declares more than it can hold"


def test_a_damaged_member_does_not_keep_the_others(tmp_path: Path) -> None:
    path = pack(tmp_path / "scan.zip", {"bad": bytes(range(256)) * 40, "good": b"g"})
    raw = bytearray(path.read_bytes())
    raw[60] ^= 0xFF
    path.write_bytes(raw)
    extract_zip(path, tmp_path / "out")
    assert files(tmp_path / "out") == {"good": b"g"}


def test_an_encrypted_member_is_named_as_such(tmp_path: Path) -> None:
    path = pack(tmp_path / "scan.zip", {"a": b"a"})
    raw = bytearray(path.read_bytes())
    raw[raw.find(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(raw)
    assert list_zip(path)[0].refused == "it is encrypted"


@pytest.mark.parametrize("keep", [4, 30, 100, -1, -10, -30])
def test_a_cut_archive_is_one_clear_error(keep: int, tmp_path: Path) -> None:
    path = pack(tmp_path / "scan.zip", {"a": b"a" * 500, "b": b"b" * 500})
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match="damaged zip archive"):
        list_zip(path)


@given(st.binary(max_size=400), st.integers(0, 2**16))
def test_random_damage_ends_in_typed_errors(noise: bytes, at: int) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("a/b", b"content" * 30)
            archive.writestr("c", b"d")
        raw = bytearray(buffer.getvalue())
        place = at % len(raw)
        raw[place : place + len(noise)] = noise
        path = Path(folder) / "scan.zip"
        path.write_bytes(raw)
        try:
            done = extract_zip(path, Path(folder) / "out")
        except (InputError, BudgetError):
            done = []
        unpacked = {target for _, target in done if target}
        assert {p for p in Path(folder).rglob("*") if p.is_file()} == unpacked | {path}


@given(st.text(max_size=60))
def test_a_safe_name_stays_below(name: str) -> None:
    path = safe_relative(name)
    if path is not None:
        assert not path.is_absolute()
        assert ".." not in path.parts
        assert (PurePosixPath("/root/out") / path).is_relative_to("/root/out")
        assert str(path).isprintable()
