"""Sampled metadata singles nobody out."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from medidiff.synthetic import Metadata, SetPlan, SyntheticSet, rare_combinations
from tests.synthetic.sets import PLAN

people = st.builds(
    Metadata,
    age_band=st.sampled_from([None, "20-29", "30-39"]),
    sex=st.sampled_from([None, "female", "male"]),
    site=st.sampled_from([None, "north"]),
)


@given(st.lists(people, max_size=40), st.integers(1, 8))
def test_a_combination_is_rare_if_fewer_than_k_share_it(drawn: list[Metadata], k: int) -> None:
    items = [_Item(metadata) for metadata in drawn]
    counts = Counter((m.age_band, m.sex, m.site, "T1w") for m in drawn)
    told = {tuple(value or "not stated" for value in found): count for found, count in counts.items()}
    expected = sorted((found, count) for found, count in told.items() if count < k)
    assert rare_combinations(items, k) == expected  # type: ignore[arg-type]


class _Item:
    """An item has files; its metadata is all that counts here."""

    def __init__(self, metadata: Metadata) -> None:
        self.metadata = metadata
        self.suffix = "T1w"


@pytest.mark.parametrize("band", ["34-34", "30-33", "39-30", "34", "thirties", "30 - 39", ""])
def test_an_exact_age_is_no_band(band: str) -> None:
    with pytest.raises(ValidationError, match="age_band"):
        Metadata(age_band=band)


@pytest.mark.parametrize("band", ["30-34", "0-17", "90+", None])
def test_bands(band: str | None) -> None:
    assert Metadata(age_band=band).age_band == band


@pytest.mark.parametrize("name", ["age", "Age", "sex", "scanner", "birth_date"])
def test_what_says_more_than_a_band_is_no_public_condition(name: str) -> None:
    values = PLAN.model_dump()
    assert SetPlan.model_validate(values | {"public_conditions": ["class"]}).public_conditions == ("class",)
    with pytest.raises(ValidationError, match="more exactly"):
        SetPlan.model_validate(values | {"public_conditions": ["class", name]})


def test_a_rare_contrast_is_rare_too(pristine: Path) -> None:
    items = SyntheticSet.open(pristine).items
    assert rare_combinations(items) == []
    changed = items[0].model_copy(update={"suffix": "FLAIR"})
    found = rare_combinations([changed, *items[1:]])
    assert found == [(("30-39", "female", "not stated", "FLAIR"), 1), (("30-39", "female", "not stated", "T1w"), 4)]
