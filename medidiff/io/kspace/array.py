"""A bare NumPy array of k-space, coils first, as sigpy and many laboratories keep it."""

from __future__ import annotations

import math
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np

from medidiff.errors import InputError
from medidiff.io.kspace.ismrmrd import MOST_COILS
from medidiff.io.kspace.model import ASSUMED_AXES, Array, KSpaceInfo, RawKSpace, check_samples, display_geometry, whole
from medidiff.io.kspace.reduce import centred, energy_along, peak
from medidiff.io.safety import check_budget, human_bytes

MAGIC = b"\x93NUMPY"
SHAPES = "(i, j), (coils, i, j) or (coils, i, j, k)"


def probe(path: Path) -> KSpaceInfo:
    """What the array holds. Whether a third axis counts slices or phase encodes is seen from one coil's energy.

    Raises:
        InputError: it is no complex array of a shape that k-space has.
    """
    samples = _open(path)
    return _info(samples, [peak(energy_along(samples[0], axis)) for axis in range(3)], path)


def read(path: Path, budget: int | None = None) -> RawKSpace:
    """Read the samples; what is exactly zero in every coil was not taken.

    Raises:
        BudgetError: they would not fit into memory.
        InputError: see ``probe``.
    """
    samples = _open(path)
    check_budget(3 * math.prod(samples.shape) * 8, path, budget)
    places = [peak(energy_along(samples[0], axis)) for axis in range(3)]
    info = _info(samples, places, path)
    data = np.array(samples, dtype=np.complex64)
    check_samples(data, path)
    mask = (data != 0).any(axis=0)
    if not mask.any():
        raise InputError(f"{path} holds no sample: all are zero")
    for axis in info.encoded:
        if places[axis] == "corner":
            data = centred(data, axis + 1)
            mask = np.fft.fftshift(mask, axes=axis)
    return RawKSpace(info, data[None], mask[None])


def _open(path: Path) -> Array:
    """The array on disk, shape (coils, i, j, k); nothing is unpickled and nothing read yet."""
    try:
        stored: Any = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError, SyntaxError, TypeError, OverflowError, MemoryError, TokenError) as error:
        raise InputError(f"{path} is a damaged NumPy file, or holds Python objects ({type(error).__name__})") from error
    if not isinstance(stored, np.ndarray) or stored.dtype.kind != "c":
        kind = getattr(stored, "dtype", "an archive")
        raise InputError(f"{path} holds {kind}; k-space is complex: an array of shape {SHAPES}")
    if stored.ndim not in (2, 3, 4):
        raise InputError(f"{path} holds an array of shape {stored.shape}; k-space is {SHAPES}")
    samples = stored[None] if stored.ndim == 2 else stored
    samples = samples[..., None] if samples.ndim == 3 else samples
    if min(samples.shape[1:3]) < 8 or not 1 <= samples.shape[0] <= MOST_COILS:
        raise InputError(f"{path} holds an array of shape {stored.shape}; k-space is {SHAPES}, with coils first")
    return samples


def _info(samples: Array, places: list[str], path: Path) -> KSpaceInfo:
    coils, i, j, k = samples.shape
    # Next to nothing under-samples a slice axis: energy gathers at one place only along axes in k-space.
    encoded = (0, 1, 2) if places[2] != "spread" else (0, 1)
    if "spread" in places[:2]:
        raise InputError(
            f"{path}: the energy of the samples gathers neither in the middle nor in the corner of the first two axes "
            f"after the coils, as k-space does; expected {SHAPES} ({human_bytes(samples.nbytes)} are there)"
        )
    words = [f"NumPy raw data: {coils} coil{'s' if coils > 1 else ''}, {i} x {j} samples"]
    words[0] += f", {k} {'phase encodes' if len(encoded) == 3 else 'slices'}." if k > 1 else "."
    if "corner" in [places[axis] for axis in encoded]:
        words.append("Frequency zero comes first in the array; it is moved to the middle.")
    warnings = (ASSUMED_AXES, "A bare array says nothing of millimetres: voxels of 1 mm are assumed.")
    geometry = display_geometry((i, j, k), (1.0, 1.0, 1.0))
    return KSpaceInfo("NumPy", geometry, geometry, whole((i, j, k)), coils, 1, encoded, tuple(words), warnings)
