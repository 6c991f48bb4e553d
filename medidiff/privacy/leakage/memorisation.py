"""Whether single items copy single people, and whether a set as a whole lies nearer to those it was learned from.

What chance does is learned from the training people themselves: each of them is sought among others, who are not it.
How far a lead goes there, and how often, gives the limit beyond which an item counts as a copy. Files that follow one
another are often one person (two sides of a head, two visits), and such a pair is no chance; so people are sought only
among those of other parts of the list.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import gammaln

from medidiff.errors import InputError
from medidiff.privacy.leakage.decision import Estimate

Array = NDArray[Any]

# Chance that one honest set is refused for a copy that is none.
FALSE_ALARM = 0.05
# The tail of chance begins here.
TAIL = 0.8
# The list of people is cut into so many parts, in order.
PARTS = 4
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


def apart(members: Sequence[int], parts: int = PARTS) -> list[tuple[list[int], list[int]]]:
    """The people of each part of a list in order, and all people of the other parts.

    Args:
        members: In the order of their files.
        parts: How many.
    """
    cut = [part.tolist() for part in np.array_split(np.asarray(members), parts) if len(part)]
    return [(part, [person for other in cut if other is not part for person in other]) for part in cut]


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


def nearer_to_training(likeness: Array, members: Array, non_members: Array, *, seed: int, draws: int = 400) -> Estimate:
    """Share of items whose nearest training person is nearer than their nearest other person, in equal numbers.

    A generator that knows what people look like, and nobody in particular, has one half. The interval says what other
    people would have given: halves of either group are drawn without putting anybody back, for somebody who is there
    twice is nearest no more often.

    Args:
        likeness: Of items to people, shape (items, people).
        members, non_members: Columns of either group.
        seed: Of the draws.
    Source: Politis, Romano & Wolf (1999), Subsampling, chapter 2 (half-samples).
    """
    own, other = likeness[:, members], likeness[:, non_members]
    rng = np.random.default_rng(seed)
    halves = []
    for _ in range(draws):
        a, b = (rng.permutation(len(group))[: max(1, len(group) // 2)] for group in (members, non_members))
        halves.append(_share_nearer(own[:, a], other[:, b]))
    value = _share_nearer(own, other)
    low, high = np.quantile(halves, [0.025, 0.975]) - np.mean(halves)
    return Estimate(value, max(0.0, value + low), min(1.0, value + high), len(members), len(non_members))


def _share_nearer(own: Array, other: Array) -> float:
    """The share in equal numbers, over every choice of so many of the larger group: in closed form.

    Of n people r are nearer than the nearest of m others; a choice of m of the n has none of them with probability
    C(n - r, m) / C(n, m).
    """
    if own.shape[1] < other.shape[1]:
        return 1 - _share_nearer(other, own)
    n, m = own.shape[1], other.shape[1]
    nearer = (own > other.max(1, keepdims=True)).sum(1)
    none = np.exp(_log_choices(n - nearer, m) - _log_choices(np.array([n]), m))
    return float((1 - none).mean())


def _log_choices(n: Array, m: int) -> Array:
    enough = n >= m
    size = np.maximum(n, m)
    return np.where(enough, gammaln(size + 1) - gammaln(m + 1) - gammaln(size - m + 1), -np.inf)
