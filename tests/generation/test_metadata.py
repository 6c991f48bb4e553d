"""What is said of synthetic subjects: drawn by shares, never from people, never of fewer than five."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from medidiff.config import parse_config
from medidiff.errors import ConfigError
from medidiff.generation.metadata import MetadataModel, conditions_of
from medidiff.synthesize import SynthesizeOptions
from medidiff.synthetic import K, Metadata
from tests.tiny_generator import SPEC

BANDS = ("18-29", "30-44", "45-64", "65+")
shares = st.dictionaries(st.sampled_from(BANDS), st.floats(0.001, 1), max_size=4)
sexes = st.dictionaries(st.sampled_from(("female", "male", "other")), st.floats(0.001, 1), max_size=3)
sites = st.dictionaries(st.sampled_from(("north", "south")), st.floats(0.001, 1), max_size=2)


def combinations(drawn: list[Metadata]) -> Counter[tuple[str | None, str | None, str | None]]:
    return Counter((each.age_band, each.sex, each.site) for each in drawn)


@given(shares, sexes, sites, st.integers(K, 300), st.integers(0, 2**40))
@settings(max_examples=60)
def test_nobody_is_one_of_fewer_than_five(
    bands: dict[str, float], sex: dict[str, float], site: dict[str, float], count: int, seed: int
) -> None:
    model = MetadataModel(age_bands=bands, sex=sex, site=site)
    drawn = model.draw(count, seed)
    assert len(drawn) == count
    assert min(combinations(drawn).values()) >= K
    assert drawn == model.draw(count, seed)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("age_bands: {18-19: 1.0}", "18-19: a band of ages must span 5 years or more"),
        ("age_bands: {young: 1.0}", "young: String should match pattern"),
        ("sex: {male: 1, unsure: 1}", "unsure: Input should be 'female', 'male' or 'other'"),
        ("site: {'<b>': 1}", "<b>: String should match pattern"),
        ("sex: {male: 1.0e308, female: 1.0e308}", "shares are 0 or more"),
    ],
)
def test_what_no_item_could_have_is_told_with_the_line_of_the_config(given: str, message: str) -> None:
    text = f"kind: synthesize\nmetadata:\n  {given}\n"
    with pytest.raises(ConfigError) as told:
        parse_config(text, SynthesizeOptions, source="f.yaml")
    assert str(told.value).startswith(f"f.yaml:3: metadata.{given.split(':', maxsplit=1)[0]}: {message}")


def test_shares_are_kept() -> None:
    drawn = MetadataModel(age_bands={"18-29": 1, "65+": 3}, sex={"female": 1, "male": 1}).draw(4000, 3)
    old = sum(each.age_band == "65+" for each in drawn)
    assert abs(old / 4000 - 0.75) < 0.03
    assert abs(sum(each.sex == "male" for each in drawn) / 4000 - 0.5) < 0.03
    assert {each.site for each in drawn} == {None}


def test_too_few_to_hide_among_are_told_nothing_of() -> None:
    drawn = MetadataModel(age_bands={"18-29": 1}, sex={"female": 1, "male": 1}).draw(4, 0)
    assert drawn == [Metadata()] * 4


def test_no_shares_no_metadata() -> None:
    assert MetadataModel().draw(9, 0) == [Metadata()] * 9
    assert MetadataModel().line() == "none: no item has metadata"


def test_how_it_was_drawn_is_told_in_a_line() -> None:
    assert "age band (18-29 25%, 65+ 75%)" in MetadataModel(age_bands={"18-29": 1, "65+": 3}).line()


@pytest.mark.parametrize("bad", [{"female": -1.0}, {"female": 0.0}])
def test_shares_that_are_none_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValidationError, match="shares"):
        MetadataModel(sex=bad)


@given(st.sampled_from(BANDS), st.sampled_from(("female", "male", "other", None)), st.integers(0, 2**40))
def test_a_generator_that_knows_age_and_sex_is_asked_for_them(band: str, sex: str | None, seed: int) -> None:
    asked = conditions_of(Metadata(age_band=band, sex=sex), SPEC, seed)
    low = float(band.split("-", maxsplit=1)[0].rstrip("+"))
    high = float(band.split("-")[1]) + 1 if "-" in band else low + 10
    assert max(low, 20) <= float(asked["age"] or 0) <= min(high, 80)
    assert asked.get("sex") == (sex if sex in ("female", "male") else None)
    SPEC.vector(asked)


def test_nothing_said_is_nothing_asked() -> None:
    assert conditions_of(Metadata(), SPEC, 0) == {}
