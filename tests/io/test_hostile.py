"""Files that lie, that are cut, or that are no files: one typed line each, and no memory to speak of."""

from __future__ import annotations

import gzip
import os
import random
import socket
import struct
import tracemalloc
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import nibabel
import numpy as np
import pytest

from medidiff.errors import BudgetError, InputError, MedidiffError, OutputError
from medidiff.geometry import Geometry
from medidiff.io import probe, read_volume, write_volume
from medidiff.volume import Volume

MIB = 1024**2


def small(frames: int = 1) -> Volume:
    data = np.random.default_rng(0).normal(100, 20, size=(frames, 8, 9, 10)).astype(np.float32)
    return Volume(data, Geometry(np.diag([1.0, 1.0, 3.0, 1.0]), (8, 9, 10)))


def said(path: Path) -> str:
    """The one line that reading gives; probing must not fail in another way."""
    with pytest.raises(InputError) as caught:
        read_volume(path)
    with suppress(MedidiffError):  # cut voxels are not seen in a header
        probe(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    return str(caught.value).replace(str(path), "FILE")  # a test's own name is in its path


def test_no_file(tmp_path: Path) -> None:
    assert "there is no file" in said(tmp_path / "scan.nii")


def test_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "scan.nii").touch()
    assert "is empty" in said(tmp_path / "scan.nii")


def test_an_empty_gzip(tmp_path: Path) -> None:
    (tmp_path / "scan.nii.gz").write_bytes(gzip.compress(b""))
    assert "is no volume" in said(tmp_path / "scan.nii.gz")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"PK\x03\x04" + b"\0" * 40, "zip archive"),
        (b"\x89PNG\r\n" + b"\0" * 400, "PNG picture"),
        (b"\x89HDF\r\n" + b"\0" * 400, "HDF5"),
        (b"%PDF-1.7\n", "PDF"),
        (b"ObjectType = Image\n", "MetaImage"),
        (struct.pack("<i", 348) + b"\0" * 344, "Analyze 7.5"),
        (b"just a text\n" * 40, "neither NIfTI"),
        (b"\0" * 1000, "neither NIfTI"),
        (gzip.compress(b"\0" * 257 + b"ustar" + b"\0" * 250, mtime=0), "tar archive"),
    ],
)
def test_other_things_are_called_by_their_names(content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "scan.nii").write_bytes(content)
    assert words in said(tmp_path / "scan.nii")


def test_a_folder_without_dicom_says_so(tmp_path: Path) -> None:
    write_volume(small(), tmp_path / "scan.nii")
    (tmp_path / "notes.txt").write_text("nothing here")
    message = said(tmp_path)
    assert "holds no DICOM (2 files looked at)" in message
    assert "notes" not in message


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "scan.nii")
    assert "device, pipe or socket" in said(tmp_path / "scan.nii")


def test_a_socket_and_a_device_are_refused(tmp_path: Path) -> None:
    here = Path.cwd()
    with socket.socket(socket.AF_UNIX) as listener:
        os.chdir(tmp_path)  # a socket's path may have no more than about 100 characters
        try:
            listener.bind("scan.nii")
        finally:
            os.chdir(here)
        assert "cannot be opened" in said(tmp_path / "scan.nii")
    assert "device" in said(Path("/dev/zero"))


def test_a_file_that_cannot_be_read_through() -> None:
    # A plain file by its mode, but nothing can be read from it.
    if not Path("/proc/self/mem").exists():
        pytest.skip("no /proc here")
    assert "is empty" in said(Path("/proc/self/mem"))


def test_a_link_that_leads_nowhere_and_one_in_a_circle(tmp_path: Path) -> None:
    (tmp_path / "nowhere.nii").symlink_to(tmp_path / "missing")
    (tmp_path / "circle.nii").symlink_to(tmp_path / "circle.nii")
    assert "there is no file" in said(tmp_path / "nowhere.nii")
    assert "cannot be opened" in said(tmp_path / "circle.nii")


