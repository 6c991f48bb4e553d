"""Bootstrap intervals: how much a score would move with another draw of the units it was measured on.

The unit decides what the interval says. Blocks of one head speak of *that head's* anatomy; they say nothing about
another person or scanner. Across people the person is the unit, never the voxel and never the block.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medidiff.errors import InputError

Array = NDArray[Any]
Statistic = Callable[[Array], Array]


@dataclass(frozen=True, slots=True)
class Interval:
    """A value with a percentile bootstrap interval over ``count`` units."""

    value: float
    low: float
    high: float
    count: int
    unit: str
    level: float

    def __str__(self) -> str:
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


def bootstrap(
    sums: Array, statistic: Statistic, *, seed: int, unit: str, draws: int = 2000, level: float = 0.95
) -> Interval:
    """Percentile bootstrap of a statistic of sums over units.

    Args:
        sums: What each unit adds, shape (units, parts): squared errors, counts, scores.
        statistic: Total sums, shape (..., parts), to values, shape (...).
        seed: Seed of the draws.
        unit: What a unit is, kept with the result: "block", "person".
        draws: Number of resamples.
        level: Coverage, e.g. 0.95.
    Raises:
        InputError: fewer than two units: no interval can be given.
    Source: Efron & Tibshirani (1993), An Introduction to the Bootstrap, section 13.3.
    """
    sums = np.asarray(sums, dtype=np.float64)
    if sums.ndim != 2 or len(sums) < 2:
        raise InputError(f"a bootstrap needs at least two units as rows, got an array of {sums.shape}")
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(len(sums), np.full(len(sums), 1 / len(sums)), size=draws)
    resampled = statistic(counts @ sums)
    low, high = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(statistic(sums.sum(axis=0))), float(low), float(high), len(sums), unit, level)


def block_sums(maps: list[Array], mask: Array, edge: int = 24) -> Array:
    """Sums of maps inside the mask over cubic blocks, and the number of voxels counted: shape (blocks, maps + 1).

    Args:
        maps: Maps of shape (i, j, k), e.g. squared errors of two methods.
        mask: True = counts.
        edge: Edge of a block in voxels; errors must be uncorrelated beyond it, or intervals come out too narrow.
    """
    inside = np.asarray(mask, dtype=bool)
    index = [np.arange(n) // edge for n in inside.shape]
    width = [int(i[-1]) + 1 for i in index]
    block = (index[0][:, None, None] * width[1] + index[1][:, None]) * width[2] + index[2]
    label = block[inside]
    size = int(np.prod(width))
    columns = [np.bincount(label, weights=np.asarray(m, dtype=np.float64)[inside], minlength=size) for m in maps]
    columns.append(np.bincount(label, minlength=size).astype(np.float64))
    table = np.stack(columns, axis=1)
    return np.asarray(table[table[:, -1] > 0])


def psnr_interval(
    estimate: Array, truth: Array, *, data_range: float, mask: Array, seed: int, edge: int = 24
) -> Interval:
    """PSNR (dB) with a bootstrap interval over blocks of one volume."""
    table = block_sums([(np.asarray(estimate, dtype=np.float64) - truth) ** 2], mask, edge)
    return bootstrap(
        table, lambda s: 10 * np.log10(data_range**2 * s[..., 1] / s[..., 0]), seed=seed, unit=f"{edge}-voxel block"
    )


def gain_interval(estimate: Array, rival: Array, truth: Array, *, mask: Array, seed: int, edge: int = 24) -> Interval:
    """PSNR of the estimate minus PSNR of a rival (dB), paired block by block: far narrower than two intervals."""
    errors = [(np.asarray(x, dtype=np.float64) - truth) ** 2 for x in (estimate, rival)]
    return bootstrap(
        block_sums(errors, mask, edge), lambda s: 10 * np.log10(s[..., 1] / s[..., 0]), seed=seed,
        unit=f"{edge}-voxel block",
    )  # fmt: skip
