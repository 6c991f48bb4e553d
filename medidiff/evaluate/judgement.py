"""From figures to a judgement: where a set lies between real people and sets that are known to be bad.

A limit is never a number that somebody liked. It lies between the figure of real people (the ceiling) and that of the
mildest of the sets that were spoiled on purpose and that this figure is there to see (the nearest floor).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from medidiff.metrics.intervals import Interval
from medidiff.metrics.sets import panel
from medidiff.synthetic.reports import Family, Metric, Outcome

BLUR, NOISE, SCRAMBLED = "blur", "noise", "scrambled"
COPIES, COLLAPSE, ERODED = "copies", "collapse", "eroded labels"
Figures = Mapping[str, Interval]
_LOOKS, _SPREAD, _SHAPES = (BLUR, NOISE), (COPIES, COLLAPSE), (ERODED, COLLAPSE)


@dataclass(frozen=True, slots=True)
class Rule:
    """How a figure is judged.

    Args:
        family: What it is about.
        better: Which way is good.
        against: The floors that it is there to see.
        share: How far from the ceiling to the nearest floor the limit lies; None: the figure is told, not judged.
        note: What a reader must know.
    """

    family: Family
    better: Literal["higher", "lower"]
    against: tuple[str, ...]
    share: float | None = None
    note: str = ""


# KID's kernel is a cube of a product: where sets lie far apart it grows with the sixth power of how far, so that half
# the damage is (1/2)^6 of the figure.
_HALF_THE_DAMAGE, _HALFWAY = 1 / 64, 0.5
RULES: dict[str, Rule] = {
    panel.KID: Rule(
        Family.FIDELITY,
        "lower",
        _LOOKS,
        _HALF_THE_DAMAGE,
        "Unbiased: real people against real people lie about 0, on both sides.",
    ),
    panel.MMD: Rule(Family.FIDELITY, "lower", _LOOKS, note="Unbiased, as KID is."),
    panel.FID: Rule(Family.FIDELITY, "lower", _LOOKS, note="No interval: resampling a covariance biases it."),
    panel.PRECISION: Rule(Family.FIDELITY, "higher", _LOOKS, note="Share of items that lie among real people."),
    panel.DENSITY: Rule(Family.FIDELITY, "higher", _LOOKS, note="How densely real people lie about an item; about 1."),
    panel.ALPHA: Rule(
        Family.FIDELITY,
        "higher",
        _LOOKS,
        _HALFWAY,
        "1 if items are typical as often, and odd as often, as real people.",
    ),
    panel.LAYOUT: Rule(
        Family.FIDELITY,
        "higher",
        (SCRAMBLED,),
        _HALFWAY,
        "Correlation of the blurred image with the mean person: is bright and dark where it is in people? Features "
        "may take texture alone for anatomy; this cannot.",
    ),
    panel.COVERAGE: Rule(
        Family.DIVERSITY,
        "higher",
        _SPREAD,
        _HALFWAY,
        "Share of real people who have an item nearby; the same n as real.",
    ),
    panel.RECALL: Rule(
        Family.DIVERSITY,
        "higher",
        _SPREAD,
        _HALFWAY,
        "Share of real people who lie among items; blind to where they crowd.",
    ),
    panel.BETA: Rule(Family.DIVERSITY, "higher", _SPREAD, note="How much of real people typical items span; 1 is all."),
    panel.LIKENESS: Rule(
        Family.DIVERSITY,
        "lower",
        _SPREAD,
        _HALFWAY,
        "How alike two items are. Noise lowers it too: read it beside KID.",
    ),
    panel.STRUCTURES: Rule(
        Family.STRUCTURE,
        "lower",
        _SHAPES,
        _HALFWAY,
        "Volume, surface, sphericity, elongation of the set's own label maps, in standard deviations of real people.",
    ),
    panel.AUTHENTICITY: Rule(
        Family.MEMORISATION,
        "higher",
        (COPIES,),
        note="Share of items no nearer to somebody trained on than people are to each other. The audit judges copies.",
    ),
}


def judged(
    found: Figures,
    ceiling: Figures,
    floors: Mapping[str, Mapping[str, float]],
    *,
    people: int,
    items: int,
    least: int,
    rules: Mapping[str, Rule] = RULES,
) -> Iterator[Metric]:
    """Every figure as a report has it.

    Args:
        found: Of the set.
        ceiling: Of real people.
        floors: Of spoiled sets, by their name and the figure's.
        people, items: How many there are on either side.
        least: Below so many nothing is concluded.
        rules: How each figure is judged.
    """
    for name, rule in rules.items():
        if name not in found:
            continue
        interval = found[name]
        known = {floor: figures[name] for floor, figures in floors.items() if name in figures}
        against = [known[floor] for floor in rule.against if floor in known]
        limit, words = _limit(rule, ceiling.get(name), against)
        outcome = None if rule.share is None else _outcome(interval, limit, rule.better, min(people, items) >= least)
        if rule.share is not None and min(people, items) < least:
            words = f"{words}; {least} items and {least} people or more"
        yield Metric(
            name=name,
            family=rule.family,
            value=interval.value,
            n=interval.count,
            unit="patients" if interval.unit == "person" else "items",
            interval=None if interval.low == interval.high == interval.value else (interval.low, interval.high),
            level=interval.level,
            ceiling=ceiling[name].value if name in ceiling else None,
            floors=known,
            limit=words,
            better=rule.better,
            outcome=outcome,
            note=rule.note,
        )


def _limit(rule: Rule, ceiling: Interval | None, floors: Sequence[float]) -> tuple[float | None, str]:
    """The limit and its words; None where there is nothing to set it by, or the figure cannot see what it should.

    A limit that chance alone oversteps among real people is no limit: then the end of their interval stands for it.
    """
    if rule.share is None:
        return None, ""
    if ceiling is None or not floors:
        return None, "no ceiling or floor to judge it by"
    lower = rule.better == "lower"
    nearest = min(floors) if lower else max(floors)
    chance = ceiling.high if lower else ceiling.low
    if (nearest <= chance) if lower else (nearest >= chance):
        return None, "cannot be judged here: a set that was spoiled on purpose scores as well as real people"
    between = ceiling.value + rule.share * (nearest - ceiling.value)
    limit = max(between, chance) if lower else min(between, chance)
    way = "at most" if lower else "at least"
    if limit != between:
        return limit, f"{way} {limit:.3g}: what chance does among real people"
    place = (
        "halfway"
        if rule.share == _HALFWAY
        else "1/64 of the way"
        if rule.share == _HALF_THE_DAMAGE
        else "a quarter of the way"
    )
    return limit, f"{way} {limit:.3g}: {place} from real people to the mildest known-bad set"


def _outcome(interval: Interval, limit: float | None, better: str, enough: bool) -> Outcome:
    """Failed where the value is on the wrong side; passed only where the whole interval is on the right one."""
    if limit is None or not enough:
        return Outcome.INCONCLUSIVE
    sign = 1 if better == "higher" else -1
    if sign * (interval.value - limit) < 0:
        return Outcome.FAILED
    worse_end = interval.low if better == "higher" else interval.high
    return Outcome.PASSED if sign * (worse_end - limit) >= 0 else Outcome.INCONCLUSIVE
