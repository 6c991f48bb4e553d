"""Whether sampled metadata singles anybody out: k-anonymity over the quasi-identifiers.

Source: Sweeney (2002), k-anonymity: a model for protecting privacy.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from medidiff.synthetic.records import Item

QUASI_IDENTIFIERS = ("age_band", "sex", "site", "contrast")
# Conditions that say more exactly what the metadata says in bands: they never leave the set.
EXACT = frozenset({"age", "age_years", "age_band", "birth_date", "birth_year", "sex", "site", "scanner", "contrast"})
K = 5


def combination(item: Item) -> tuple[str, ...]:
    """The quasi-identifiers of an item; a missing value is a value too."""
    return tuple(str(getattr(item.metadata, name) or "not stated") for name in QUASI_IDENTIFIERS)


def rare_combinations(items: Iterable[Item], k: int = K) -> list[tuple[tuple[str, ...], int]]:
    """Combinations of quasi-identifiers that fewer than ``k`` items share, with their counts."""
    counts = Counter(combination(item) for item in items)
    return sorted((found, count) for found, count in counts.items() if count < k)


def public_condition(item: Item) -> dict[str, str | int | float | bool | None]:
    """What the generator was given, but for what would say age, sex, site or contrast more exactly than metadata."""
    return {name: value for name, value in sorted(item.condition.items()) if name.lower() not in EXACT}
