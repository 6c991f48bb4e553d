"""What a set of volumes says about the people its generator learned from: every test on arrays, in one place.

    gallery = Gallery(volumes)                                          # everybody, members first
    real = joined([search() for _, search in search_people(gallery, volumes, members, non_members)])
    space = image_space(real, gallery.search(items, [members]), members, non_members)
    judge_copies(space), set_level(space, ...), sample_attack(space, ...)

Files, reports and words are left to the use case ``medidiff.audit``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medidiff.privacy.leakage.decision import Estimate, auc
from medidiff.privacy.leakage.likeness import lead
from medidiff.privacy.leakage.membership import from_samples
from medidiff.privacy.leakage.memorisation import Limit, apart, fit_limit, nearer_to_training
from medidiff.privacy.leakage.resemblance import Gallery, Searched

Array = NDArray[Any]
# People or items that are sought together, and kept together.
PIECE = 20


@dataclass(frozen=True, slots=True, eq=False)
class Space:
    """One way of looking at volumes, and what it showed.

    Args:
        name: ``image``, ``embedding`` or ``label maps``.
        items: Likeness of items to people, shape (items, people).
        real: Likeness of people to people, shape (people, people), NaN where somebody meets himself.
        nearest: The training person nearest to each item, shape (items,).
        statistic: How each item stands out, shape (items,): a lead, or a likeness.
        chance: The same of each training person among those of other parts of the list, shape (members,).
        exact: What an exact copy of each training person would have, shape (members,).
        outside: The same of each other person among the training people, shape (non-members,): real scans, no copies.
    """

    name: str
    items: Array
    real: Array
    nearest: Array
    statistic: Array
    chance: Array
    exact: Array
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
        power: Share of exact copies of training people that would be found.
    """

    space: str
    limit: Limit
    found: Array
    false_alarms: int
    others: int
    power: float


def search_people(
    gallery: Gallery, volumes: Array, members: Sequence[int], non_members: Sequence[int]
) -> Iterator[tuple[list[int], Callable[[], Searched]]]:
    """The searches that tell what chance does, in pieces: who is sought, and the search.

    Training people are sought among those of other parts of the list, the others among all who were trained on; so
    each piece has one group. Coarsely everybody is compared with everybody.
    """
    for who, among in [*apart(members), (list(non_members), list(members))]:
        for start in range(0, len(who), PIECE):
            some = who[start : start + PIECE]
            yield some, partial(gallery.search, volumes[some], [among], some)


def image_space(people: Searched, items: Searched, members: Sequence[int], non_members: Sequence[int]) -> Space:
    """The space of images.

    Args:
        people: The searches of ``search_people``, joined.
        items: Items, the training people as the first group.
    """
    leads = np.array([match.lead for match in people.matches[0]])
    next_ones = np.array([match.likeness - match.lead for match in people.matches[0]])
    found = items.matches[0]
    return Space(
        "image",
        items.coarse,
        people.coarse,
        np.array([match.person for match in found]),
        np.array([match.lead for match in found]),
        leads[list(members)],
        1 - next_ones[list(members)],
        leads[list(non_members)],
    )


def plain_space(
    name: str, items: Array, real: Array, members: Sequence[int], non_members: Sequence[int], *, leads: bool
) -> Space:
    """A space whose likeness says all: ``leads`` asks how far the nearest goes before the next, else how near it is."""
    itself = real.copy()
    np.fill_diagonal(itself, np.nan)

    def statistic(likeness: Array, among: Sequence[int]) -> tuple[Array, Array]:
        nearest, leading = lead(likeness, among)
        return nearest, leading if leads else np.nanmax(likeness[:, list(among)], axis=1)

    nearest, own = statistic(items, members)
    chance = np.concatenate([statistic(itself[part], among)[1] for part, among in apart(members)])
    exact = itself[list(members)].copy()
    exact[np.arange(len(members)), list(members)] = 1
    outside = statistic(itself[list(non_members)], members)[1]
    return Space(name, items, itself, nearest, own, chance, statistic(exact, members)[1], outside)


def judge_copies(space: Space) -> Copies:
    """Items that stand out further than chance ever does."""
    limit = fit_limit(space.chance, len(space.statistic))
    alarms = int((space.outside > limit.value).sum())
    power = float((space.exact > limit.value).mean())
    return Copies(space.name, limit, space.statistic > limit.value, alarms, len(space.outside), power)


def set_level(space: Space, members: Sequence[int], non_members: Sequence[int], *, seed: int) -> Estimate:
    """See ``nearer_to_training``."""
    return nearer_to_training(space.items, np.asarray(members), np.asarray(non_members), seed=seed)


def sample_attack(space: Space, members: Sequence[int], non_members: Sequence[int]) -> tuple[Array, Array, Estimate]:
    """Membership from the samples alone: scores of members, of others, and their area under the curve."""
    scores = from_samples(space.items, space.real[list(members)])
    own, other = scores[list(members)], scores[list(non_members)]
    return own, other, auc(own, other)
