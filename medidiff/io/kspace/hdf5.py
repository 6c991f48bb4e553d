"""Opening HDF5 files that nobody has vouched for: data in this very file, of a size that the file can hold."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from medidiff.errors import ConfigError, InputError
from medidiff.io.safety import DEFLATE_RATIO, human_bytes

MAGIC = b"\x89HDF\r\n\x1a\n"
# What h5py raises on damaged files; it has no exception of its own.
DAMAGE = (
    OSError, KeyError, ValueError, TypeError, RuntimeError, IndexError, AttributeError, OverflowError, MemoryError,
    NotImplementedError, UnicodeError,
)  # fmt: skip
# Filters that the library itself brings; others would load code that the file names.
_FILTERS = {"1", "2", "3", "4", "6", "32000"}  # deflate, shuffle, fletcher32, szip, scale-offset, lzf
NEEDS = "raw k-space needs h5py: pip install 'medidiff[kspace]'"


def library() -> Any:
    """The h5py module.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        import h5py
    except ImportError as error:
        raise ConfigError(NEEDS) from error
    return h5py


@contextmanager
def open_hdf5(path: Path) -> Iterator[Any]:
    """An HDF5 file to read; what the library raises on damage becomes one error.

    Raises:
        InputError: it is no HDF5 file, or damaged.
        ConfigError: h5py is not installed.
    """
    h5py = library()
    try:
        # No lock file or lock: a scan may lie on a medium that cannot be written.
        with h5py.File(path, "r", locking=False) as file:
            yield file
    except InputError:
        raise
    except DAMAGE as error:
        raise InputError(f"{path} is a damaged HDF5 file ({type(error).__name__}); copy it again") from error


def find(parent: Any, name: str, path: Path) -> Any | None:
    """A member that lies in this file itself; None if there is none.

    Raises:
        InputError: it points into another file.
    """
    link = parent.get(name, getlink=True)
    if link is None:
        return None
    if type(link).__name__ != "HardLink":
        # A link may name any file that this user can read.
        raise InputError(f"{path}: {name} is a link to somewhere else; copy the data into the file")
    return parent[name]


def group_of(file: Any, path: Path) -> Any | None:
    """The group that holds an ISMRMRD data set, usually ``/dataset``; None if there is none."""
    for name in sorted(file, key=lambda name: name != "dataset")[:16]:
        group = find(file, name, path)
        if group is not None and hasattr(group, "keys") and {"xml", "data"} <= set(group.keys()):
            return group
    return None


def check_dataset(dataset: Any, path: Path) -> None:
    """Refuse data that lie in other files, need foreign code, or promise more than the file can hold.

    Raises:
        InputError: see above.
    """
    name = str(dataset.name)
    properties = dataset.id.get_create_plist()
    if dataset.is_virtual or properties.get_external_count():
        raise InputError(f"{path}: {name} lies in other files; copy the data into this one")
    filters = {str(properties.get_filter(n)[0]) for n in range(properties.get_nfilters())}
    if not filters <= _FILTERS:
        raise InputError(f"{path}: {name} is compressed by a filter ({', '.join(sorted(filters))}) that is not trusted")
    promised = math.prod(dataset.shape) * dataset.dtype.itemsize
    stored = dataset.id.get_storage_size() * (DEFLATE_RATIO if filters else 1)
    if promised > stored:
        raise InputError(
            f"{path} promises {human_bytes(promised)} in {name} and holds {human_bytes(dataset.id.get_storage_size())}:"
            " it is cut short or was never filled"
        )


def read_bytes(dataset: Any, path: Path, limit: int) -> bytes:
    """A scalar or one-element string.

    Raises:
        InputError: it is no single string, or longer than ``limit``.
    """
    if math.prod(dataset.shape) != 1:
        raise InputError(f"{path}: {dataset.name} should hold one text, and holds {math.prod(dataset.shape)}")
    if dataset.dtype.kind not in "OSU" or dataset.dtype.itemsize > limit:
        raise InputError(f"{path}: {dataset.name} is no text")
    value = dataset[()]
    if getattr(value, "shape", ()):
        value = value.reshape(-1)[0]
    data = value.encode("utf-8", "replace") if isinstance(value, str) else value
    if not isinstance(data, bytes):
        raise InputError(f"{path}: {dataset.name} is no text")
    if len(data) > limit:
        raise InputError(f"{path}: {dataset.name} is longer than {human_bytes(limit)}")
    return data
