"""From a header's claims to voxels: claims are checked against the file and the budget before any allocation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from medidiff.errors import GeometryError, InputError
from medidiff.geometry import SHEAR_TOLERANCE, Geometry
from medidiff.io.info import IntensityScaling, VolumeInfo
from medidiff.io.safety import check_budget, human_bytes
from medidiff.io.source import Source, check_end, open_stream, read_into, skip
from medidiff.volume import Modality

_CHUNK_BYTES = 1 << 23

# Hounsfield units of air; no MR value is there by chance in a good part of the voxels.
_AIR_HU = (-1100.0, -700.0)


# From below a light microscope to beyond a person.
_SPACING_MM = (1e-5, 1e4)


@dataclass(frozen=True, slots=True)
class Declared:
    """What a header claims, in the same words for every format.

    Args:
        info: What ``probe`` hands on.
        sizes: Sizes of the stored axes, the fastest first.
        dtype: Stored numbers, with byte order.
        frame_axis: Which stored axis counts frames; None for a single frame.
        data_path: The file that holds the voxels, perhaps not the one with the header.
        start: Where the (compressed) content begins in that file, bytes on disk.
        offset: Where the voxels begin in the uncompressed content.
        compression: How that content is compressed: ``""``, ``"gzip"`` or ``"bzip2"``.
    """

    info: VolumeInfo
    sizes: tuple[int, ...]
    dtype: np.dtype[Any]
    frame_axis: int | None
    data_path: Path
    start: int
    offset: int
    compression: str

    @property
    def stored_bytes(self) -> int:
        return math.prod(self.sizes) * self.dtype.itemsize


def spatial_geometry(affine: NDArray[Any], shape: tuple[int, int, int], path: Path) -> Geometry:
    """A geometry for an image grid, with the file named in the error.

    Raises:
        GeometryError: the affine or shape is impossible, or the voxel axes are not at right angles.
    """
    try:
        geometry = Geometry(affine, shape)
    except GeometryError as error:
        raise GeometryError(f"{path}: {error}; its header must be repaired before it can be used") from error
    if not all(_SPACING_MM[0] < step < _SPACING_MM[1] for step in geometry.spacing):
        raise GeometryError(f"{path}: a spacing of {geometry.spacing} mm is impossible; its header must be repaired")
    if not geometry.shear < SHEAR_TOLERANCE:
        raise GeometryError(
            f"{path}: the voxel axes are not at right angles (largest cosine {geometry.shear:.3g}, "
            f"at most {SHEAR_TOLERANCE:g} is accepted); resample it onto an orthogonal grid first"
        )
    return geometry


def check_volume_sizes(shape: tuple[int, ...], path: Path) -> None:
    """Refuse single images.

    Raises:
        InputError: fewer than three axes, or an axis with one voxel only.
    """
    if len(shape) < 3 or min(shape[:3]) < 2:
        sizes = " x ".join(str(n) for n in shape)
        raise InputError(
            f"{path} is a single image ({sizes}); a volume with at least two voxels along each axis was expected"
        )


def check_stored_type(dtype: np.dtype[Any], path: Path) -> None:
    """Refuse numbers that are no intensities.

    Raises:
        InputError: colours, complex numbers, or a type that is not numeric.
    """
    if dtype.fields is not None or dtype.kind == "V":
        raise InputError(f"{path} holds colours (RGB), not intensities; convert it to one grey channel first")
    if dtype.kind == "c":
        raise InputError(f"{path} holds complex numbers; write its magnitude to a file first")
    if dtype.kind not in "iuf":
        raise InputError(f"{path} holds values of type {dtype}, which are no intensities")


def read_declared(declared: Declared, source: Source, budget: int | None) -> NDArray[np.float32]:
    """The voxels in physical units, shape (c, i, j, k), float32.

    Memory: the result and a chunk of a few MiB.

    Raises:
        BudgetError: the volume is larger than the budget.
        InputError: the file is shorter than its header says, damaged, or holds numbers beyond float32.
    """
    path = declared.data_path
    check_size(declared, source)
    check_budget(declared.info.bytes_needed + _CHUNK_BYTES * 3, path, budget)
    flat = np.empty(math.prod(declared.sizes), np.float32)
    with open_stream(path, start=declared.start, compression=declared.compression) as stream:
        skip(stream, declared.offset, path)
        _fill(flat, stream, declared)
        if declared.compression:
            check_end(stream, path)
    stored = flat.reshape(declared.sizes, order="F")
    if declared.frame_axis is None:
        return stored[None]
    return np.moveaxis(stored, declared.frame_axis, 0)


def check_size(declared: Declared, source: Source) -> None:
    """Hold the declared size against the file.

    Raises:
        InputError: the file cannot hold what its header declares.
    """
    most = source.most_bytes(declared.start, declared.compression)
    if declared.offset + declared.stored_bytes > most:
        sizes = " x ".join(str(n) for n in declared.sizes)
        raise InputError(
            f"{declared.data_path} is cut short or its header is wrong: it declares {sizes} voxels of "
            f"{declared.dtype.name} ({human_bytes(declared.stored_bytes)} from byte {declared.offset}), "
            f"the file cannot hold more than {human_bytes(most)}; copy it again"
        )


def guess_modality(data: NDArray[Any], stated: Modality) -> Modality:
    """CT if a good part of the voxels has the Hounsfield units of air; else what the header stated."""
    if stated is not Modality.MR:
        return stated
    sample = data[..., :: max(1, data.shape[-1] // 16)]
    low, high = _AIR_HU
    with np.errstate(invalid="ignore"):
        air = np.count_nonzero((sample >= low) & (sample <= high))
    return Modality.CT if air > 0.02 * sample.size else stated


def _fill(flat: NDArray[np.float32], stream: IO[bytes], declared: Declared) -> None:
    count = max(1, _CHUNK_BYTES // declared.dtype.itemsize)
    chunk = np.empty(min(count, flat.size), declared.dtype)
    buffer = chunk.view(np.uint8).data
    for begin in range(0, flat.size, count):
        size = min(count, flat.size - begin)
        wanted = size * declared.dtype.itemsize
        got = read_into(stream, buffer[:wanted], declared.data_path)
        if got < wanted:
            have = begin * declared.dtype.itemsize + got
            raise InputError(
                f"{declared.data_path} is cut short: {have} of {declared.stored_bytes} bytes of voxels are there; "
                "copy it again"
            )
        with np.errstate(invalid="ignore"):  # a signalling NaN becomes a quiet one
            flat[begin : begin + size] = _physical(chunk[:size], declared.info.scaling, declared.data_path)


def _physical(stored: NDArray[Any], scaling: IntensityScaling, path: Path) -> NDArray[Any]:
    """Stored numbers as physical values; the arithmetic is in float64, so that large integers keep their digits."""
    if scaling.is_identity and stored.dtype.itemsize <= 4:
        return stored
    values = stored.astype(np.float64)
    if not scaling.is_identity:
        with np.errstate(over="ignore", invalid="ignore"):
            values = values * scaling.slope + scaling.intercept
    finite = np.isfinite(values) if stored.dtype.kind != "f" else np.isfinite(stored)
    if np.abs(values, where=finite, out=np.zeros_like(values)).max(initial=0.0) > np.finfo(np.float32).max:
        raise InputError(f"{path} holds values beyond 3.4e38, the end of single precision; rescale it first")
    return values
