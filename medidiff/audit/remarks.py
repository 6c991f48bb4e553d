"""What a privacy report says beside its figures: why it cannot pass, what its reader must know, what was guaranteed."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

from medidiff.audit.figures import FEWEST_ITEMS
from medidiff.errors import InputError
from medidiff.privacy.leakage.decision import FEWEST_PEOPLE
from medidiff.synthetic.metadata import K, combination, rare_combinations
from medidiff.synthetic.reports import DifferentialPrivacy
from medidiff.synthetic.stored import SyntheticSet

# In the card of a model that was trained with a guarantee.
DP_KEY = "differential_privacy"
_DISTANCE = (
    "Distance is one minus the correlation of fine structure, block by block, under the flip that suits best. An item "
    "counts as a copy where it is nearer to one training person than to the next ones by more than chance explains, so "
    "the limit is each item's own."
)


def reasons(synthetic: SyntheticSet, members: int, non_members: int) -> list[str]:
    """Why the whole cannot pass, whatever single figures say."""
    told, items = [], len(synthetic.items)
    if min(members, non_members) < FEWEST_PEOPLE:
        told.append(
            f"too few people: {members} trained on and {non_members} others, {FEWEST_PEOPLE} are needed on either side"
        )
    if items < FEWEST_ITEMS:
        told.append(f"too few items: {items}, {FEWEST_ITEMS} are needed")
    rare = rare_combinations(synthetic.items)
    if rare:
        told.append(f"metadata: {len(rare)} combinations are shared by fewer than {K} items")
    return told


def guarantee(card: Mapping[str, Any]) -> DifferentialPrivacy | None:
    """What the model's card says of differential privacy.

    Raises:
        InputError: it says something that is no guarantee.
    """
    told = card.get(DP_KEY)
    if told is None:
        return None
    known = {name: told.get(name) for name in DifferentialPrivacy.model_fields} if isinstance(told, dict) else {}
    try:
        return DifferentialPrivacy.model_validate_json(json.dumps(known))
    except ValueError as error:
        raise InputError(
            f"the model's card has a {DP_KEY} that is none: expected epsilon, delta, people and accountant"
        ) from error


def notes(synthetic: SyntheticSet) -> list[str]:
    """What a reader must know, whatever came out."""
    counts = Counter(map(combination, synthetic.items))
    rarest = min(counts.values())
    return [
        f"Metadata: quasi-identifiers combine in {len(counts)} ways; {rarest} items share the rarest ({K} are needed).",
        _DISTANCE,
        "A scan stands for a person. If somebody is in the data twice, figures are a little too sure.",
        "Evidence, not proof: attacks that were not tried may find more.",
    ]