def test_a_name_that_cannot_be() -> None:
    assert "cannot be opened" in said(Path("x" * 5000))


@pytest.mark.parametrize("keep", [1, 2, 3, 9, 17, 100, 400, 1500])
def test_a_gzip_cut_anywhere(keep: int, tmp_path: Path) -> None:
    path = write_volume(small(), tmp_path / "scan.nii.gz")
    path.write_bytes(path.read_bytes()[:keep])
    said(path)


@pytest.mark.parametrize("shape", [(8, 9, 10), (64, 64, 64)])
@pytest.mark.parametrize("byte", [-6, -2])
def test_a_wrong_checksum_or_length_is_found(shape: tuple[int, int, int], byte: int, tmp_path: Path) -> None:
    data = np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32)
    path = write_volume(Volume(data, Geometry(np.eye(4), shape)), tmp_path / "scan.nii.gz")
    raw = bytearray(path.read_bytes())
    raw[byte] ^= 1
    path.write_bytes(raw)
    assert "its checksum does not fit" in said(path)


@pytest.mark.parametrize("shape", [(8, 9, 10), (64, 64, 64)])
def test_voxels_without_the_end_of_the_gzip_are_not_trusted(shape: tuple[int, int, int], tmp_path: Path) -> None:
    data = np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32)
    path = write_volume(Volume(data, Geometry(np.eye(4), shape)), tmp_path / "scan.nii.gz")
    path.write_bytes(path.read_bytes()[:-8])
    assert "is cut short: its compressed data has no end" in said(path)


def test_a_gzip_with_padding_is_read(tmp_path: Path) -> None:
    path = write_volume(small(), tmp_path / "scan.nii.gz")
    path.write_bytes(path.read_bytes() + b"\0" * 512)
    assert np.array_equal(read_volume(path).data, small().data)


def huge_header(sizes: tuple[int, int, int]) -> bytes:
    header = nibabel.Nifti1Header()
    header.set_data_dtype(np.float32)
    header.set_data_shape(sizes)
    header.set_sform(np.eye(4), 1)
    header["vox_offset"] = 352
    header["magic"] = b"n+1"
    return bytes(header.binaryblock) + b"\0" * 4


@pytest.fixture
def traced() -> Iterator[None]:
    tracemalloc.start()
    yield
    tracemalloc.stop()


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_a_header_without_its_voxels_takes_no_memory(pack: type[bytes], tmp_path: Path, traced: None) -> None:
    path = tmp_path / "scan.nii"
    path.write_bytes(pack(huge_header((30000, 30000, 30000))))
    assert "cannot hold more than" in said(path)
    assert tracemalloc.get_traced_memory()[1] < 8 * MIB


def test_a_bomb_stops_at_the_budget_before_it_unpacks(tmp_path: Path, traced: None) -> None:
    path = tmp_path / "scan.nii.gz"
    with gzip.open(path, "wb", compresslevel=9) as file:  # 400 MiB of zeros in 400 KiB
        file.write(huge_header((1024, 1024, 100)))
        for _ in range(400):
            file.write(b"\0" * MIB)
    tracemalloc.reset_peak()
    with pytest.raises(BudgetError, match=r"declares 4\d\d\.\d MiB .* budget is 64\.0 MiB"):
        read_volume(path, budget=64 * MIB)
    assert tracemalloc.get_traced_memory()[1] < 8 * MIB


def test_a_bomb_behind_an_honest_header_is_not_unpacked(tmp_path: Path, traced: None) -> None:
    path = write_volume(small(), tmp_path / "scan.nii")
    honest = path.read_bytes()
    with gzip.open(path, "wb") as file:
        file.write(honest)
        for _ in range(200):
            file.write(b"\0" * MIB)
    tracemalloc.reset_peak()
    assert np.array_equal(read_volume(path).data, small().data)
    assert tracemalloc.get_traced_memory()[1] < 8 * MIB


