"""Sizes and shapes of labelled structures, and how far two sets of them lie apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medidiff.errors import InputError
from medidiff.metrics.intervals import Interval

Array = NDArray[Any]
FEATURES = ("volume (mm3)", "surface (mm2)", "sphericity", "elongation")
# A structure of fewer voxels has no shape.
FEWEST_VOXELS = 8


def shape_features(labels: Array, values: Sequence[int], spacing: Sequence[float]) -> Array:
    """Size and shape of every structure of every label map.

    Args:
        labels: Whole numbers, shape (n, 1, i, j, k).
        values: Which structures.
        spacing: Of the voxels, mm.
    Returns:
        Shape (n, values, 4), the features as ``FEATURES`` names them; where there is no structure to speak of, all 0.
    """
    return np.stack([[_shape_of(label[0] == value, spacing) for value in values] for label in labels])


def _shape_of(mask: Array, spacing: Sequence[float]) -> Array:
    """Volume, surface, sphericity (1 is a ball), elongation (longest over second principal axis, 1 or more)."""
    from skimage.measure import marching_cubes, mesh_surface_area

    index = np.argwhere(mask)
    if len(index) < FEWEST_VOXELS:
        return np.zeros(len(FEATURES))
    volume = len(index) * float(np.prod(spacing))
    # With a border of air, so that the surface closes where the structure meets the image's edge.
    box = tuple(slice(low, high + 1) for low, high in zip(index.min(axis=0), index.max(axis=0), strict=True))
    vertices, faces, _, _ = marching_cubes(np.pad(mask[box], 1).astype(np.float32), 0.5, spacing=tuple(spacing))
    surface = float(mesh_surface_area(vertices, faces))
    sphericity = np.pi ** (1 / 3) * (6 * volume) ** (2 / 3) / surface
    axes = np.sqrt(np.clip(np.linalg.eigvalsh(np.cov((index * np.asarray(spacing)).T)), 1e-12, None))
    return np.array([volume, surface, sphericity, axes[2] / axes[1]])


def wasserstein(real: Array, fake: Array, spread: Array) -> Array:
    """Wasserstein distance of each feature, in standard deviations of real people: shape (...,).

    Args:
        real, fake: Shape (n, ...) and (m, ...).
        spread: Standard deviation of each feature over real people, shape (...,).
    Source: scipy.stats.wasserstein_distance.
    """
    from scipy.stats import wasserstein_distance

    if real.shape[1:] != fake.shape[1:] or not len(real) or not len(fake):
        raise InputError(f"two sets of the same features, got {real.shape} and {fake.shape}")
    columns = [array.reshape(len(array), -1).T for array in (real, fake)]
    found = [wasserstein_distance(r, f) for r, f in zip(*columns, strict=True)]
    # Where real people hardly differ, a thousandth of the size itself is the unit: else rounding would be a distance.
    unit = np.maximum(spread, 1e-3 * np.abs(real).mean(axis=0))
    return np.asarray(found).reshape(real.shape[1:]) / np.where(unit > 0, unit, 1.0)


def wasserstein_interval(
    real: Array,
    fake: Array,
    spread: Array,
    *,
    seed: int,
    draws: int = 500,
    level: float = 0.95,
    unit: str = "item",
) -> Interval:
    """The mean of ``wasserstein`` over all features, with a bootstrap over both sets.

    A resampled set lies farther from another one than the set itself does, for it has fewer different members; the
    excess, known from resampling against itself, is taken off, so that the interval lies about the value.
    """
    rng = np.random.default_rng(seed)
    value = float(wasserstein(real, fake, spread).mean())
    drawn = np.array(
        [
            wasserstein(_resampled(real, rng), _resampled(fake, rng), spread).mean() - value
            for _ in range(draws)
        ]
    )  # fmt: skip
    low, high = np.quantile(drawn - np.median(drawn), [(1 - level) / 2, (1 + level) / 2])
    return Interval(value, max(0.0, value + float(low)), value + float(high), len(fake), unit, level)


def _resampled(features: Array, rng: np.random.Generator) -> Array:
    return features[rng.integers(len(features), size=len(features))]
