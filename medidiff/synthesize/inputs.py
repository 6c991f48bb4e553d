"""What a user gives: label maps to draw images for, or a scan to vary, on the generator's grid."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medidiff.data.cohort import nameless, onto
from medidiff.data.intensity import IntensityCodec
from medidiff.diffusion.generator import GeneratorSpec
from medidiff.errors import GeometryError, InputError, MedidiffError
from medidiff.io import read_volume
from medidiff.io.formats import strip_extension
from medidiff.io.source import file_sha256
from medidiff.volume import Volume

SPACING_TOLERANCE = 0.02


def label_maps(place: Path) -> list[Path]:
    """Label maps of a folder, in the order of their names, or the one that is named.

    Raises:
        InputError: there is none.
    """
    if not place.is_dir():
        return [place]
    found = sorted(
        path
        for path in place.iterdir()
        if path.is_file() and not path.name.startswith(".") and strip_extension(path.name) != path.name
    )
    if not found:
        raise InputError(f"{place}: no label map (NIfTI, MGZ or NRRD) in this folder")
    return found


def read_maps(place: Path, spec: GeneratorSpec) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.bool_]]]:
    """The label maps of a folder, or the one that is named; what is wrong in a folder is told by number, not by name.

    Raises:
        InputError: a map cannot be read, or has values that the generator does not know.
        GeometryError: it has other voxels than the generator's.
    """
    for number, path in enumerate(label_maps(place), 1):
        try:
            yield _read_map(path, spec)
        except (MedidiffError, OSError) as error:
            if path == place:
                raise
            kind = GeometryError if isinstance(error, GeometryError) else InputError
            raise kind(f"{place}: label map {number} in the order of names: {nameless(error, path)}") from None


def _read_map(path: Path, spec: GeneratorSpec) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """A label map on the generator's grid, and which voxels it has."""
    volume = _on_spacing(path, spec)
    values = volume.data[0]
    known = {0, *(entry.value for entry in spec.labels)}
    strange = sorted({float(value) for value in np.unique(values)} - known)
    if strange:
        text = ", ".join(f"{value:g}" for value in strange[:5])
        raise InputError(f"{path}: values {text}; this generator knows {', '.join(map(str, sorted(known)))}")
    if not values.any():
        raise InputError(f"{path}: no structure in this label map: every voxel is 0")
    inside = onto(np.ones(values.shape, dtype=bool), spec.shape, constant=True)
    return onto(values.astype(np.uint8), spec.shape, constant=True), inside


def read_scan(path: Path, spec: GeneratorSpec) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """A scan on the generator's grid in model units, and which voxels it has."""
    volume = _on_spacing(path, spec)
    codec = IntensityCodec.fit(volume.data, volume.modality)
    inside = onto(np.ones(volume.geometry.shape, dtype=bool), spec.shape, constant=True)
    return onto(codec.encode(volume.data[0].astype(np.float32)), spec.shape), inside


def _on_spacing(path: Path, spec: GeneratorSpec) -> Volume:
    volume = read_volume(path).reoriented()
    if volume.data.shape[0] != 1:
        raise InputError(f"{path}: has {volume.data.shape[0]} frames; one is expected")
    if not np.allclose(volume.geometry.spacing, spec.spacing_mm, rtol=SPACING_TOLERANCE):
        have, want = (" x ".join(f"{mm:.2f}" for mm in each) for each in (volume.geometry.spacing, spec.spacing_mm))
        raise GeometryError(f"{path}: voxels of {have} mm; the generator draws voxels of {want} mm: resample it first")
    return volume


def digest(files: Sequence[Path]) -> str:
    """Of what files hold, in their order; their names are not in it."""
    whole = hashlib.sha256()
    for path in files:
        whole.update(bytes.fromhex(file_sha256(path)))
    return whole.hexdigest()
