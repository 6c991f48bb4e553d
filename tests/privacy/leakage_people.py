"""People made of noise: each has a fine structure of his own on a shape that all share. Quick, and nobody's."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

SHAPE = (24, 28, 24)


def textures(count: int, seed: int, shape: tuple[int, int, int] = SHAPE) -> NDArray[Any]:
    """Volumes of different people, shape (count, i, j, k), float32, positive."""
    grid = np.stack(np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij"))
    common = np.exp(-(grid**2).sum(0)) + 0.3 * grid[0]
    found = []
    for number in range(count):
        rng = np.random.default_rng([seed, number])
        own = sum(
            weight * _unit(ndimage.gaussian_filter(rng.normal(size=shape), width))
            for width, weight in ((0.8, 0.1), (1.6, 0.2), (3.0, 0.2))
        )
        found.append(4 + common + own)
    return np.stack(found).astype(np.float32)


def _unit(values: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(values / values.std())
