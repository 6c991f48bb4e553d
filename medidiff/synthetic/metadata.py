"""Whether sampled metadata singles anybody out: k-anonymity over the quasi-identifiers.

Source: Sweeney (2002), k-anonymity: a model for protecting privacy.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from medidiff.synthetic.records import Item

QUASI_IDENTIFIERS = ("age band", "sex", "site", "contrast")
K = 5
UNSAID = "not stated"


def combination(item: Item) -> tuple[str, str, str, str]:
    """The quasi-identifiers of an item; a missing value is a value too."""
    drawn = item.metadata
    return drawn.age_band or UNSAID, drawn.sex or UNSAID, drawn.site or UNSAID, item.suffix


def rare_combinations(items: Iterable[Item], k: int = K) -> list[tuple[tuple[str, str, str, str], int]]:
    """Combinations of quasi-identifiers that fewer than ``k`` items share, with their counts."""
    counts = Counter(combination(item) for item in items)
    return sorted((found, count) for found, count in counts.items() if count < k)
