"""Alpha-precision, beta-recall, authenticity: how typical items are, how much of the real they span, if they copy.

Source: Alaa et al. (2022), How Faithful is your Synthetic Data? Sample-level Metrics for Evaluating and Auditing
Generative Models, ICML. There, features are first mapped so that real ones fill a ball (a one-class network); here the
encoder's standardised features are taken as they are, and the ball's centre is their mean.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from medidiff.metrics.sets.manifolds import distances, radii

Array = NDArray[Any]
# Shares alpha (and beta) at which the two curves are taken.
LEVELS = np.linspace(0.05, 0.95, 19)


def alpha_precision_curve(real: Array, fake: Array, levels: Array = LEVELS) -> Array:
    """Of each item (m, d), whether it lies in the ball that holds a share alpha of the real (n, d): shape (m, levels).

    The mean over items is P_alpha; a set like the real has P_alpha = alpha. Section 3.2, eq. (4).
    """
    centre = real.mean(axis=0)
    reach = np.quantile(np.linalg.norm(real - centre, axis=1), levels)
    inside = np.linalg.norm(fake - centre, axis=1)[:, None] <= reach
    return np.asarray(inside, dtype=float)


def beta_recall_curve(real: Array, fake: Array, levels: Array = LEVELS) -> Array:
    """Of each real one (n, d), whether an item of the most typical share beta (m, d) lies near it: shape (n, levels).

    Near is nearer than the nearest other real one. The mean is R_beta; a set like the real has R_beta about beta or
    above. Section 3.2, eq. (5), (6).
    """
    centre = fake.mean(axis=0)
    apart = np.linalg.norm(fake - centre, axis=1)
    reach = np.quantile(apart, levels)
    between = distances(real, fake)
    own = radii(real, 1)
    covered = [((between <= own[:, None]) & (apart <= within)[None]).any(axis=1) for within in reach]
    return np.stack(covered, axis=1).astype(float)


def integrated(curve: Array, levels: Array = LEVELS) -> float:
    """1 - 2 * mean |P_alpha - alpha| of curves (units, levels): 1 where every share is right. Eq. (7).

    The mean over equally spaced levels stands for the integral over alpha.
    """
    return max(0.0, float(1 - 2 * np.abs(curve.mean(axis=0) - levels).mean()))  # rounding alone goes below


def authenticity(training: Array, fake: Array) -> Array:
    """Of each item (m, d), whether it is no nearer to somebody trained on (n, d) than the nearest other person is.

    Shape (m,), 0 or 1: 0 is what a copy looks like. New people of the same kind have about a half. Section 3.3.
    """
    between = distances(training, fake)
    nearest = between.argmin(axis=0)
    return np.asarray(between.min(axis=0) > radii(training, 1)[nearest], dtype=float)
