"""Whether items lie where real ones lie, and cover it: nearest neighbours in the space of features.

Every function gives one number an item or a person, so that its mean is the figure, and resampling the numbers its
interval. The ball of an item reaches to the k-th nearest *other* one of its own set.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from medidiff.errors import InputError

Array = NDArray[Any]
NEAREST = 5


def precision(real: Array, fake: Array, k: int = NEAREST) -> Array:
    """Of each item of ``fake`` (m, d), whether it lies in the ball of somebody real (n, d): shape (m,), 0 or 1.

    Source: Kynkaanniemi et al. (2019), Improved Precision and Recall Metric, eq. (1), (2).
    """
    return (distances(real, fake) < radii(real, k)[:, None]).any(axis=0).astype(float)


def recall(real: Array, fake: Array, k: int = NEAREST) -> Array:
    """Of each real one (n, d), whether it lies in the ball of an item (m, d): shape (n,), 0 or 1. Source: as above."""
    return precision(fake, real, k)


def density(real: Array, fake: Array, k: int = NEAREST) -> Array:
    """In how many balls of real ones (n, d) each item (m, d) lies, over k: shape (m,). Real ones have about 1.

    Source: Naeem et al. (2020), Reliable Fidelity and Diversity Metrics for Generative Models, eq. (3).
    """
    return np.asarray((distances(real, fake) < radii(real, k)[:, None]).sum(axis=0) / k)


def coverage(real: Array, fake: Array, k: int = NEAREST) -> Array:
    """Of each real one (n, d), whether an item (m, d) lies in its ball: shape (n,), 0 or 1. Source: as above, eq. (4).

    It rises with the number of items: compare it only at the same n.
    """
    return np.asarray(distances(real, fake).min(axis=1) < radii(real, k), dtype=float)


def distances(x: Array, y: Array) -> Array:
    """Euclidean distances of features (n, d) and (m, d): shape (n, m)."""
    from scipy.spatial.distance import cdist

    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or not len(x) or not len(y):
        raise InputError(f"two sets of feature vectors of one length, got {x.shape} and {y.shape}")
    return np.asarray(cdist(x, y))


def radii(features: Array, k: int) -> Array:
    """Distance of each of a set (n, d) to its k-th nearest other one: shape (n,).

    Raises:
        InputError: there are not k others.
    """
    if not 1 <= k < len(features):
        raise InputError(f"the {k}-th nearest of {len(features)}: there are not so many others")
    return np.asarray(np.partition(distances(features, features), k, axis=1)[:, k])
