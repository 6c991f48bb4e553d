"""What an evaluation is told, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field, PositiveInt

from medidiff.config import Config
from medidiff.data.cohort import Cohort
from medidiff.metrics.sets.manifolds import NEAREST
from medidiff.metrics.utility import SegmenterOptions
from medidiff.synthetic.reports import Metric, Outcome


class UtilityOptions(Config):
    """What a set is worth for training a segmenter; needs label maps on both sides, and people to train on.

    Args:
        seeds: Trainings of each kind.
        share: Of the real people that the arms with few of them have.
        segmenter: The same for every arm.
    """

    seeds: int = Field(5, ge=2, le=20)
    share: float = Field(0.25, gt=0, lt=1)
    segmenter: SegmenterOptions = SegmenterOptions()


class EvaluateOptions(Config):
    """What a set is held against, and with what.

    Args:
        reference: Real people whom the generator was not trained on.
        training: The people that it was trained on: for what real against real gives, floors, authenticity, utility.
            Without them the reference is split, one half against the other.
        shape: Grid (i, j, k) on which volumes are compared.
        features: An encoder by name or file, or a YAML file of ``kind: features``.
        nearest: Neighbours that make a ball (precision, recall, density, coverage).
        likeness: Items of which every two are compared by MS-SSIM.
        bootstrap: Resamples behind each interval.
        level: Of the intervals.
        least: Below so many items or people nothing is concluded.
        seed: Of resampling and of the floors' noise.
        utility: None leaves the trainings out: they take minutes.
    """

    kind: Literal["evaluate"] = "evaluate"
    reference: Cohort
    training: Cohort | None = None
    shape: tuple[PositiveInt, PositiveInt, PositiveInt]
    features: str = "features-t1"
    nearest: int = Field(NEAREST, ge=1, le=50)
    likeness: int = Field(40, ge=3, le=200)
    bootstrap: int = Field(1000, ge=100, le=100_000)
    level: float = Field(0.95, gt=0.5, lt=1)
    least: int = Field(20, ge=4)
    seed: int = Field(0, ge=0)
    utility: UtilityOptions | None = None


@dataclass(frozen=True, slots=True)
class Resampling:
    """Of a bootstrap: its seed, how often, and the level of the interval."""

    seed: int
    draws: int
    level: float


@dataclass(frozen=True, slots=True)
class EvaluateResult:
    """What was found.

    Args:
        verdict: Of the whole; anything but passed refuses a release.
        reasons: Why it did not pass.
        report: The file that was written, ``quality.json`` of the set.
        metrics: Every figure.
        seconds: What it took.
    """

    verdict: Outcome
    reasons: tuple[str, ...]
    report: Path
    metrics: tuple[Metric, ...]
    seconds: float
