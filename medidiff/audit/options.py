"""What an audit is told, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field

from medidiff.config import Config
from medidiff.data.cohort import Cohort
from medidiff.synthetic.reports import Metric, Outcome


class AuditOptions(Config):
    """Whom a set is held against, and with what.

    Args:
        training: The people that the generator was trained on: all of them, and nobody else.
        held_out: People who were not, from the same source; they also say how often the tests err.
        model: The generator, by name or file, for the attacks that need it; without it only samples are attacked.
        encoder: A network whose features are a second space to look for copies in; None leaves it out.
        shape: Grid (i, j, k) on which volumes are compared; what the largest need, if None.
        sigmas: Noise levels, in the model's units, at which it is attacked.
        draws: Noise drawn so many times at each.
        pictures: So many of the nearest pairs are shown, on the page that stays in the house.
        seed: Of everything drawn.
        work: Folder for what is half done; beside the set, and removed at the end, if None. In a folder that is named,
            what was learned of the people stays for the next audit with the same people.
    """

    kind: Literal["audit"] = "audit"
    training: Cohort
    held_out: Cohort
    model: str | None = None
    encoder: str | None = "features-t1"
    shape: tuple[int, int, int] | None = None
    sigmas: tuple[float, ...] = Field((0.1, 0.2, 0.4, 0.8), min_length=1)
    draws: int = Field(2, ge=1, le=64)
    pictures: int = Field(12, ge=0, le=24)
    seed: int = Field(0, ge=0)
    work: Path | None = None


@dataclass(frozen=True, slots=True)
class AuditResult:
    """What was found.

    Args:
        verdict: Of the whole; anything but passed refuses a release.
        reasons: Why it did not pass.
        report: The file that was written, ``privacy.json`` of the set.
        metrics: Every figure.
        copies: Names of the items that count as copies.
        seconds: What it took.
    """

    verdict: Outcome
    reasons: tuple[str, ...]
    report: Path
    metrics: tuple[Metric, ...]
    copies: tuple[str, ...]
    seconds: float
