"""Reading, probing and writing volumes of any format."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from medidiff.errors import InputError, TargetError
from medidiff.io import formats
from medidiff.io.declared import check_size, guess_modality, read_declared
from medidiff.io.info import VolumeInfo
from medidiff.io.source import exists
from medidiff.volume import Volume


def probe(path: str | os.PathLike[str]) -> VolumeInfo:
    """What a file or DICOM folder holds, from its header alone; no voxel is read.

    Raises:
        InputError: it is no volume, or its header is damaged or promises more than the file can hold.
        GeometryError: its grid cannot be used.
    """
    where = Path(path)
    if formats.is_dicom(where):
        from medidiff.io import dicom

        return dicom.probe_series(where)
    declared, source = formats.declare(where)
    check_size(declared, source)
    return declared.info


def read_volume(path: str | os.PathLike[str], *, budget: int | None = None) -> Volume:
    """Read a scan: NIfTI, MGH/MGZ, NRRD, or a DICOM file or folder.

    Args:
        path: The file or folder. Its name does not matter, its content does.
        budget: Most bytes the volume may take in memory; by default half of what is free, at most 16 GiB.
    Returns:
        The volume in physical units, float32, shape (c, i, j, k), on the grid the file has.
    Raises:
        BudgetError: the volume is larger than the budget; nothing was allocated.
        GeometryError: its grid cannot be used.
        InputError: it is no volume, or it is damaged.
    """
    where = Path(path)
    if formats.is_dicom(where):
        from medidiff.io import dicom

        return dicom.read_series(where, policy=dicom.ReadPolicy(budget=budget))
    declared, source = formats.declare(where)
    data = read_declared(declared, source, budget)
    return Volume(data, declared.info.geometry, guess_modality(data, declared.info.modality))


def write_volume(
    volume: Volume,
    path: str | os.PathLike[str],
    *,
    dtype: DTypeLike = np.float32,
    frame_step: float | None = None,
    source: str | os.PathLike[str] | None = None,
) -> Path:
    """Write a scan; the format follows from the name: .nii, .nii.gz, .mgh, .mgz, .nrrd.

    The same volume gives the same bytes every time. The file appears whole or not at all.

    Args:
        volume: What to write.
        path: Where to; an older file is replaced.
        dtype: Stored type. Integers that fit are stored as they are; else NIfTI gets a scaling, and the other
            formats, which have none, refuse.
        frame_step: Time between frames, s.
        source: The file that the volume was made from, which is never overwritten.
    Returns:
        The path written.
    Raises:
        TargetError: ``path`` has an unknown suffix, or is ``source``.
        OutputError: no permission, no room, or values that ``dtype`` cannot hold.
    """
    target = Path(path)
    if source is not None and exists(target) and exists(Path(source)) and target.samefile(source):
        raise TargetError(f"cannot write {target}: it is the input; choose another name")
    formats.writer_for(target)(volume, target, np.dtype(dtype).newbyteorder("="), frame_step)
    return target


def check_restorable(volume: Volume, path: str | os.PathLike[str]) -> None:
    """Refuse a scan in which there is nothing to restore.

    Raises:
        InputError: a frame has no finite value, has values that are not finite, or is constant.
    """
    frames = volume.data.shape[0]
    for index, frame in enumerate(volume.data):
        where = f"{path}" if frames == 1 else f"{path}, frame {index + 1} of {frames},"
        _check_frame(frame, where)


def _check_frame(frame: Any, where: str) -> None:
    finite = np.isfinite(frame)
    bad = frame.size - int(np.count_nonzero(finite))
    if bad == frame.size:
        raise InputError(f"{where} has no finite value: every voxel is NaN or infinite")
    if bad:
        some = f"{bad} of its {frame.size} voxels, which {'is' if bad == 1 else 'are'}"
        raise InputError(f"{where} has {some} NaN or infinite; replace {'it' if bad == 1 else 'them'} first")
    if frame.min() == frame.max():
        raise InputError(f"{where} is constant (every voxel is {frame.flat[0]:g}); there is nothing to restore")
