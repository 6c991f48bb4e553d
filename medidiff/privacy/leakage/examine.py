"""What a set of volumes says about the people its generator learned from: every test on arrays, in one place.

    real = search_people(people, members)                       # once for a split of people
    found = search_items(items, people, members, non_members)   # the set
    copies = judge_copies(...), nearer_to_training(...), membership...

Files, reports and words are left to the use case ``medidiff.audit``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medidiff.privacy.leakage.decision import Estimate, auc
from medidiff.privacy.leakage.likeness import lead
from medidiff.privacy.leakage.membership import from_samples
from medidiff.privacy.leakage.memorisation import FALSE_ALARM, Limit, fit_limit, nearer_to_training

Array = NDArray[Any]


@dataclass(frozen=True, slots=True, eq=False)
class Space:
    """One way of looking at volumes, and what it showed.

    Args:
        name: ``image``, ``embedding`` or ``label maps``.
        items: Likeness of items to people, shape (items, people).
        real: Likeness of people to people, shape (people, people), NaN where somebody meets himself.
        nearest: The training person nearest to each item, shape (items,).
        statistic: How each item stands out, shape (items,): a lead, or a likeness.
        chance: The same of each training person among the others, shape (members,).
        outside: The same of each other person among the training people, shape (non-members,): real scans, no copies.
    """

    name: str
    items: Array
    real: Array
    nearest: Array
    statistic: Array
    chance: Array
    outside: Array


@dataclass(frozen=True, slots=True, eq=False)
class Copies:
    """Which items count as copies in one space.

    Args:
        space: Its name.
        limit: Beyond which one does.
        found: Whether each item does, shape (items,).
        false_alarms: How many of the people who were not trained on would: real scans, and no copies.
        others: Of how many.
    """

    space: str
    limit: Limit
    found: Array
    false_alarms: int
    others: int


def plain_space(
    name: str, items: Array, real: Array, members: Sequence[int], non_members: Sequence[int], *, leads: bool
) -> Space:
    """A space whose likeness says all: ``leads`` asks how far the nearest goes before the next, else how near it is."""
    itself = real.copy()
    np.fill_diagonal(itself, np.nan)

    def statistic(likeness: Array) -> tuple[Array, Array]:
        nearest, leading = lead(likeness, members)
        return nearest, leading if leads else np.nanmax(likeness[:, list(members)], axis=1)

    nearest, own = statistic(items)
    return Space(
        name, items, itself, nearest, own, statistic(itself[list(members)])[1], statistic(itself[list(non_members)])[1]
    )


def judge_copies(space: Space, spaces: int) -> Copies:
    """Items that stand out further than chance ever does.

    Args:
        space: Where.
        spaces: In how many spaces copies are sought: they share the chance of a false alarm.
    """
    limit = fit_limit(space.chance, len(space.statistic), FALSE_ALARM / spaces)
    alarms = int((space.outside > limit.value).sum())
    return Copies(space.name, limit, space.statistic > limit.value, alarms, len(space.outside))


def set_level(space: Space, members: Sequence[int], non_members: Sequence[int], *, seed: int) -> Estimate:
    """See ``nearer_to_training``."""
    return nearer_to_training(space.items, np.asarray(members), np.asarray(non_members), seed=seed)


def sample_attack(space: Space, members: Sequence[int], non_members: Sequence[int]) -> tuple[Array, Array, Estimate]:
    """Membership from the samples alone: scores of members, of others, and their area under the curve."""
    scores = from_samples(space.items, space.real[list(members)])
    own, other = scores[list(members)], scores[list(non_members)]
    return own, other, auc(own, other)
