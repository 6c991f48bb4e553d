"""From what was measured to the figures of a privacy report."""

from __future__ import annotations

from medidiff.privacy.leakage.decision import Estimate, Word, share, tpr_at_fpr
from medidiff.privacy.leakage.examine import Array, Copies
from medidiff.privacy.leakage.memorisation import FALSE_ALARM, FEWEST_FOR_A_LIMIT
from medidiff.synthetic.reports import Family, Metric, Outcome

# An attacker who is nearly sure of a few people harms them, whatever the average says.
LOW_RATE = 0.01
FEWEST_ITEMS = 20
# A space in which fewer exact copies than this would be found judges nothing.
LEAST_POWER = 0.95


def copies_figure(copies: Copies) -> Metric:
    """How many items count as copies of somebody: one is too many."""
    n, found = len(copies.found), int(copies.found.sum())
    enough = copies.limit.settled and n >= FEWEST_ITEMS
    # Where even an exact copy need not stand out, finding none says nothing: other spaces judge, and the image must.
    sees = copies.power >= LEAST_POWER
    word: Word = "failed" if found else "passed" if enough and sees else "inconclusive"
    told_only = not (found or sees or copies.space == "image")
    return Metric(
        name=f"copies ({copies.space})",
        family=Family.MEMORISATION,
        value=found / n if n else None,
        n=n,
        unit="items",
        interval=share(found, n) if n else None,
        limit=(
            f"none beyond what chance reaches in {100 * FALSE_ALARM:.0f} of 100 honest sets; "
            f"{FEWEST_FOR_A_LIMIT} training people and {FEWEST_ITEMS} items or more"
        ),
        better="lower",
        outcome=None if told_only else Outcome(word),
        note=(
            f"{found} of {n} items stand out more than {copies.limit.value:.3f}, learned from {copies.limit.people} "
            f"training people sought among the others. Of {copies.others} real scans of people who were not trained "
            f"on, {copies.false_alarms} would have been taken for copies; of exact copies of training people "
            f"{copies.power:.0%} would be found."
        ),
    )


def even_figure(name: str, family: Family, estimate: Estimate, note: str) -> Metric:
    """A figure that chance puts at one half."""
    return Metric(
        name=name,
        family=family,
        value=estimate.value,
        n=estimate.members + estimate.non_members,
        unit="patients",
        interval=(estimate.low, estimate.high),
        ceiling=0.5,
        limit=estimate.limit,
        better="lower",
        outcome=Outcome(estimate.word),
        note=note,
    )


def low_rate_figure(name: str, members: Array, non_members: Array) -> Metric:
    """Share of members who can be told apart with almost no mistake; only told, for so few others resolve no rate."""
    value, least = tpr_at_fpr(members, non_members, LOW_RATE)
    found = round(value * len(members))
    return Metric(
        name=f"{name}: members found at {LOW_RATE:.0%} false positives",
        family=Family.MEMBERSHIP,
        value=value,
        n=len(members),
        unit="patients",
        interval=share(found, len(members)),
        ceiling=1 / (len(non_members) + 1),
        better="lower",
        note=(
            f"{len(non_members)} people who were not trained on resolve rates of {least:.1%} at best: the threshold "
            "stands above all of them. Guessing finds as many members as real against real says, and often none."
            if least > LOW_RATE
            else ""
        ),
    )
