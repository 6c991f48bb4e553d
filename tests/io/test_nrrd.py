"""NRRD as other programs write it."""

from __future__ import annotations

import bz2
import gzip
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from medidiff.errors import InputError, MedidiffError
from medidiff.io import probe, read_volume
from medidiff.volume import Modality

DATA = np.random.default_rng(0).integers(-500, 2000, size=(4, 5, 6)).astype("<i2")
RAW = DATA.tobytes(order="F")
FIELDS = {
    "type": "short",
    "dimension": "3",
    "space": "left-posterior-superior",
    "sizes": "4 5 6",
    "space directions": "(0.5,0,0) (0,0.5,0) (0,0,3)",
    "kinds": "domain domain domain",
    "endian": "little",
    "encoding": "raw",
    "space origin": "(10,20,30)",
}
LPS_IN_RAS = np.array([[-0.5, 0, 0, -10], [0, -0.5, 0, -20], [0, 0, 3, 30], [0, 0, 0, 1.0]])

Save = Callable[..., Path]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    def write(payload: bytes = RAW, *, drop: tuple[str, ...] = (), extra: str = "", **fields: str) -> Path:
        named = FIELDS | {name.replace("_", " "): value for name, value in fields.items()}
        lines = ["NRRD0004", *(f"{name}: {value}" for name, value in named.items() if name not in drop)]
        path = tmp_path / "scan.nrrd"
        path.write_bytes(("\n".join(lines) + "\n" + extra + "\n").encode() + payload)
        return path

    return write


def test_lps_becomes_ras(save: Save) -> None:
    volume = read_volume(save())
    np.testing.assert_allclose(volume.geometry.affine, LPS_IN_RAS)
    assert np.array_equal(volume.data[0], DATA)


@pytest.mark.parametrize(
    ("space", "signs"),
    [("right-anterior-superior", (1, 1, 1)), ("LAS", (-1, 1, 1)), ("RAS", (1, 1, 1)), ("LPS", (-1, -1, 1))],
)
def test_spaces_are_understood(space: str, signs: tuple[int, int, int], save: Save) -> None:
    info = probe(save(space=space))
    np.testing.assert_allclose(info.geometry.origin, np.array(signs) * (10, 20, 30))
    assert info.notes == ()


def test_a_space_that_is_not_anatomical_is_told(save: Save) -> None:
    assert "taken as LPS" in probe(save(space="scanner-xyz")).notes[0]


def test_spacings_alone_are_enough_and_the_guess_is_told(save: Save) -> None:
    info = probe(save(drop=("space", "space directions", "space origin"), spacings="0.5 0.5 3"))
    assert info.geometry.spacing == (0.5, 0.5, 3.0)
    assert "guess" in info.notes[0]


def test_thickness_is_read(save: Save) -> None:
    assert probe(save(thicknesses="nan nan 2.5")).slice_thickness == 2.5


def test_space_units_become_millimetres(save: Save) -> None:
    assert probe(save(space_units='"m" "m" "m"')).geometry.spacing == (500.0, 500.0, 3000.0)


@pytest.mark.parametrize(
    ("encoding", "pack"), [("gzip", gzip.compress), ("gz", gzip.compress), ("bzip2", bz2.compress), ("raw", bytes)]
)
def test_encodings(encoding: str, pack: Callable[[bytes], bytes], save: Save) -> None:
    assert np.array_equal(read_volume(save(pack(RAW), encoding=encoding)).data[0], DATA)


@pytest.mark.parametrize("name", ["data file", "datafile"])
def test_a_detached_data_file(name: str, tmp_path: Path, save: Save) -> None:
    (tmp_path / "voxels.raw").write_bytes(RAW)
    path = save(b"", **{name: "voxels.raw"})
    assert np.array_equal(read_volume(path).data[0], DATA)