def test_reading_takes_the_volume_and_a_few_mebibytes(tmp_path: Path, traced: None) -> None:
    data = np.arange(128**3, dtype=np.float64).reshape(1, 128, 128, 128)
    path = write_volume(Volume(data, Geometry(np.eye(4), (128, 128, 128))), tmp_path / "scan.nii", dtype="float64")
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    volume = read_volume(path)
    assert tracemalloc.get_traced_memory()[1] - before < volume.data.nbytes + 48 * MIB


def test_a_volume_over_the_default_budget_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_volume(small(), tmp_path / "scan.nii")
    monkeypatch.setattr("medidiff.io.safety._available_memory", lambda: 4096)
    with pytest.raises(BudgetError, match=r"budget is 2\.0 KiB"):
        read_volume(path)


def mutated(seed: int, original: bytes) -> bytes:
    """One of the ways in which files go wrong: bits flipped, numbers set to extremes, cut, repeated, spliced."""
    dice = random.Random(seed)
    raw = bytearray(original)
    reach = dice.choice([16, 120, 352, len(raw)])
    kind = dice.randrange(6)
    if kind == 0:
        for _ in range(dice.randint(1, 30)):
            raw[dice.randrange(min(reach, len(raw)))] ^= 1 << dice.randrange(8)
    elif kind == 1:
        value = dice.choice(
            [b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\0\0\xc0\x7f"]
        )
        for _ in range(dice.randint(1, 6)):
            at = dice.randrange(min(reach, len(raw)))
            raw[at : at + 4] = value
    elif kind == 2:
        del raw[dice.randrange(len(raw)) :]
    elif kind == 3:
        begin = dice.randrange(min(reach, len(raw)))
        raw[begin:begin] = raw[begin : begin + dice.randint(1, 64)]
    elif kind == 4:
        begin = dice.randrange(min(reach, len(raw)))
        del raw[begin : begin + dice.randint(1, 64)]
    else:
        for _ in range(dice.randint(1, 6)):
            raw[dice.randrange(min(reach, len(raw)))] = dice.choice(b"0123456789-.,() \n\0e")
    return bytes(raw)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".mgh", ".mgz", ".nrrd"])
@pytest.mark.parametrize("packed_again", [False, True])
@pytest.mark.filterwarnings("error")
def test_mutated_files_end_in_typed_errors(suffix: str, packed_again: bool, tmp_path: Path, traced: None) -> None:
    """80 mutations a format, of the file itself and of its content behind a sound gzip."""
    path = write_volume(small(frames=2), tmp_path / f"scan{suffix}")
    original = path.read_bytes()
    if packed_again and suffix in (".nii.gz", ".mgz"):
        original = gzip.decompress(original)
    tracemalloc.reset_peak()
    lines: list[str] = []
    for seed in range(80):
        raw = mutated(seed, original)
        path.write_bytes(gzip.compress(raw, 1, mtime=0) if packed_again else raw)
        try:
            info = probe(path)
            assert read_volume(path).data.shape == (info.frames, *info.geometry.shape)
        except MedidiffError as error:
            lines.append(str(error))
    assert len(lines) > 10
    assert not any("\n" in line for line in lines)
    # Deflate may promise a thousand times the file: the promise is bounded by that, and then by the bytes that come.
    assert tracemalloc.get_traced_memory()[1] < 64 * MIB


def test_no_room_leaves_nothing_behind(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    volume = Volume(np.random.default_rng(0).normal(size=(1, 64, 64, 64)).astype(np.float32),
                    Geometry(np.eye(4), (64, 64, 64)))  # fmt: skip
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    for suffix in (".nii", ".nii.gz", ".mgz", ".nrrd"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, old[1]))
        try:
            with pytest.raises(OutputError, match="no room left"):
                write_volume(volume, tmp_path / f"scan{suffix}")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert list(tmp_path.iterdir()) == []
