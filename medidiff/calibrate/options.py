"""What a user may choose about a calibration, and what comes of it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from medidiff.errors import ConfigError

if TYPE_CHECKING:
    from medidiff.operators.slices import Profile
    from medidiff.uncertainty import Calibration, Stratum

Region = Literal["head", "whole"]


@dataclass(frozen=True, slots=True)
class CalibrateOptions:
    """What a user may choose.

    Args:
        model: Name of a shipped model, or a file.
        factors: Slice distances to try, fine voxels.
        profiles: Forms of the slices to try.
        axis: Axis of the slices in the conformed volume; None takes each in its turn, person by person.
        level: Share of voxels that may be missed.
        samples: Posterior samples whose spread is a clue; 0 for the mean alone, in one evaluation.
        steps: Evaluations a sample.
        region: Which voxels count: inside the head, or all (crops without air).
        about: What kind of volumes these are, in words; no identifier.
        seed: Of the samples and of the voxels that the scale looks at.
        device: ``"cpu"``, ``"cuda"``.
    """

    model: str = "brain-t1"
    factors: tuple[float, ...] = (2.0, 4.0, 6.0)
    profiles: tuple[Profile, ...] = ("box", "gaussian")
    axis: int | None = None
    level: float = 0.1
    samples: int = 0
    steps: int = 8
    region: Region = "head"
    about: str = "the calibration scans"
    seed: int = 0
    device: str | None = None

    def __post_init__(self) -> None:
        if not self.factors or not all(1 < factor < math.inf for factor in self.factors):
            raise ConfigError(f"--factor must be above 1, got {', '.join(f'{f:g}' for f in self.factors) or 'none'}")
        if not self.profiles or not set(self.profiles) <= {"box", "gaussian"}:
            raise ConfigError(f"--profile is box or gaussian, got {', '.join(self.profiles) or 'none'}")
        if len(set(self.operators)) != len(self.operators):
            raise ConfigError("--factor and --profile must name each operator once")
        if not 0 < self.level < 1:
            raise ConfigError(f"--level must lie between 0 and 1, got {self.level:g}")
        if self.samples == 1 or self.samples < 0 or not 1 <= self.steps <= 1000:
            raise ConfigError(
                f"--samples must be 0 or at least 2 and --steps 1 to 1000, got {self.samples}, {self.steps}"
            )
        if self.axis not in (None, 0, 1, 2):
            raise ConfigError(f"the axis of the slices is 0, 1 or 2, got {self.axis}")

    @property
    def operators(self) -> list[tuple[Profile, float]]:
        """Every pair of profile and factor."""
        return list(product(self.profiles, self.factors))


@dataclass(frozen=True, slots=True)
class StratumReport:
    """How a multiplier came about, for a person to read.

    Args:
        stratum: What goes into the file.
        half_width: Mean half-width over the people's voxels, over the bright end of their scans.
        constant: Half-width that a map of one value would need for the same coverage, in the same units.
        covered: Least and largest share covered in one person.
    """

    stratum: Stratum
    half_width: float
    constant: float
    covered: tuple[float, float]


@dataclass(frozen=True, slots=True)
class CalibrateResult:
    """Where the file is, and what is in it."""

    output: Path
    calibration: Calibration
    reports: tuple[StratumReport, ...]
