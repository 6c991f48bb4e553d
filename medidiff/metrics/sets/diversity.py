"""How alike the items of a set are to each other."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from medidiff.errors import InputError
from medidiff.metrics.intervals import Interval

Array = NDArray[Any]
# Wang et al. (2003) have five scales, which need more than 160 voxels a side. Crops have room for three. The finest
# has 1/20 of the weight, sees noise more than anatomy and costs ten times the others: two stay, their weights summing
# to one.
# The window has 7 voxels (3.5 sigma a side) instead of 11, so that it fits the coarser one.
WEIGHTS = (0.2856 / 0.5857, 0.3001 / 0.5857)
WINDOW, SIGMA = 7, 0.9
SMALLEST = 4 * WINDOW
_PAIRS_AT_ONCE = 32


def ms_ssim_pairs(images: Array, data_range: float = 1.0) -> Array:
    """MS-SSIM of every two of a set at half and quarter resolution, shape (n, n); 1 on the diagonal.

    Args:
        images: Model units, shape (n, 1, i, j, k), 28 voxels or more a side.
        data_range: Of the values; 1 in model units.
    Raises:
        InputError: fewer than two, or too small for the two scales.
    Source: Wang et al. (2003), by MONAI's MultiScaleSSIMMetric.
    """
    import torch
    from monai.metrics.regression import MultiScaleSSIMMetric

    if len(images) < 2 or images.ndim != 5 or min(images.shape[2:]) < SMALLEST:
        raise InputError(f"MS-SSIM of pairs needs two volumes of {SMALLEST} voxels a side, got {images.shape}")
    metric = MultiScaleSSIMMetric(
        3, data_range, kernel_size=WINDOW, kernel_sigma=SIGMA, weights=WEIGHTS, reduction="none"
    )
    tensor = torch.nn.functional.avg_pool3d(torch.from_numpy(np.ascontiguousarray(images, dtype=np.float32)), 2)
    first, second = np.triu_indices(len(images), 1)
    table = np.eye(len(images))
    for start in range(0, len(first), _PAIRS_AT_ONCE):
        a, b = (index[start : start + _PAIRS_AT_ONCE] for index in (first, second))
        table[a, b] = np.asarray(metric(tensor[a], tensor[b]), dtype=float)[:, 0]
    table[second, first] = table[first, second]
    return table


def mean_pair(table: Array, *, seed: int, draws: int = 1000, level: float = 0.95, unit: str = "item") -> Interval:
    """The mean over pairs of different items of a table (n, n), with a bootstrap over items, not over pairs.

    Pairs of an item with itself, which resamples have, are left out.
    """
    n = len(table)
    pairs = table - np.diag(np.diag(table))
    weights = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=draws).astype(float)
    counted = weights.sum(axis=1) ** 2 - (weights**2).sum(axis=1)
    some = counted > 0  # of a very small set a resample can hold one item alone, which has no pair
    drawn = ((weights @ pairs) * weights).sum(axis=1)[some] / counted[some]
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(pairs.sum() / (n * (n - 1))), float(low), float(high), n, unit, level)
