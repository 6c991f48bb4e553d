"""A privacy claim put to the test in one run: planted people, half left out, and an attacker who must say which.

What epsilon and delta allow is a bound on how often such an attacker is right. If they are right more often than the
claim allows, the claim is false; how much they would need is a lower bound of the epsilon that was really spent.

Source: Steinke, Nasr & Jagielski (2023), Privacy Auditing with One (1) Training Run, theorem 5.2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

from medidiff.errors import ConfigError

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Audit:
    """What an attacker achieved.

    Args:
        canaries: How many were planted or left out, by a fair coin each.
        guesses, correct: How often the attacker spoke, and was right.
        epsilon: Lower bound of what was spent, at ``confidence``.
    """

    canaries: int
    guesses: int
    correct: int
    epsilon: float
    confidence: float


def audit(scores: Array, planted: Array, delta: float, *, share: float = 0.5, confidence: float = 0.95) -> Audit:
    """What the scores of canaries say of epsilon.

    Args:
        scores: One a canary, shape (m,); larger where the attacker believes that it took part.
        planted: Whether it did, shape (m,), drawn by fair coins.
        share: Of the canaries that the attacker speaks of: half of them the highest, half the lowest. Fixed before
            the scores are seen.
    Raises:
        ConfigError: scores and coins do not fit together, or nobody is guessed.
    """
    count = len(scores)
    side = int(share * count / 2)
    if scores.shape != planted.shape or scores.ndim != 1 or side < 1 or not 0 < share <= 1:
        raise ConfigError(f"an audit needs as many scores as coins and a guess on each side, found {scores.shape}")
    order = np.argsort(scores, kind="stable")
    correct = int((~planted[order[:side]]).sum() + planted[order[count - side :]].sum())
    return Audit(count, 2 * side, correct, lower_bound(count, 2 * side, correct, delta, 1 - confidence), confidence)


def lower_bound(canaries: int, guesses: int, correct: int, delta: float, level: float = 0.05) -> float:
    """The largest epsilon at which so many right guesses would be a surprise of ``level`` or less; 0 if none is."""
    low, high = 0.0, 30.0
    if surprise(canaries, guesses, correct, low, delta) > level:
        return 0.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if surprise(canaries, guesses, correct, middle, delta) <= level else (low, middle)
    return low


def surprise(canaries: int, guesses: int, correct: int, epsilon: float, delta: float) -> float:
    """How likely at most so many right guesses, or more, are under (epsilon, delta)-differential privacy.

    With pure epsilon each guess is right as a coin of ``1 / (1 + exp(-epsilon))`` is; delta adds a term for runs in
    which the guarantee fails.
    """
    coin = 1 / (1 + math.exp(-epsilon))
    enough = float(binom.sf(correct - 1, guesses, coin))
    if correct == 0:
        return min(1.0, enough)
    missed = np.cumsum(binom.pmf(np.arange(correct - 1, -1, -1), guesses, coin))
    worst = float((missed / np.arange(1, correct + 1)).max())
    return min(1.0, enough + 2 * canaries * delta * worst)
