"""A calibration as a file beside its model: what was measured on whom, and where it may be used.

It holds for one estimator of one model (by the hash of its weights), for touching slices of the factors and profiles
that were tried, and for volumes like those of the people it was made from. Anything else is refused with a reason,
and whoever asked then says "not calibrated".
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medidiff import __version__
from medidiff.errors import InputError
from medidiff.io.atomic import atomic_write_json
from medidiff.operators.slices import SliceProfile
from medidiff.uncertainty.clues import CLUES, SPREAD, Seen
from medidiff.uncertainty.conformal import smallest_count
from medidiff.uncertainty.scale import ErrorScale

Array = NDArray[Any]

FORMAT = "medidiff-calibration/1"
SUFFIX = ".calibration.json"
MAX_BYTES = 1 << 20
# Slices whose thickness is this close to their distance touch.
TOUCHING = 0.05
# A factor that differs by less than this share from one that was tried is that one.
SAME_FACTOR = 0.01
# Anatomy is a matter of millimetres: voxels this much smaller or larger than those of the people show another one.
SPACING_RANGE = (0.7, 1.4)


class NotCalibratedError(InputError):
    """A calibration does not cover what it was asked about; the message says what it covers."""


@dataclass(frozen=True, slots=True)
class Stratum:
    """What was found for one operator.

    Args:
        profile: Form of the slices, which touch.
        factor: Their distance, fine voxels.
        scale: Expected error.
        multiplier: What the scale is stretched by.
        missed: Share of voxels missed at that multiplier, mean over the people it was found on.
        missed_std: Standard deviation of that share over these people: how far one person may be from the mean.
    """

    profile: str
    factor: float
    scale: ErrorScale
    multiplier: float
    missed: float
    missed_std: float


@dataclass(frozen=True, slots=True)
class Calibration:
    """Everything that is needed to draw intervals, and to know where not to.

    Args:
        model: Name of the model.
        model_sha256: Of its file.
        level: Share of voxels that may be missed in expectation.
        samples: Posterior samples beside the mean whose spread is a clue; 0 for the mean alone.
        steps: Evaluations a sample; None without samples.
        modality: As in ``medidiff.volume.Modality``.
        spacing_mm: Voxel size of the people's scans, median, mm.
        region: Which voxels count: ``"head"`` or ``"whole"``.
        scale_people: How many people the scales were fitted on.
        people: How many others the multipliers were found on.
        about: What kind of volumes, in words.
        strata: One for each operator that was tried.
        version: Version of medidiff that made it.
    """

    model: str
    model_sha256: str
    level: float
    samples: int
    steps: int | None
    modality: str
    spacing_mm: float
    region: str
    scale_people: int
    people: int
    about: str
    strata: tuple[Stratum, ...]
    version: str = __version__

    def __post_init__(self) -> None:
        if self.people < smallest_count(self.level):
            raise InputError(
                f"intervals of {1 - self.level:.0%} need at least {smallest_count(self.level)} people, "
                f"got {self.people}: spread, not calibrated"
            )
        if not self.strata:
            raise InputError("a calibration needs at least one operator that was tried")

    @property
    def words(self) -> str:
        """The promise in one sentence."""
        return (
            f"calibrated: {1 - self.level:.0%} of voxels in expectation over volumes like the {self.people} people it "
            f"was made from ({self.about})"
        )

    @property
    def domain(self) -> str:
        """Where it may be used."""
        factors: dict[str, list[float]] = {}
        for stratum in self.strata:
            factors.setdefault(stratum.profile, []).append(stratum.factor)
        tried = ", ".join(f"{profile} x{min(f):g} to x{max(f):g}" for profile, f in sorted(factors.items()))
        estimator = f"{self.samples} samples of {self.steps} steps" if self.samples else "the mean alone"
        return f"{self.modality} at {self.spacing_mm:.3g} mm, touching slices along one axis, {tried}, {estimator}"

    def check(self, *, model_sha256: str, modality: str, spacing_mm: float, samples: int, steps: int | None) -> None:
        """Refuse another model, modality, voxel size or estimator.

        Raises:
            NotCalibratedError: it says which.
        """
        if model_sha256 != self.model_sha256:
            raise NotCalibratedError(
                f"made for weights {self.model_sha256[:12]}, the model in use has {model_sha256[:12]}"
            )
        if modality != self.modality:
            raise NotCalibratedError(f"made for {self.modality}, this is {modality}")
        low, high = SPACING_RANGE
        if not low <= spacing_mm / self.spacing_mm <= high:
            raise NotCalibratedError(f"made for voxels of {self.spacing_mm:.3g} mm, these have {spacing_mm:.3g} mm")
        if self.samples and (samples, steps) != (self.samples, self.steps):
            raise NotCalibratedError(f"made for {self.samples} samples of {self.steps} steps")

    def strata_for(self, profile: SliceProfile) -> tuple[Stratum, ...]:
        """The operator that was tried, or its neighbours on both sides.

        Raises:
            NotCalibratedError: beyond what was tried.
        """
        if abs(profile.thickness / profile.factor - 1) > TOUCHING:
            raise NotCalibratedError(f"made for {self.domain}; these slices do not touch")
        tried = sorted((s for s in self.strata if s.profile == profile.kind), key=lambda s: s.factor)
        same = [s for s in tried if abs(s.factor / profile.factor - 1) <= SAME_FACTOR]
        below = [s for s in tried if s.factor < profile.factor]
        above = [s for s in tried if s.factor > profile.factor]
        if same:
            return (same[0],)
        if not below or not above:
            raise NotCalibratedError(f"made for {self.domain}; this is {profile.kind} x{profile.factor:.3g}")
        return below[-1], above[0]

    def half_width(self, seen: Seen, profile: SliceProfile) -> Array:
        """Half-width of the interval at each voxel, shape (i, j, k), in the units of ``seen``.

        Between two factors that were tried widths are interpolated in the logarithm of the factor, as errors grow.

        Raises:
            NotCalibratedError: beyond what was tried.
        """
        below, *above = self.strata_for(profile)
        width = below.multiplier * below.scale(seen)
        for other in above:
            share = math.log(profile.factor / below.factor) / math.log(other.factor / below.factor)
            width = (1 - share) * width + share * other.multiplier * other.scale(seen)
        return np.asarray(width, dtype=np.float32)


def save_calibration(calibration: Calibration, path: Path) -> None:
    """Write a calibration as JSON, whole or not at all."""
    atomic_write_json(path, {"format": FORMAT, **asdict(calibration)})


def load_calibration(path: Path) -> Calibration:
    """Read what ``save_calibration`` wrote.

    Raises:
        InputError: no calibration, damaged, or with numbers that cannot be.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InputError(f"{path}: too large for a calibration ({path.stat().st_size} bytes)")
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict) or found.pop("format", None) != FORMAT:
            raise InputError(f"{path}: expected a {FORMAT} file; make one with `medidiff calibrate`")
        return _from_json(found)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from error
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path}: not a whole calibration ({type(error).__name__}); make it again") from error


