"""From figures to outcomes: intervals over people, and when too few of them leave a question open.

An outcome is a word: ``passed``, ``failed`` or ``inconclusive``. To pass, the far end of the interval must lie within
the limit *and* enough people must have been looked at; to fail, the near end must lie beyond what chance explains.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from medidiff.errors import InputError

Array = NDArray[Any]
Word = Literal["passed", "failed", "inconclusive"]

# Of an area under the curve, or any share that chance puts at one half. With 160 members and 40 others the standard
# error is about 0.05: a set that leaks nothing then ends below the first with 98 in 100.
MOST_UPPER = 0.70
FAILS_ABOVE = 0.60
FEWEST_PEOPLE = 20
FEWEST_TO_FAIL = 5


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure with its interval.

    Args:
        value: The figure.
        low, high: Interval at 95%.
        members, non_members: People on either side.
        both_ways: Whether a figure far below one half tells as much: an attack that errs so often need only be turned.
    """

    value: float
    low: float
    high: float
    members: int
    non_members: int
    both_ways: bool = False

    @property
    def word(self) -> Word:
        """The outcome of a figure that chance puts at one half."""
        fewest = min(self.members, self.non_members)
        turned = 1 - self.high if self.both_ways else 0.0
        if max(self.low, turned) > FAILS_ABOVE and fewest >= FEWEST_TO_FAIL:
            return "failed"
        farthest = max(self.high, 1 - self.low) if self.both_ways else self.high
        return "passed" if farthest <= MOST_UPPER and fewest >= FEWEST_PEOPLE else "inconclusive"

    @property
    def limit(self) -> str:
        """What has to hold, in words."""
        ends = f"ends from {1 - MOST_UPPER:.2f} to" if self.both_ways else "upper end at most"
        return f"the interval's {ends} {MOST_UPPER:.2f} (chance is 0.5), {FEWEST_PEOPLE} people or more on either side"


def auc(members: Array, non_members: Array, level: float = 0.95) -> Estimate:
    """Area under the curve of a score that should be higher for members, with DeLong's interval.

    Args:
        members, non_members: A score a person, shape (m,) and (n,).
    Raises:
        InputError: fewer than two people on a side, or a score that is not finite.
    Source: DeLong, DeLong & Clarke-Pearson (1988), Comparing the areas under two or more correlated ROC curves.
    """
    x, y = (np.asarray(side, dtype=np.float64) for side in (members, non_members))
    if min(len(x), len(y)) < 2 or not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise InputError(f"an area under the curve needs finite scores of two people a side, got {len(x)} and {len(y)}")
    wins = (x[:, None] > y[None]) + 0.5 * (x[:, None] == y[None])
    value = float(wins.mean())
    variance = wins.mean(1).var(ddof=1) / len(x) + wins.mean(0).var(ddof=1) / len(y)
    # Perfect separation has no variance in the sample; the rule of three says what the sample cannot.
    spread = max(float(np.sqrt(variance)), 0.5 / min(len(x), len(y)) if value in (0.0, 1.0) else 0.0)
    reach = float(stats.norm.ppf(0.5 + level / 2)) * spread
    return Estimate(value, max(0.0, value - reach), min(1.0, value + reach), len(x), len(y), both_ways=True)


def tpr_at_fpr(members: Array, non_members: Array, rate: float = 0.01) -> tuple[float, float]:
    """Share of members told apart where at most ``rate`` of the others are taken for members.

    Returns:
        The share, and the smallest rate that so many others can resolve: with 40 of them, 0 of 40 is all there is
        below 2.5%.
    Source: Carlini et al. (2022), Membership inference attacks from first principles.
    """
    others = np.sort(np.asarray(non_members, dtype=np.float64))[::-1]
    allowed = int(rate * len(others))
    return float((np.asarray(members) > others[allowed]).mean()), 1 / len(others)


def share(count: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Interval of a share, exact for a binomial.

    Source: Clopper & Pearson (1934).
    """
    tail = (1 - level) / 2
    low = float(stats.beta.ppf(tail, count, n - count + 1)) if count else 0.0
    high = float(stats.beta.ppf(1 - tail, count + 1, n - count)) if count < n else 1.0
    return low, high
