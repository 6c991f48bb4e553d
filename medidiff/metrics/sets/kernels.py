"""How far two sets of features lie from each other as distributions: KID, RBF-kernel MMD, and FID where n allows it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medidiff.errors import InputError
from medidiff.metrics.intervals import Interval

Array = NDArray[Any]
Kernel = Callable[[Array, Array], Array]

# Below this many times the dimension, FID is mostly its own bias: 778 where the truth is 0, at n = 50 and d = 512.
FID_NEEDS = 10
# Resamples held at once: what a thousand draws of a thousand items need is no matter, ten thousand would be.
_DRAWS_AT_ONCE = 500


def polynomial_kernel(x: Array, y: Array) -> Array:
    """(x y / d + 1)^3, shape (n, m), of features of shape (n, d) and (m, d).

    Source: Binkowski et al. (2018), Demystifying MMD GANs, section 3.
    """
    from sklearn.metrics import pairwise

    return np.asarray(pairwise.polynomial_kernel(x, y, degree=3, gamma=1 / x.shape[1], coef0=1))


@dataclass(frozen=True, slots=True)
class RBF:
    """exp(-|x - y|^2 / (2 bandwidth^2))."""

    bandwidth: float

    def __call__(self, x: Array, y: Array) -> Array:
        from sklearn.metrics import pairwise

        return np.asarray(pairwise.rbf_kernel(x, y, gamma=1 / (2 * self.bandwidth**2)))


def median_distance(features: Array) -> float:
    """The median distance between two of a set, shape (n, d): the usual bandwidth, taken from real people alone.

    Source: Gretton et al. (2012), A Kernel Two-Sample Test, section 8.
    """
    from scipy.spatial.distance import pdist

    return float(np.median(pdist(features))) or 1.0


def kid(real: Array, fake: Array) -> float:
    """Kernel Inception Distance of features (n, d) and (m, d): unbiased, so it may be a little below 0.

    Source: Binkowski et al. (2018), with the whole sets instead of subsets of them.
    """
    return mmd2(real, fake, polynomial_kernel)


def rbf_mmd(real: Array, fake: Array, bandwidth: float | None = None) -> float:
    """Squared maximum mean discrepancy, unbiased, under an RBF kernel; the bandwidth is that of the real ones if None.

    Source: Gretton et al. (2012), eq. (3).
    """
    return mmd2(real, fake, RBF(bandwidth or median_distance(real)))


def mmd2(real: Array, fake: Array, kernel: Kernel) -> float:
    """Squared MMD of features (n, d) and (m, d) without the pairs of an item with itself.

    Raises:
        InputError: fewer than two on a side, or features of different lengths.
    """
    blocks = _blocks(real, fake, kernel)
    ones = np.ones((1, len(real))), np.ones((1, len(fake)))
    return float(_weighted(blocks, *ones)[0])


def mmd2_interval(
    real: Array, fake: Array, kernel: Kernel, *, seed: int, draws: int = 1000, level: float = 0.95, unit: str = "item"
) -> Interval:
    """``mmd2`` with a percentile bootstrap over both sets.

    A resample holds some items twice. A pair of an item with its own copy is no pair of two people, and counting it
    would lift every resample above the value; such pairs are left out.
    """
    blocks = _blocks(real, fake, kernel)
    rng = np.random.default_rng(seed)
    found = []
    for start in range(0, draws, _DRAWS_AT_ONCE):
        count = min(_DRAWS_AT_ONCE, draws - start)
        weights = (rng.multinomial(n, np.full(n, 1 / n), size=count).astype(float) for n in (len(real), len(fake)))
        found.append(_weighted(blocks, *weights))
    low, high = np.nanquantile(np.concatenate(found), [(1 - level) / 2, (1 + level) / 2])
    return Interval(mmd2(real, fake, kernel), float(low), float(high), len(fake), unit, level)


def fid(real: Array, fake: Array) -> float | None:
    """Frechet distance of Gaussians fitted to features (n, d) and (m, d); None where n or m is below 10 d.

    Source: Heusel et al. (2017), GANs Trained by a Two Time-Scale Update Rule, eq. (6).
    """
    if min(len(real), len(fake)) < FID_NEEDS * real.shape[1]:
        return None
    return frechet(real.mean(axis=0), np.cov(real, rowvar=False), fake.mean(axis=0), np.cov(fake, rowvar=False))


def frechet(mean: Array, covariance: Array, other_mean: Array, other_covariance: Array) -> float:
    """Squared Frechet distance of two Gaussians: |m - m'|^2 + tr(C + C' - 2 (C C')^(1/2))."""
    # The trace of the root needs only the eigenvalues of the product, which are real and not negative.
    eigenvalues = np.linalg.eigvals(covariance @ other_covariance)
    root = np.sqrt(np.clip(eigenvalues.real, 0, None)).sum()
    apart = ((mean - other_mean) ** 2).sum()
    return float(apart + np.trace(covariance) + np.trace(other_covariance) - 2 * root)


def _blocks(real: Array, fake: Array, kernel: Kernel) -> tuple[Array, Array, Array]:
    if real.ndim != 2 or fake.ndim != 2 or real.shape[1] != fake.shape[1] or min(len(real), len(fake)) < 2:
        raise InputError(f"two sets of two or more feature vectors of one length, got {real.shape} and {fake.shape}")
    within_real, within_fake = kernel(real, real), kernel(fake, fake)
    np.fill_diagonal(within_real, 0)
    np.fill_diagonal(within_fake, 0)
    return within_real, within_fake, kernel(real, fake)


def _weighted(blocks: tuple[Array, Array, Array], real: Array, fake: Array) -> Array:
    """MMD^2 for many weightings at once: weights (draws, n) and (draws, m) to values (draws,)."""
    within_real, within_fake, between = blocks

    def mean_pair(block: Array, weights: Array) -> Array:
        pairs = weights.sum(axis=1) ** 2 - (weights**2).sum(axis=1)
        # Of a very small set a resample can hold one item alone, which has no pair: it says nothing.
        return np.asarray(((weights @ block) * weights).sum(axis=1) / np.where(pairs > 0, pairs, np.nan))

    crossed = ((real @ between) * fake).sum(axis=1) / (real.sum(axis=1) * fake.sum(axis=1))
    return np.asarray(mean_pair(within_real, real) + mean_pair(within_fake, fake) - 2 * crossed)
