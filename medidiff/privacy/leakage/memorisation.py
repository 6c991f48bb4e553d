"""Whether single items copy single people, and whether a set as a whole lies nearer to those it was learned from.

What chance does is learned from the training people themselves: each of them is sought among all others, who are not
it. How far a lead goes there, and how often, gives the limit beyond which an item counts as a copy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medidiff.errors import InputError
from medidiff.privacy.leakage.decision import Estimate, over_people

Array = NDArray[Any]

# Chance that one honest set is refused for a copy that is none.
FALSE_ALARM = 0.05
# The tail of chance begins here.
TAIL = 0.8
# With fewer people the tail rests on fewer than eight of them: such a limit may find copies, not exclude them.
FEWEST_FOR_A_LIMIT = 40


@dataclass(frozen=True, slots=True)
class Limit:
    """The lead beyond which an item counts as a copy.

    Args:
        value: The lead.
        people: How many people chance was learned from.
        items: How many items it is meant for.
    """

    value: float
    people: int
    items: int

    @property
    def settled(self) -> bool:
        """Whether enough people stand behind it to say that something is no copy."""
        return self.people >= FEWEST_FOR_A_LIMIT


def fit_limit(leads: Array, items: int, false_alarm: float = FALSE_ALARM) -> Limit:
    """The limit that a set of so many items, none a copy, oversteps with probability ``false_alarm``.

    The tail of the leads is continued as an exponential: it lies above the tails of bounded and normal quantities.
    Its scale comes from the median, which somebody who is among the people twice cannot move.

    Args:
        leads: Of people sought among others, shape (n,).
        items: Size of the set.
    Raises:
        InputError: fewer than five people.
    Source: Coles (2001), An Introduction to Statistical Modeling of Extreme Values, chapter 4.
    """
    known = np.asarray(leads, dtype=np.float64)
    if len(known) < 5:
        raise InputError(f"what chance does cannot be learned from {len(known)} people; five or more are needed")
    start = float(np.quantile(known, TAIL))
    beyond = known[known > start] - start
    scale = float(np.median(beyond)) / np.log(2)
    reach = scale * np.log(max(1.0, (1 - TAIL) * max(1, items) / false_alarm))
    return Limit(start + float(reach), len(known), items)


def nearer_to_training(likeness: Array, members: Array, non_members: Array, *, seed: int) -> Estimate:
    """Share of items whose nearest training person is nearer than their nearest other person, in equal numbers.

    A generator that knows what people look like, and nobody in particular, has one half.

    Args:
        likeness: Of items to people, shape (items, people).
        members, non_members: Columns of either group.
        seed: Of the draws of people: the interval says what other people would have given.
    """
    own, other = likeness[:, members], likeness[:, non_members]

    def statistic(a: Array, b: Array) -> float:
        x, y = own[:, a].max(1), other[:, b].max(1)
        return float(((x > y) + 0.5 * (x == y)).mean())

    rng = np.random.default_rng(seed)
    size = min(len(members), len(non_members))
    drawn = [
        statistic(rng.permutation(len(members))[:size], rng.permutation(len(non_members))[:size]) for _ in range(200)
    ]
    low, high = over_people(statistic, len(members), len(non_members), seed=seed)
    return Estimate(float(np.mean(drawn)), low, high, len(members), len(non_members))
