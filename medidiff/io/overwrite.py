"""A copy of a scan's file in which some voxels have other values, and nothing else is different.

Reading a scan and writing it again keeps its values, but not its bytes: the stored type, the scaling and the fields of
the header are decided anew. Where a few voxels change and the rest is a person's scan, that is not good enough.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medidiff.errors import GeometryError, InputError
from medidiff.io import formats
from medidiff.io.declared import Declared, check_size
from medidiff.io.safety import check_budget
from medidiff.io.source import open_source, open_stream, read_up_to
from medidiff.io.writers import open_output

Array = NDArray[Any]

# Where the 80 bytes of text are in a header, by format.
_DESCRIP = {"nifti1": slice(148, 228), "nifti2": slice(240, 320)}


def can_overwrite(path: Path) -> bool:
    """Whether the file is of a kind that ``overwrite`` copies: NIfTI with header and voxels in one file."""
    if formats.is_dicom(path):
        return False
    declared, _ = formats.declare(path)
    return declared.info.format in _DESCRIP and declared.data_path == path and declared.info.frames == 1


def overwrite(source: Path, target: Path, where: Array, values: Array, *, description: str) -> Path:
    """Copy a NIfTI file, with other values in some voxels and another text in its header.

    Every byte of the header but its description, every extension, and the stored number of every other voxel stay as
    they are. New values are rounded to the stored type and scaling, and cut off where that ends.

    Args:
        source: A file for which ``can_overwrite`` holds.
        target: Where to write; packed if its name ends in .gz.
        where: True where a voxel gets another value, shape (i, j, k), on the grid the file has.
        values: Physical units, shape (i, j, k); read where ``where`` is True.
        description: At most 79 characters for the header.
    Raises:
        InputError: the file is damaged or of another kind.
        BudgetError: it is too large.
        GeometryError: ``where`` or ``values`` do not fit its grid.
        OutputError: the target cannot be written.
    """
    declared, file = formats.declare(source)
    if not can_overwrite(source):
        raise InputError(f"{source}: only NIfTI with one frame, in one file, is copied byte for byte")
    shape = declared.info.geometry.shape
    if where.shape != shape or values.shape != shape:
        raise GeometryError(f"{source} has {shape} voxels, what is to be written {where.shape} and {values.shape}")
    check_size(declared, file)
    content = _content(declared, source)
    stored = np.frombuffer(content, declared.dtype, int(np.prod(shape)), declared.offset).reshape(shape, order="F")
    stored[where] = _as_stored(values[where], declared)
    text = description.encode("ascii", "replace")[:79]
    content[_DESCRIP[declared.info.format]] = text.ljust(80, b"\0")
    with open_output(target) as stream:
        stream.write(content)
    return target


def _content(declared: Declared, path: Path) -> bytearray:
    """The unpacked file up to its last voxel."""
    wanted = declared.offset + declared.stored_bytes
    # Once as bytes and once as an array of bytes that can be written into.
    check_budget(2 * wanted, path)
    compression = open_source(path).compression
    with open_stream(path, compression=compression) as stream:
        content = read_up_to(stream, wanted, path)
    if len(content) < wanted:
        raise InputError(f"{path} is cut short: {wanted} bytes were declared, {len(content)} are there; copy it again")
    return bytearray(content)


def _as_stored(values: Array, declared: Declared) -> Array:
    scaling = declared.info.scaling
    numbers = (values.astype(np.float64) - scaling.intercept) / scaling.slope
    dtype = declared.dtype
    if dtype.kind == "f":
        limits: Any = np.finfo(dtype)
        return np.asarray(np.clip(numbers, limits.min, limits.max).astype(dtype))
    limits = np.iinfo(dtype)
    # In float64 the largest 64-bit integer rounds up to one that no longer fits.
    most = np.nextafter(float(limits.max), 0.0) if dtype.itemsize == 8 else float(limits.max)
    return np.asarray(np.clip(np.rint(numbers), float(limits.min), most).astype(dtype))
