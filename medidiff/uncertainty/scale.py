"""The error that is to be expected at a voxel, from the clues there: conditional quantile regression.

``log quantile(|error|) = bias + weights . clues``: quantiles pass through the logarithm, so that errors of any size
are fitted alike. The map need not be right: what it lacks, the conformal multiplier makes up for. A better one gives
narrower intervals, and intervals that hold in flat tissue and at edges alike.
Source: Koenker & Bassett (1978), Regression Quantiles; Romano, Patterson & Candes (2019), Conformalized Quantile
Regression, for what is done with them here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medidiff.errors import InputError
from medidiff.uncertainty.clues import Seen

Array = NDArray[Any]

# Voxels of one person that enter the fit: neighbours say the same.
VOXELS_A_PERSON = 6000
# Errors below this share of the scan's unit are as good as none.
SMALLEST_ERROR = 1e-3
FIT_STEPS, FIT_SOFTNESS = 60, 1e-3


@dataclass(frozen=True, slots=True)
class ErrorScale:
    """Expected size of the error at each voxel.

    Args:
        weights: Of the logarithm of each clue.
        bias: What is added to them.
    """

    weights: Mapping[str, float]
    bias: float

    def __call__(self, seen: Seen) -> Array:
        """The map, shape (i, j, k), in the units of ``seen``, positive.

        Raises:
            InputError: a clue that has a weight is not there: samples were not drawn, or were and should not be.
        """
        if set(seen.clues) != set(self.weights):
            raise InputError(f"this scale reads {', '.join(self.weights)}, the result has {', '.join(seen.clues)}")
        clues, unit = seen.logarithms()
        weights = np.array([self.weights[name] for name in seen.clues], dtype=np.float32)
        return np.asarray(unit * np.exp(np.tensordot(weights, clues, axes=1) + np.float32(self.bias)))


@dataclass(frozen=True, slots=True, eq=False)
class Observed:
    """What one person adds to a fit.

    Args:
        names: Of the clues.
        clues: Their logarithms at chosen voxels, shape (n, clues).
        errors: Logarithm of the absolute error there, in the scan's unit, shape (n,).
    """

    names: tuple[str, ...]
    clues: Array
    errors: Array


def observe(seen: Seen, error: Array, where: Array, rng: np.random.Generator) -> Observed:
    """Look at some voxels of a person whose truth is known.

    Args:
        seen: The result.
        error: Truth less mean, shape (i, j, k), the units of ``seen``.
        where: Which voxels count, bool, same shape.
        rng: Chooses among them.
    Raises:
        InputError: no voxel counts.
    """
    inside = np.flatnonzero(where)
    if not len(inside):
        raise InputError("nothing of this person counts: the mask is empty")
    chosen = rng.choice(inside, min(VOXELS_A_PERSON, len(inside)), replace=False)
    clues, unit = seen.logarithms()
    rows = clues.reshape(len(clues), -1)[:, chosen].T.astype(np.float64)
    errors = np.log(np.abs(error.reshape(-1)[chosen], dtype=np.float64) / unit + SMALLEST_ERROR)
    return Observed(seen.clues, rows, errors)


def fit_scale(people: Sequence[Observed], *, coverage: float) -> ErrorScale:
    """Fit a scale.

    Args:
        people: What each adds.
        coverage: Which quantile of the error is wanted: 0.9 for 90% intervals.
    Raises:
        InputError: nobody, or people with different clues.
    """
    if not people or len({person.names for person in people}) != 1:
        raise InputError("a scale is fitted on at least one person, and all must have the same clues")
    rows = np.concatenate([person.clues for person in people])
    *weights, bias = quantile_regression(rows, np.concatenate([person.errors for person in people]), coverage)
    return ErrorScale(dict(zip(people[0].names, map(float, weights), strict=True)), float(bias))


def quantile_regression(x: Array, y: Array, quantile: float) -> Array:
    """Linear quantile regression by majorising the check function with parabolas.

    Args:
        x: Predictors, shape (n, p).
        y: Targets, shape (n,).
        quantile: Between 0 and 1.
    Returns:
        Weights and, last, the intercept, shape (p + 1,).
    Source: Hunter & Lange (2000), Quantile Regression via an MM Algorithm, J. Comput. Graph. Stat. 9, 60, sec. 3.
    """
    design = np.column_stack([x, np.ones(len(x))])
    # A constant predictor would leave the system singular; a trace on the diagonal gives its weight to the intercept.
    ridge = 1e-9 * len(x) * np.eye(design.shape[1])
    pull = (2 * quantile - 1) * design.sum(axis=0)
    theta = np.linalg.lstsq(design, y, rcond=None)[0]
    for _ in range(FIT_STEPS):
        weight = 1 / (FIT_SOFTNESS + np.abs(y - design @ theta))
        weighted = design * weight[:, None]
        step = np.linalg.solve(design.T @ weighted + ridge, weighted.T @ y + pull)
        moved = float(np.abs(step - theta).max())
        theta = step
        if moved < 1e-6 * (1 + float(np.abs(theta).max())):
            break
    if not all(math.isfinite(value) for value in theta):
        raise InputError("the scale cannot be fitted: errors or clues are not finite")
    return np.asarray(theta)
