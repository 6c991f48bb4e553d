"""FreeSurfer's MGH and MGZ."""

from __future__ import annotations

import math
import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medidiff.errors import InputError
from medidiff.io.declared import Declared, check_volume_sizes, spatial_geometry
from medidiff.io.info import VolumeInfo
from medidiff.io.source import Source, open_stream, read_up_to, skip

DATA_OFFSET = 284
_TYPES = {0: ">u1", 1: ">i4", 3: ">f4", 4: ">i2", 10: ">u2"}
_MOST_TYPES = 16
# Version, four sizes, type, degrees of freedom, flag; then spacing, cosines and the centre.
_HEADER = struct.Struct(">7ih15f")
# Coronal slices: what FreeSurfer assumes where the flag says that the header has no orientation.
_CORONAL = np.array([[-1.0, 0.0, 0.0], [0.0, 0.0, 1.0], [0.0, -1.0, 0.0]])


def recognises(head: bytes) -> bool:
    """Whether the content begins as an MGH header does: version 1 and a plausible type."""
    if len(head) < DATA_OFFSET:
        return False
    version, type_code = (int.from_bytes(head[at : at + 4], "big") for at in (0, 20))
    return version == 1 and type_code < _MOST_TYPES


def declare(source: Source) -> Declared:
    """What the header claims.

    Raises:
        InputError: the header is damaged, or describes something that is no 3D scan.
        GeometryError: the grid cannot be used.
    """
    _, *dims, type_code, _, good_ras = _HEADER.unpack_from(source.head)[:8]
    if type_code not in _TYPES:
        raise InputError(
            f"{source.path} holds MGH data of type code {type_code}; uchar, short, int or float was expected"
        )
    if min(dims) < 1:
        raise InputError(f"{source.path} has a damaged MGH header: sizes {dims} must all be positive")
    check_volume_sizes(tuple(dims[:3]), source.path)
    dtype = np.dtype(_TYPES[type_code])
    affine = _affine(source.head, dims[:3], good_ras > 0)
    geometry = spatial_geometry(affine, (dims[0], dims[1], dims[2]), source.path)
    notes = () if good_ras > 0 else ("the header has no orientation (goodRASFlag is 0): coronal slices are a guess",)
    frames = dims[3]
    voxels = math.prod(dims) * dtype.itemsize
    info = VolumeInfo(
        format="mgh",
        geometry=geometry,
        frames=frames,
        dtype=dtype.name,
        frame_step=_frame_step(source, voxels) if frames > 1 else None,
        notes=notes,
    )
    return Declared(
        info=info,
        sizes=tuple(dims),
        dtype=dtype,
        frame_axis=3,
        data_path=source.path,
        start=0,
        offset=DATA_OFFSET,
        compression=source.compression,
    )


def _affine(head: bytes, dims: list[int], good_ras: bool) -> NDArray[Any]:
    """Voxel to RAS: the header gives the position of voxel ``dims / 2``, cosines and spacing apart."""
    values = np.array(_HEADER.unpack_from(head)[8:], dtype=np.float64)
    spacing, cosines, centre = values[:3], values[3:12].reshape(3, 3).T, values[12:]
    if not good_ras:
        spacing, cosines, centre = np.ones(3), _CORONAL.T, np.zeros(3)
    affine = np.eye(4)
    affine[:3, :3] = cosines * spacing
    affine[:3, 3] = centre - affine[:3, :3] @ (np.array(dims) / 2)
    return affine


def _frame_step(source: Source, voxels: int) -> float | None:
    """Repetition time in s; it stands after the voxels, and many files leave it out."""
    if DATA_OFFSET + voxels > source.most_bytes():
        return None
    try:
        with open_stream(source.path, compression=source.compression) as stream:
            skip(stream, DATA_OFFSET + voxels, source.path)
            tail = read_up_to(stream, 4, source.path)
    except InputError:  # reading the voxels will say what is wrong
        return None
    step = struct.unpack(">f", tail)[0] / 1000 if len(tail) == 4 else 0.0
    return step if math.isfinite(step) and step > 0 else None