def beside_model(model: Path) -> Path:
    """Where the calibration of a model lies: ``brain-t1.safetensors`` -> ``brain-t1.calibration.json``."""
    return model.with_name(model.name.removesuffix(".safetensors") + SUFFIX)


def _from_json(found: Mapping[str, Any]) -> Calibration:
    strata = tuple(
        Stratum(
            profile=str(entry["profile"]),
            factor=_number(entry["factor"], 1, 1e3),
            scale=_scale(entry["scale"], spread=bool(found["samples"])),
            multiplier=_number(entry["multiplier"], 1e-6, 1e6),
            missed=_number(entry["missed"], 0, 1),
            missed_std=_number(entry["missed_std"], 0, 1),
        )
        for entry in found["strata"]
    )
    return Calibration(
        model=str(found["model"]),
        model_sha256=str(found["model_sha256"]),
        level=_number(found["level"], 1e-6, 1 - 1e-6),
        samples=int(found["samples"]),
        steps=None if found["steps"] is None else int(found["steps"]),
        modality=str(found["modality"]),
        spacing_mm=_number(found["spacing_mm"], 1e-3, 1e3),
        region=str(found["region"]),
        scale_people=int(found["scale_people"]),
        people=int(found["people"]),
        about=str(found["about"]),
        strata=strata,
        version=str(found["version"]),
    )


def _scale(found: Mapping[str, Any], *, spread: bool) -> ErrorScale:
    names = (*CLUES, SPREAD) if spread else CLUES
    if set(found["weights"]) != set(names):
        raise KeyError("weights")
    weights = {name: _number(found["weights"][name], -50, 50) for name in names}
    return ErrorScale(weights, _number(found["bias"], -50, 50))


def _number(value: Any, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise TypeError("a number is none")
    if not low <= value <= high:
        raise ValueError("a number is out of its range")
    return float(value)
