"""Some voxels of a file get other values; every other byte stays."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from medidiff.errors import GeometryError, InputError, OutputError
from medidiff.io import read_volume, write_volume
from medidiff.io.overwrite import can_overwrite, overwrite
from medidiff.volume import Volume

AFFINE = np.array([[0, -1.1, 0, 30], [-0.9, 0, 0, 40], [0, 0, 1.2, -20], [0, 0, 0, 1]])
TEXT = "EDITED scan"


def write(
    path: Path, dtype: Any, *, big: bool = False, version: int = 1, scale: tuple[float, float] | None = None
) -> bytes:
    """A file with an extension, texts, and a header that no writer of ours would write."""
    kind: Any = nibabel.Nifti1Image if version == 1 else nibabel.Nifti2Image
    data = np.arange(6 * 7 * 8).reshape(6, 7, 8)
    image = kind(data.astype(np.dtype(dtype).newbyteorder(">" if big else "<")), AFFINE, dtype=np.dtype(dtype))
    image.header.set_data_dtype(np.dtype(dtype))
    if big:
        image = kind(image.dataobj, AFFINE, image.header.as_byteswapped(">"))
    image.header["descrip"] = b"somebody's words"
    image.header["aux_file"] = b"aux"
    image.header["cal_max"] = 77
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"an extension"))
    raw = bytearray(image.to_bytes())
    if scale is not None:
        at = 112 if version == 1 else 176
        number = (">" if big else "<") + ("f4" if version == 1 else "f8")
        raw[at : at + 2 * np.dtype(number).itemsize] = np.array(scale, number).tobytes()
    path.write_bytes(gzip.compress(bytes(raw)) if path.name.endswith(".gz") else bytes(raw))
    return bytes(raw)


CASES = [
    ("uint8", False, 1, None, "a.nii"),
    ("int16", True, 1, None, "a.nii.gz"),
    ("int16", False, 1, (0.25, -3.0), "a.nii.gz"),
    ("float32", False, 2, None, "a.nii"),
    ("float64", True, 2, (2.0, 1.0), "a.nii.gz"),
    ("int64", False, 1, None, "a.nii"),
]


@pytest.mark.parametrize(("dtype", "big", "version", "scale", "name"), CASES)
def test_only_the_marked_voxels_and_the_description_differ(
    dtype: str, big: bool, version: int, scale: tuple[float, float] | None, name: str, tmp_path: Path
) -> None:
    source, target = tmp_path / name, tmp_path / f"out-{name}"
    before = write(source, dtype, big=big, version=version, scale=scale)
    assert can_overwrite(source)
    volume = read_volume(source)
    where = np.zeros((6, 7, 8), bool)
    where[1:3, 2:4, 5] = True
    values = volume.data[0] + 10 * where
    overwrite(source, target, where, values, description=TEXT)
    after = gzip.decompress(target.read_bytes()) if name.endswith(".gz") else target.read_bytes()
    assert len(after) == len(before)
    changed = {n for n, (a, b) in enumerate(zip(before, after, strict=True)) if a != b}
    at = 148 if version == 1 else 240
    size = np.dtype(dtype).itemsize
    begin = len(before) - where.size * size
    flat = np.flatnonzero(where.reshape(-1, order="F"))
    allowed = set(range(at, at + 80)) | {begin + int(n) * size + byte for n in flat for byte in range(size)}
    assert changed <= allowed
    assert changed - set(range(at, at + 80))
    np.testing.assert_allclose(read_volume(target).data[0], values, rtol=1e-6)
    assert nibabel.load(target).header["descrip"].item().decode() == TEXT


def test_values_beyond_the_stored_type_end_at_its_limits(tmp_path: Path) -> None:
    write(tmp_path / "a.nii", "uint8")
    where = np.zeros((6, 7, 8), bool)
    where[0, 0, :2] = True
    values = np.where(where, 1e9, 0.0)
    values[0, 0, 1] = -1e9
    overwrite(tmp_path / "a.nii", tmp_path / "b.nii", where, values, description=TEXT)
    assert read_volume(tmp_path / "b.nii").data[0, 0, 0, :2].tolist() == [255, 0]


def test_what_is_cut_short_or_does_not_fit_is_refused(tmp_path: Path) -> None:
    content = write(tmp_path / "a.nii", "int16")
    where = np.zeros((6, 7, 8), bool)
    with pytest.raises(GeometryError, match=r"\(6, 7, 8\)"):
        overwrite(tmp_path / "a.nii", tmp_path / "b.nii", where[:5], np.zeros((5, 7, 8)), description=TEXT)
    (tmp_path / "short.nii").write_bytes(content[:-9])
    with pytest.raises(InputError, match="cut short"):
        overwrite(tmp_path / "short.nii", tmp_path / "b.nii", where, np.zeros((6, 7, 8)), description=TEXT)
    with pytest.raises(OutputError):
        overwrite(tmp_path / "a.nii", tmp_path / "none" / "b.nii", where, np.zeros((6, 7, 8)), description=TEXT)
    assert not list(tmp_path.glob("b.nii"))


def test_other_formats_are_told_apart(tmp_path: Path, mni: Volume) -> None:
    small = Volume(mni.data[:, :8, :8, :8], type(mni.geometry)(mni.geometry.affine, (8, 8, 8)))
    for name in ("a.mgz", "a.nrrd"):
        write_volume(small, tmp_path / name)
        assert not can_overwrite(tmp_path / name)
        with pytest.raises(InputError, match="byte for byte"):
            overwrite(tmp_path / name, tmp_path / "b.nii", np.zeros((8,) * 3, bool), small.data[0], description=TEXT)
