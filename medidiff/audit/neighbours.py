"""Every item beside the person nearest to it, for people to look at."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medidiff.audit.sides import Work
from medidiff.privacy.leakage.examine import Copies
from medidiff.privacy.leakage.resemblance import Match, flip_axes
from medidiff.report.contact import thumbnail_png
from medidiff.synthetic.reports import Neighbour
from medidiff.volume import Volume

Array = NDArray[Any]


def neighbours(
    work: Work, copies: Sequence[Copies], nearest: Sequence[Match], others: Sequence[Match]
) -> tuple[Neighbour, ...]:
    """Every item beside the training volume nearest to it, those that need looking at first."""
    limit = copies[0].limit.value
    order = _order_of_nearness(copies, np.array([match.lead for match in nearest]), limit)
    told = []
    for place, number in enumerate(order):
        match, item = nearest[number], work.synthetic.items[number]
        shown = place < work.options.pictures
        told.append(
            Neighbour(
                item=item.id,
                distance=max(0.0, 1 - match.likeness),
                limit=max(0.0, 1 - (match.likeness - match.lead + limit)),
                held_out=max(0.0, 1 - others[number].likeness),
                under=match.under,
                sample_png=_picture(work, work.images[number]) if shown else None,
                nearest_png=_picture(work, _as_matched(work, match)) if shown else None,
            )
        )
    return tuple(told)


def _as_matched(work: Work, match: Match) -> Array:
    """The person's volume, turned as the item is: people who look at the pair need not turn it in their heads."""
    return np.asarray(np.flip(work.volumes[match.person], flip_axes(match.flips)))


def _picture(work: Work, data: Array) -> bytes:
    item = work.synthetic.items[0]
    return thumbnail_png(Volume(np.ascontiguousarray(data)[None], work.who.geometry, item.modality))


def _order_of_nearness(copies: Iterable[Copies], leads: Array, limit: float) -> Sequence[int]:
    """Items with what needs looking at first: copies of any kind, then by how far the lead goes."""
    found = np.any([entry.found for entry in copies], axis=0)
    return [int(item) for item in np.lexsort((-leads / limit, ~found))]
