"""Sampled metadata singles nobody out."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from medidiff.synthetic import Metadata, SyntheticSet, rare_combinations
from medidiff.synthetic.metadata import public_condition

people = st.builds(
    Metadata,
    age_band=st.sampled_from([None, "20-29", "30-39"]),
    sex=st.sampled_from([None, "female", "male"]),
    site=st.sampled_from([None, "north"]),
    contrast=st.just("T1w"),
)


@given(st.lists(people, max_size=40), st.integers(1, 8))
def test_a_combination_is_rare_if_fewer_than_k_share_it(drawn: list[Metadata], k: int) -> None:
    items = [_Item(metadata) for metadata in drawn]
    counts = Counter((m.age_band, m.sex, m.site, m.contrast) for m in drawn)
    expected = sorted(
        (tuple(value or "not stated" for value in found), count) for found, count in counts.items() if count < k
    )
    assert rare_combinations(items, k) == expected  # type: ignore[arg-type]


class _Item:
    """An item has files; its metadata is all that counts here."""

    def __init__(self, metadata: Metadata) -> None:
        self.metadata = metadata


@pytest.mark.parametrize("band", ["34-34", "30-33", "39-30", "34", "thirties", "30 - 39", ""])
def test_an_exact_age_is_no_band(band: str) -> None:
    with pytest.raises(ValidationError, match="age_band"):
        Metadata(age_band=band)


@pytest.mark.parametrize("band", ["30-34", "0-17", "90+", None])
def test_bands(band: str | None) -> None:
    assert Metadata(age_band=band).age_band == band


def test_exact_conditions_do_not_leave_the_set(pristine: object) -> None:
    item = SyntheticSet.open(str(pristine)).items[0]
    assert item.condition == {"age": 34.5, "class": "crop"}
    assert public_condition(item) == {"class": "crop"}
