"""Cartesian sampling masks: which lines or points of a k-space plane are taken. Frequency zero is in the middle."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from medidiff.errors import ConfigError

Mask = NDArray[np.bool_]


def uniform_mask(shape: tuple[int, int], acceleration: int, *, axis: int = 0, centre: float = 0.08) -> Mask:
    """Every so many lines, and all lines near the centre (GRAPPA, SENSE with reference lines).

    Args:
        shape: Plane (i, j).
        acceleration: Distance of the lines outside the centre, at least 1.
        axis: Along which lines are left out: 0 or 1.
        centre: Share of the lines that is fully sampled in the middle.
    """
    _check(acceleration, axis, centre)
    lines = (np.arange(shape[axis]) - shape[axis] // 2) % acceleration == 0
    return _lines(lines | _middle(shape[axis], centre), shape, axis)


def random_mask(shape: tuple[int, int], acceleration: float, *, seed: int, axis: int = 0, centre: float = 0.08) -> Mask:
    """Random lines and a full centre, with ``1 / acceleration`` of all lines taken (fastMRI's random mask).

    Source: Zbontar et al. (2018), fastMRI: an open dataset and benchmarks for accelerated MRI, sec. 4.2.
    """
    _check(acceleration, axis, centre)
    n = shape[axis]
    lines = _middle(n, centre)
    wanted = max(0, round(n / acceleration) - int(lines.sum()))
    free = np.flatnonzero(~lines)
    lines[np.random.default_rng(seed).choice(free, min(wanted, len(free)), replace=False)] = True
    return _lines(lines, shape, axis)


def partial_fourier_mask(shape: tuple[int, int], fraction: float, *, axis: int = 0) -> Mask:
    """One side of k-space and a little of the other (half Fourier).

    Args:
        fraction: Share of the lines that is taken, more than half.
    """
    if not 0.5 < fraction <= 1:
        raise ConfigError(f"partial Fourier takes more than half of the lines and at most all, got {fraction:g}")
    _check(1, axis, 0)
    n = shape[axis]
    return _lines(np.arange(n) < round(fraction * n), shape, axis)


def poisson_mask(shape: tuple[int, int], acceleration: float, *, seed: int, calibration: int = 24) -> Mask:
    """Variable-density Poisson disc, for two phase-encoding directions; needs sigpy.

    Source: Bridson (2007), Fast Poisson disk sampling in arbitrary dimensions; sigpy's implementation.
    Raises:
        ConfigError: sigpy is not installed.
    """
    _check(acceleration, 0, 0)
    try:
        from sigpy.mri import poisson
    except ImportError as error:
        raise ConfigError("Poisson-disc sampling needs sigpy: pip install 'medidiff[kspace]'") from error
    mask: Any = poisson(shape, acceleration, calib=(calibration, calibration), seed=seed, dtype=np.float32)
    return np.asarray(mask) > 0


def _middle(n: int, centre: float) -> Mask:
    """All lines within ``centre`` of the full width about frequency zero, which is always among them."""
    return np.asarray(np.abs(np.arange(n) - n // 2) <= centre * n / 2)


def _lines(lines: Mask, shape: tuple[int, int], axis: int) -> Mask:
    return np.ascontiguousarray(np.broadcast_to(lines[:, None] if axis == 0 else lines[None, :], shape))


def _check(acceleration: float, axis: int, centre: float) -> None:
    if axis not in (0, 1):
        raise ConfigError(f"a plane has the axes 0 and 1, got {axis}")
    if not (1 <= acceleration < np.inf and 0 <= centre <= 1):
        raise ConfigError(
            f"acceleration is at least 1 and the centre between 0 and 1, got {acceleration:g} and {centre:g}"
        )