def test_skips_are_obeyed(tmp_path: Path, save: Save) -> None:
    (tmp_path / "voxels.raw").write_bytes(b"one line\nanother\n" + b"\0" * 7 + RAW)
    path = save(b"", data_file="voxels.raw", line_skip="2", byte_skip="7")
    assert np.array_equal(read_volume(path).data[0], DATA)
    path = save(b"", data_file="voxels.raw", byte_skip="-1")
    assert np.array_equal(read_volume(path).data[0], DATA)


@pytest.mark.parametrize("name", ["../voxels.raw", "/etc/hostname", "LIST", "slice%03d.raw 1 6 1", "link.raw"])
def test_data_elsewhere_is_not_followed(name: str, tmp_path: Path, save: Save) -> None:
    outside = tmp_path.parent / "voxels.raw"
    outside.write_bytes(RAW)
    (tmp_path / "link.raw").symlink_to(outside)
    with pytest.raises(InputError, match=r"not followed|several files"):
        read_volume(save(b"", data_file=name))


def test_channels_first_come_out_as_channels(save: Save) -> None:
    vectors = np.stack([DATA, DATA + 1])
    path = save(
        vectors.tobytes(order="F"),
        dimension="4",
        sizes="2 4 5 6",
        kinds="vector domain domain domain",
        space_directions="none (0.5,0,0) (0,0.5,0) (0,0,3)",
    )
    assert np.array_equal(read_volume(path).data, vectors)
    np.testing.assert_allclose(read_volume(path).geometry.affine, LPS_IN_RAS)


def test_a_segmentation_is_a_label_map(save: Save) -> None:
    assert probe(save(extra="Segment0_ID:=Segment_1\n")).modality is Modality.LABEL


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"kinds": "RGB-color domain domain"}, "colours"),
        ({"kinds": "complex domain domain"}, "complex"),
        ({"encoding": "ascii"}, "raw, gzip or bzip2"),
        ({"encoding": "hex"}, "raw, gzip or bzip2"),
        ({"type": "block"}, "no intensities"),
        ({"type": "wibble"}, "no intensities"),
        ({"endian": "middle"}, "little or big"),
        ({"dimension": "4"}, "do not agree"),
        ({"sizes": "4 -5 6"}, "do not agree"),
        ({"sizes": "4 5 1"}, "single image"),
        ({"spacedirections": "what"}, "damaged"),
        ({"space directions": "(1e300,0,0) (0,1e300,0) (0,0,3)"}, "impossible|not finite"),
        ({"space directions": "(1e9,0,0) (0,1,0) (0,0,3)"}, "impossible"),
        (
            {"dimension": "2", "sizes": "20 6", "space directions": "none none", "kinds": "domain domain"},
            "single image",
        ),
        ({"sizes": "40000 50000 60000"}, "cannot hold more than"),
        ({"sizes": "99999999999999999999 5 6"}, "damaged|cannot hold"),
        ({"space directions": "(0.5,0,0) (0,0.5,0)"}, "2 space directions for 3 axes"),
        ({"space directions": "(0.5,0) (0,0.5) (0,3)"}, "no 3D vectors"),
        ({"space directions": "(1,0,0) (1,0,0) (0,0,3)"}, "singular"),
        ({"space directions": "(1,0,0) (0,1,1) (0,0,3)"}, "right angles"),
        ({"space directions": "(1,0,0) (0,inf,0) (0,0,3)"}, "not finite"),
        ({"space origin": "(1,2"}, "damaged"),
        ({"byte skip": "-5"}, "byte skip|cannot"),
        ({"byte skip": "999999"}, "cut short"),
        ({"line skip": "-1"}, "line skip"),
        ({"line skip": "9000"}, "lines"),
    ],
)
def test_headers_that_lie_are_found_out(fields: dict[str, str], words: str, save: Save) -> None:
    with pytest.raises(MedidiffError, match=words) as caught:
        read_volume(save(**fields))
    assert "\n" not in str(caught.value)


def test_a_header_without_end_is_refused(tmp_path: Path) -> None:
    (tmp_path / "scan.nrrd").write_bytes(b"NRRD0004\n" + b"# again\n" * 20_000)
    with pytest.raises(InputError, match="does not end"):
        probe(tmp_path / "scan.nrrd")
