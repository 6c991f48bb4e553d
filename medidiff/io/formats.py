"""The registry of formats: which content belongs to which reader, which name to which writer."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from medidiff.errors import InputError, OutputError
from medidiff.io import nifti
from medidiff.io.declared import Declared
from medidiff.io.source import Source, open_source
from medidiff.io.writers import write_nifti
from medidiff.volume import Volume

Writer = Callable[[Volume, Path, np.dtype[Any], float | None], None]

WRITERS: dict[str, Writer] = {".nii": write_nifti, ".nii.gz": write_nifti}


def is_dicom(path: Path) -> bool:
    """Whether this is a DICOM file, or a folder.

    Raises:
        InputError: it cannot be opened.
    """
    if path.is_dir():
        return True
    head = open_source(path).head
    return head[128:132] == b"DICM"


def declare(path: Path) -> tuple[Declared, Source]:
    """What the header claims, and the file that holds the voxels.

    Raises:
        InputError: no reader knows this content, or its header is damaged.
    """
    beside = nifti.header_beside(path)
    source = open_source(beside or path)
    if nifti.recognises(source.head):
        declared = nifti.declare(source)
    else:
        raise InputError(f"{path} is no volume that can be read: NIfTI, MGH/MGZ, NRRD or DICOM was expected")
    data = source if declared.data_path == source.path else open_source(declared.data_path)
    return declared, data


def writer_for(path: Path) -> Writer:
    """The writer that a file name asks for.

    Raises:
        OutputError: the suffix is unknown.
    """
    name = os.fspath(path).lower()
    for suffix in sorted(WRITERS, key=len, reverse=True):
        if name.endswith(suffix):
            return WRITERS[suffix]
    raise OutputError(f"cannot write {path}: the name must end in one of {', '.join(sorted(WRITERS))}")
