"""Who synthetic subjects are said to be: drawn from shares that a config gives, never from a person.

Whatever is drawn, a combination of age band, sex and site has at least five subjects: rarer ones are drawn again among
those that are common enough.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Annotated, Literal, cast

import numpy as np
from pydantic import AfterValidator, Field, ValidationError, ValidationInfo, field_validator

from medidiff.config import Config
from medidiff.diffusion.generator import CategoricalCondition, GeneratorSpec, NumericCondition, Value
from medidiff.rng import derive_seed
from medidiff.synthetic import K, Metadata

# Numbers of a band's end, for a band that has none.
OPEN_BAND_YEARS = 10
AGE_NAMES = ("age", "age_years")
METADATA_STREAM, AGE_STREAM = 17, 18

Combination = tuple[str | None, str | None, str | None]


def _are_shares(shares: Mapping[str, float]) -> Mapping[str, float]:
    if shares and (min(shares.values()) < 0 or not 0 < sum(shares.values()) < np.inf):
        raise ValueError("shares are 0 or more, and one is above 0")
    return shares


Shares = Annotated[dict[str, float], AfterValidator(_are_shares)]


class MetadataModel(Config):
    """Shares of what is said of synthetic subjects; they need not add up to 1.

    Args:
        age_bands: ``{"20-29": 0.3, "30-39": 0.7}``; empty: no ages are told.
        sex: ``{female: 1, male: 1}``.
        site: Names of centres or scanner classes.
    """

    age_bands: Shares = Field(default_factory=dict)
    sex: Shares = Field(default_factory=dict)
    site: Shares = Field(default_factory=dict)

    @field_validator("age_bands", "sex", "site")
    @classmethod
    def _can_be_said(cls, shares: Mapping[str, float], field: ValidationInfo) -> Mapping[str, float]:
        """What an item could not be said to have must not be found out when the first item is drawn."""
        key = {"age_bands": "age_band"}.get(str(field.field_name), str(field.field_name))
        for name in shares:
            try:
                Metadata.model_validate({key: name})
            except ValidationError as error:
                problem = error.errors(include_url=False, include_input=False)[0]["msg"]
                raise ValueError(f"{name}: {problem.removeprefix('Value error, ')}") from None
        return shares

    def draw(self, count: int, seed: int) -> list[Metadata]:
        """Metadata of ``count`` subjects; each combination that occurs has at least five of them.

        With fewer than five subjects, or none common enough, nothing is told of anybody.
        """
        rng = np.random.default_rng(derive_seed(seed, METADATA_STREAM))
        combinations, shares = self._combinations()
        drawn = rng.choice(len(combinations), size=count, p=shares)
        frequent = [place for place, number in Counter(drawn.tolist()).items() if number >= K]
        if not frequent:
            return [Metadata()] * count
        among = sorted(frequent)
        weights = shares[among] / shares[among].sum()
        places = [int(p) if p in frequent else int(among[rng.choice(len(among), p=weights)]) for p in drawn]
        return [_metadata(combinations[place]) for place in places]

    def line(self) -> str:
        """How metadata was drawn, in a line."""
        parts = {"age band": self.age_bands, "sex": self.sex, "site": self.site}
        told = [f"{name} ({_told(shares)})" for name, shares in parts.items() if shares]
        if not told:
            return "none: no item has metadata"
        return f"drawn independently of all people: {'; '.join(told)}; combinations of fewer than {K} drawn again"[:400]

    def _combinations(self) -> tuple[list[Combination], np.ndarray]:
        found: list[Combination] = [(None, None, None)]
        weights = np.ones(1)
        for position, shares in enumerate((self.age_bands, self.sex, self.site)):
            if shares:
                found = [
                    cast(Combination, (*each[:position], name, *each[position + 1 :]))
                    for each in found
                    for name in shares
                ]
                weights = np.outer(weights, list(shares.values())).reshape(-1)
        return found, weights / weights.sum()


def conditions_of(metadata: Metadata, spec: GeneratorSpec, seed: int) -> dict[str, Value]:
    """What a generator that knows age or sex is asked for, so that a volume fits what is said of its subject.

    Args:
        seed: Of the item: decides the age within its band.
    """
    values: dict[str, Value] = {}
    for entry in spec.conditions:
        if isinstance(entry, NumericCondition) and entry.name in AGE_NAMES and metadata.age_band is not None:
            low, high = _ends(metadata.age_band)
            age = np.random.default_rng(derive_seed(seed, AGE_STREAM)).uniform(low, high + 1)
            values[entry.name] = float(np.clip(age, entry.low, entry.high))
        elif isinstance(entry, CategoricalCondition) and entry.name == "sex" and metadata.sex in entry.values:
            values[entry.name] = metadata.sex
    return values


def _metadata(combination: Combination) -> Metadata:
    age_band, sex, site = combination
    return Metadata(age_band=age_band, sex=cast(Literal["female", "male", "other"] | None, sex), site=site)


def _ends(band: str) -> tuple[float, float]:
    if band.endswith("+"):
        return float(band[:-1]), float(band[:-1]) + OPEN_BAND_YEARS
    low, high = band.split("-")
    return float(low), float(high)


def _told(shares: Mapping[str, float]) -> str:
    whole = sum(shares.values())
    return ", ".join(f"{name} {share / whole:.0%}" for name, share in shares.items())
