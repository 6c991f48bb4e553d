"""One door for raw k-space: ISMRMRD, fastMRI's HDF5 and NumPy arrays, told apart by their content."""

from __future__ import annotations

import os
import re
from importlib import import_module
from pathlib import Path

from medidiff.errors import InputError
from medidiff.io.kspace.hdf5 import MAGIC as HDF5_MAGIC
from medidiff.io.kspace.hdf5 import group_of, open_hdf5
from medidiff.io.kspace.model import KSpaceInfo, RawKSpace
from medidiff.io.source import is_folder, open_source

__all__ = ["KSpaceInfo", "RawKSpace", "is_kspace", "probe_kspace", "read_kspace"]

NUMPY_MAGIC = b"\x93NUMPY"


def is_kspace(path: str | os.PathLike[str]) -> bool:
    """Whether a file is raw k-space by its content: an HDF5 file with ISMRMRD profiles or ``kspace``, or complex NumPy.

    Raises:
        InputError: there is no such file, or it cannot be opened.
    """
    where = Path(path)
    if is_folder(where):
        return False
    return _reader(where) is not None


def probe_kspace(path: str | os.PathLike[str]) -> KSpaceInfo:
    """What a raw-data file holds, from its header.

    Raises:
        InputError: it is no k-space, or of a kind that cannot be reconstructed here; the message says why.
        ConfigError: the extra ``kspace`` is not installed.
    """
    return _known(Path(path)).probe(Path(path))


def read_kspace(path: str | os.PathLike[str], *, budget: int | None = None) -> RawKSpace:
    """Read raw data onto a Cartesian grid.

    Args:
        path: The file. Its name does not matter, its content does.
        budget: Most bytes that the samples may take; by default half of what is free, at most 16 GiB.
    Raises:
        BudgetError: they would not fit; nothing was allocated.
        InputError: see ``probe_kspace``.
    """
    return _known(Path(path)).read(Path(path), budget)


class _Reader:
    """A format: how its header and its samples are read."""

    def __init__(self, module: str) -> None:
        self.module = module

    def probe(self, path: Path) -> KSpaceInfo:
        found: KSpaceInfo = import_module(self.module).probe(path)
        return found

    def read(self, path: Path, budget: int | None) -> RawKSpace:
        found: RawKSpace = import_module(self.module).read(path, budget)
        return found


ISMRMRD, FASTMRI, NUMPY = (_Reader(f"{__name__}.{name}") for name in ("ismrmrd", "fastmri", "array"))


def _reader(path: Path) -> _Reader | None:
    head = open_source(path).head
    if head.startswith(HDF5_MAGIC):
        with open_hdf5(path) as file:
            if group_of(file, path) is not None:
                return ISMRMRD
            return FASTMRI if "kspace" in file else None
    # A NumPy header is ASCII; complex types are written 'c8' and 'c16', structured ones are no k-space.
    if head.startswith(NUMPY_MAGIC) and re.search(rb"'descr':\s*'[<>=|]c(8|16)'", head[:512]):
        return NUMPY
    return None


def _known(path: Path) -> _Reader:
    reader = _reader(path)
    if reader is None:
        raise InputError(
            f"{path} is no raw k-space: expected ISMRMRD or fastMRI HDF5, or a complex NumPy array (coils first)"
        )
    return reader
