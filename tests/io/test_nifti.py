"""NIfTI's many ways to say one thing, and the ways that are refused."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from medidiff.errors import GeometryError, InputError
from medidiff.geometry import Geometry
from medidiff.io import probe, read_volume, write_volume
from medidiff.volume import Volume

AFFINE = np.array([[-0.9, 0.0, 0.0, 40.0], [0.0, 0.0, 4.0, -30.0], [0.0, 1.1, 0.0, 20.0], [0.0, 0.0, 0.0, 1.0]])
DATA = np.random.default_rng(0).integers(-500, 2000, size=(5, 6, 7)).astype(np.int16)

Save = Callable[..., Path]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    """Write an image with nibabel, then change its header in place."""

    def write(data: Any = DATA, affine: Any = AFFINE, name: str = "scan.nii", kind: Any = None, **fields: Any) -> Path:
        path = tmp_path / name
        image = (kind or nibabel.Nifti1Image)(data, affine)
        image.header.set_xyzt_units("mm", "sec")
        nibabel.save(image, path)
        if fields:
            raw = bytearray(path.read_bytes())
            header = image.header.__class__(bytes(raw[: image.header.sizeof_hdr]), check=False)
            for field, value in fields.items():
                header[field] = value
            raw[: image.header.sizeof_hdr] = header.binaryblock
            path.write_bytes(raw)
        return path

    return write


@pytest.mark.parametrize(
    "dtype", ["uint8", "int8", "int16", "uint16", "int32", "uint32", "int64", "float32", "float64"]
)
@pytest.mark.parametrize("order", ["<", ">"])
def test_every_number_type_in_both_byte_orders(dtype: str, order: str, tmp_path: Path) -> None:
    header = nibabel.Nifti1Header(endianness=order)
    data = np.arange(5 * 6 * 7).reshape(5, 6, 7).astype(dtype) % 100
    header.set_data_dtype(dtype)
    nibabel.save(nibabel.Nifti1Image(data, AFFINE, header), tmp_path / "scan.nii")
    volume = read_volume(tmp_path / "scan.nii")
    assert np.array_equal(volume.data[0], data.astype(np.float32))
    assert probe(tmp_path / "scan.nii").dtype == dtype


def test_slope_and_intercept_are_applied(save: Save) -> None:
    path = save(scl_slope=0.25, scl_inter=-1024.0)
    np.testing.assert_allclose(read_volume(path).data[0], DATA * 0.25 - 1024.0)
    assert (probe(path).scaling.slope, probe(path).scaling.intercept) == (0.25, -1024.0)


@pytest.mark.parametrize("slope", [0.0, np.nan])
def test_a_slope_of_zero_or_nan_means_none(slope: float, save: Save) -> None:
    assert np.array_equal(read_volume(save(scl_slope=slope, scl_inter=5.0)).data[0], DATA)


def test_large_scaled_integers_keep_their_digits(save: Save) -> None:
    big = (2**31 - 1 - np.arange(210)).astype(np.int32).reshape(5, 6, 7)
    volume = read_volume(save(big, scl_slope=1.0, scl_inter=-float(2**31)))
    assert np.array_equal(volume.data[0], (big.astype(np.int64) - 2**31).astype(np.float32))


def test_values_beyond_single_precision_are_refused(save: Save) -> None:
    with pytest.raises(InputError, match=r"3\.4e38"):
        read_volume(save(np.full((5, 6, 7), 1e300)))


@pytest.mark.parametrize(("code", "factor"), [("meter", 1000.0), ("mm", 1.0), ("micron", 0.001)])
def test_units_become_millimetres(code: str, factor: float, tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(DATA, AFFINE)
    image.header.set_xyzt_units(code)
    nibabel.save(image, tmp_path / "scan.nii")
    np.testing.assert_allclose(read_volume(tmp_path / "scan.nii").geometry.affine[:3], AFFINE[:3] * factor, rtol=1e-6)


@pytest.mark.parametrize(("code", "step"), [("sec", 2.0), ("msec", 0.002), ("usec", 2e-6)])
def test_time_units_become_seconds(code: str, step: float, tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(np.zeros((5, 6, 7, 3), np.int16), AFFINE)
    image.header.set_xyzt_units("mm", code)
    image.header.set_zooms((0.9, 1.1, 4.0, 2.0))
    nibabel.save(image, tmp_path / "scan.nii")
    assert probe(tmp_path / "scan.nii").frame_step == pytest.approx(step)


def test_sform_comes_before_qform_and_a_quarrel_is_told(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(DATA, AFFINE)
    moved = AFFINE.copy()
    moved[0, 3] += 25
    image.set_qform(moved, 1)
    image.set_sform(AFFINE, 2)
    nibabel.save(image, tmp_path / "scan.nii")
    info = probe(tmp_path / "scan.nii")
    np.testing.assert_allclose(info.geometry.affine, AFFINE, atol=1e-5)
    assert len(info.notes) == 1
    assert "up to 25 mm apart" in info.notes[0]


def test_qform_alone_is_taken(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(DATA, AFFINE)
    image.set_sform(None, 0)
    image.set_qform(AFFINE, 1)
    nibabel.save(image, tmp_path / "scan.nii")
    np.testing.assert_allclose(probe(tmp_path / "scan.nii").geometry.affine, AFFINE, atol=1e-5)


def test_no_orientation_is_told(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(DATA, None)
    image.header.set_zooms((1.0, 2.0, 3.0))
    nibabel.save(image, tmp_path / "scan.nii")
    info, expected = probe(tmp_path / "scan.nii"), nibabel.load(tmp_path / "scan.nii").affine
    np.testing.assert_allclose(info.geometry.affine, expected)
    assert "left and right are a guess" in info.notes[0]


def test_negative_pixdim_is_read_as_nibabel_does(save: Save) -> None:
    path = save(pixdim=[1.0, -0.9, 1.1, -4.0, 0, 0, 0, 0], sform_code=0, qform_code=1)
    np.testing.assert_allclose(read_volume(path).geometry.affine, nibabel.load(path).affine, atol=1e-6)


def test_pixdim_that_contradicts_the_affine_is_told(save: Save) -> None:
    info = probe(save(pixdim=[1.0, 0.9, 1.1, 3.0, 0, 0, 0, 0], qform_code=0))
    assert info.geometry.spacing[2] == pytest.approx(4.0)
    assert info.notes == ("pixdim says [0.9, 1.1, 3.0] mm, the affine [0.9, 1.1, 4.0] mm; the affine is taken",)


def test_qfac_and_both_forms_are_written(tmp_path: Path) -> None:
    path = write_volume(Volume(DATA[None].astype(np.float32), Geometry(AFFINE, DATA.shape)), tmp_path / "scan.nii")
    image = nibabel.load(path)
    for affine, code in (image.get_sform(coded=True), image.get_qform(coded=True)):
        assert code == 1
        np.testing.assert_allclose(affine, AFFINE, atol=1e-5)
    assert float(image.header["pixdim"][0]) == np.sign(np.linalg.det(AFFINE[:3, :3]))
    assert bytes(image.header["descrip"]).rstrip(b"\0").startswith(b"medidiff ")
    assert image.header.get_xyzt_units() == ("mm", "unknown")


def test_scaled_integers_keep_the_values_to_half_a_step(tmp_path: Path) -> None:
    data = np.random.default_rng(2).normal(0.0, 1e-3, size=(1, 5, 6, 7)).astype(np.float32)
    path = write_volume(Volume(data, Geometry(AFFINE, (5, 6, 7))), tmp_path / "scan.nii", dtype="int16")
    assert np.abs(read_volume(path).data - data).max() <= probe(path).scaling.slope * 0.51
    assert probe(path).dtype == "int16"


def test_an_axis_too_long_for_nifti1_makes_a_nifti2(tmp_path: Path) -> None:
    long = Volume(np.arange(80_000 * 4, dtype=np.float32).reshape(1, 80_000, 2, 2), Geometry(np.eye(4), (80_000, 2, 2)))
    path = write_volume(long, tmp_path / "scan.nii")
    assert probe(path).format == "nifti2"
    assert np.array_equal(read_volume(path).data, long.data)


def test_a_pair_is_read_from_either_half(tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Pair(DATA, AFFINE), tmp_path / "scan.img")
    for name in ("scan.hdr", "scan.img"):
        volume = read_volume(tmp_path / name)
        assert np.array_equal(volume.data[0], DATA)
        np.testing.assert_allclose(volume.geometry.affine, AFFINE, atol=1e-5)


def test_a_pair_without_its_image_says_so(tmp_path: Path) -> None:
    nibabel.save(nibabel.Nifti1Pair(DATA, AFFINE), tmp_path / "scan.img")
    (tmp_path / "scan.img").unlink()
    with pytest.raises(InputError, match=r"scan\.img is not beside it"):
        read_volume(tmp_path / "scan.hdr")


def test_extensions_are_stepped_over(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(DATA, AFFINE)
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"x" * 5000))
    nibabel.save(image, tmp_path / "scan.nii")
    assert np.array_equal(read_volume(tmp_path / "scan.nii").data[0], DATA)


def test_an_extension_that_lies_about_its_size_does_no_harm(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(DATA, AFFINE)
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"x" * 50))
    nibabel.save(image, tmp_path / "scan.nii")
    raw = bytearray((tmp_path / "scan.nii").read_bytes())
    raw[352:356] = struct.pack("<i", 2**31 - 16)
    (tmp_path / "scan.nii").write_bytes(raw)
    assert np.array_equal(read_volume(tmp_path / "scan.nii").data[0], DATA)


def test_trailing_axes_of_one_are_no_dimensions(save: Save) -> None:
    assert read_volume(save(DATA[..., None, None])).data.shape == (1, 5, 6, 7)


def test_vectors_on_the_fifth_axis_are_channels(save: Save) -> None:
    vectors = np.stack([DATA, DATA + 1, DATA + 2], axis=-1)[:, :, :, None, :]
    assert np.array_equal(read_volume(save(vectors)).data, np.moveaxis(vectors[:, :, :, 0], -1, 0))


def rgb() -> Any:
    return np.zeros((5, 6, 7), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (np.zeros((5, 6, 7, 2, 3), np.int16), "5 dimensions"),
        (np.zeros((64, 64), np.int16), "single image"),
        (np.zeros((64, 64, 1), np.int16), "single image"),
        (np.zeros((5, 6, 7), np.complex64), "complex"),
        (rgb(), "colours"),
    ],
)
def test_what_is_no_scan_is_refused_in_one_line(data: Any, words: str, save: Save) -> None:
    path = save(data)
    for use in (probe, read_volume):
        with pytest.raises(InputError, match=words) as caught:
            use(path)
        assert "\n" not in str(caught.value)
        assert str(path) in str(caught.value)


def srow(matrix: Any) -> dict[str, Any]:
    rows = np.asarray(matrix, dtype=float)
    return {"srow_x": rows[0], "srow_y": rows[1], "srow_z": rows[2], "sform_code": 1}


TILTED = [[1, 0, 0, 0], [0, 1, np.sin(0.3), 0], [0, 0, np.cos(0.3), 0]]


@pytest.mark.parametrize(
    ("fields", "error", "words"),
    [
        (srow(TILTED), GeometryError, "not at right angles"),
        (srow(np.zeros((3, 4))), GeometryError, "singular"),
        (srow(np.eye(4)[:3] * np.nan), GeometryError, "not finite"),
        (srow([[1, 0, 0, np.inf], [0, 1, 0, 0], [0, 0, 1, 0]]), GeometryError, "not finite"),
        (srow([[1, 1, 0, 0], [1, 1, 0, 0], [0, 0, 1, 0]]), GeometryError, "singular"),
        ({"quatern_b": 3.0, "sform_code": 0, "qform_code": 1}, InputError, "orientation that cannot be used"),
        ({"pixdim": [1, np.nan, 1, 1, 0, 0, 0, 0], "sform_code": 0, "qform_code": 1}, GeometryError, "not finite"),
        ({"dim": [3, -5, 6, 7, 1, 1, 1, 1]}, InputError, "positive"),
        ({"dim": [3, 0, 6, 7, 1, 1, 1, 1]}, InputError, "positive"),
        ({"dim": [9, 5, 6, 7, 1, 1, 1, 1]}, InputError, "9 dimensions|damaged"),
        ({"dim": [3, 32767, 32767, 32767, 1, 1, 1, 1]}, InputError, "cannot hold more than"),
        ({"vox_offset": 1e9}, InputError, "cannot hold more than"),
        ({"vox_offset": -352.0}, InputError, "cannot begin|damaged"),
        ({"vox_offset": np.nan}, InputError, "cannot begin|damaged"),
        ({"vox_offset": 100.0}, InputError, "inside the header|damaged"),
        ({"datatype": 9999}, InputError, "9999|damaged"),
        ({"scl_slope": 1.0, "scl_inter": np.inf}, InputError, "scaling that is not finite"),
        ({"scl_slope": -np.inf, "scl_inter": 0.0}, InputError, "scaling that is not finite"),
    ],
)
def test_headers_that_lie_are_found_out(fields: dict[str, Any], error: Any, words: str, save: Save) -> None:
    path = save(**fields)
    for use in (probe, read_volume):
        with pytest.raises(error, match=words) as caught:
            use(path)
        assert "\n" not in str(caught.value)
        assert str(path) in str(caught.value)
