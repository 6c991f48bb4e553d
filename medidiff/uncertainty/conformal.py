"""Conformal risk control with the person as the unit: how far a map of half-widths must be stretched.

A voxel is missed where its error is larger than ``multiplier * scale``. The share of missed voxels of a person falls
as the multiplier grows, and persons (not voxels, which are neighbours of each other) are what is exchangeable. So the
smallest multiplier with ``n / (n + 1) * mean share + 1 / (n + 1) <= level`` keeps the *expected* share of a next
person at or below ``level``, whatever the scale is worth and whatever the errors are distributed like.

Source: Angelopoulos, Bates, Fisch, Lei & Schuster (2024), Conformal Risk Control, ICLR, theorem 1; for intervals on
images see Angelopoulos et al. (2022), Image-to-Image Regression with Distribution-Free Uncertainty Quantification.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medidiff.errors import InputError

Array = NDArray[Any]

# Multipliers that are tried: 2000 from a hundredth to ten thousand, 0.7% apart. What lies between two is rounded up.
GRID = np.geomspace(1e-2, 1e4, 2001)
# Without a scale nothing can be covered: a voxel of scale 0 is covered only where the error is 0 too.
SMALLEST_SCALE = 1e-12


def smallest_count(level: float) -> int:
    """Persons without whom no multiplier can be vouched for: ``(n + 1) * level >= 1``.

    Raises:
        InputError: the level is no share of voxels.
    """
    _check_level(level)
    return math.ceil(1 / level - 1 - 1e-9)


def missed_shares(error: Array, scale: Array) -> Array:
    """The share of voxels whose error is beyond ``multiplier * scale``, for every multiplier of ``GRID``.

    Args:
        error: Absolute or signed errors of one person, any shape.
        scale: Half-widths before stretching, same shape, not negative.
    Returns:
        Shares that never rise, shape ``GRID.shape``.
    Raises:
        InputError: shapes differ, nothing is there, or values are not finite or negative scales.
    """
    error, scale = np.abs(np.asarray(error, dtype=np.float64)).ravel(), np.asarray(scale, dtype=np.float64).ravel()
    if error.shape != scale.shape or error.size == 0:
        raise InputError(f"errors and scales must be as many, and at least one, got {error.size} and {scale.size}")
    if not (np.isfinite(error).all() and np.isfinite(scale).all() and (scale >= 0).all()):
        raise InputError("errors and scales must be finite, and scales not negative")
    ratios = np.sort(error / np.maximum(scale, SMALLEST_SCALE))
    return 1 - np.searchsorted(ratios, GRID, side="right") / error.size


def smallest_multiplier(shares: Sequence[Array], level: float) -> float | None:
    """The smallest multiplier of ``GRID`` that keeps the expected share of a next person at or below ``level``.

    Args:
        shares: ``missed_shares`` of each person; of one who was looked at several times, the mean.
        level: Share of voxels that may be missed, e.g. 0.1 for 90% intervals.
    Returns:
        None if there are too few persons, or if even the largest multiplier misses too much.
    """
    _check_level(level)
    count = len(shares)
    if count < smallest_count(level):
        return None
    bound = (np.sum(shares, axis=0) + 1) / (count + 1)
    kept = np.flatnonzero(bound <= level + 1e-12)
    return float(GRID[kept[0]]) if len(kept) else None


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise InputError(f"the share of voxels that may be missed lies between 0 and 1, got {level:g}")
