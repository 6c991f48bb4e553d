"""The use case *calibrate*: fine scans in, intervals that hold out.

Scans whose truth is known are sliced by our own operator and restored as ``reconstruct`` would; what was missed says
how wide intervals must be. People are what is counted: some teach the scale, the others, who never met it, its
multiplier.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from medidiff.errors import ConfigError, InputError
from medidiff.io import read_volume
from medidiff.io.places import check_targets
from medidiff.models import find_model, read_info
from medidiff.volume import Modality, Volume

if TYPE_CHECKING:
    import torch

    from medidiff.diffusion.denoiser import Preconditioned
    from medidiff.operators.slices import Profile, SliceOperator
    from medidiff.uncertainty import Calibration, Seen, Stratum

OnProgress = Callable[[int, int, str], None]
Region = Literal["head", "whole"]

# Of all people this share teaches the scale, and at least two.
SCALE_SHARE = 5
# Above this ratio of spacings a scan is no truth to be sliced.
LARGEST_RATIO = 1.2
# Fewer slices than this say nothing about what lies between them.
FEWEST_SLICES = 4


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


def calibrate(
    scans: Sequence[Path], output: Path, options: CalibrateOptions, on_progress: OnProgress | None = None
) -> CalibrateResult:
    """Find intervals that cover, and write them beside a model.

    Args:
        scans: Fine scans, one a person.
        output: The JSON file, ``<model>.calibration.json`` to be found by ``reconstruct``.
        options: What the user chose.
        on_progress: Called with people and operators done, all, and what is being done.
    Raises:
        InputError: too few people, the same person twice, or a scan that is not fine.
        OutputError: the file cannot be written.
        CheckpointError: there is no such model.
    """
    from medidiff.diffusion.checkpoint import file_hash, load_model
    from medidiff.diffusion.device import choose_device
    from medidiff.uncertainty import Calibration, save_calibration

    if output.suffix != ".json":
        raise ConfigError(f"a calibration is JSON: let {output.name} end in .json")
    check_targets((), (output,))
    taught, counted = split_people(check_people(scans), options.level)
    path = find_model(options.model)
    read_info(path)
    model = load_model(path, choose_device(options.device))[0]
    total, done = len(options.operators) * len(scans), 0

    def tell(what: str) -> None:
        nonlocal done
        if on_progress is not None:
            on_progress(done, total, what)
        done += 1

    reports, met = [], _Met()
    for profile, factor in options.operators:
        reports.append(_stratum(_Work(model, profile, factor, options, met, tell), taught, counted))
    calibration = Calibration(
        model=path.stem,
        model_sha256=file_hash(path),
        level=options.level,
        samples=options.samples,
        steps=options.steps if options.samples else None,
        modality=str(met.modality()),
        spacing_mm=float(np.median(met.spacings)),
        region=options.region,
        scale_people=len(taught),
        people=len(counted),
        about=options.about,
        strata=tuple(report.stratum for report in reports),
    )
    save_calibration(calibration, output)
    return CalibrateResult(output, calibration, tuple(reports))


def check_people(scans: Sequence[Path]) -> list[Path]:
    """Refuse the same person twice, as far as files and names tell: two scans of one count as one at most.

    Raises:
        InputError: the same bytes or the same BIDS subject twice, or a file that is not there.
    """
    seen: dict[str, int] = {}
    for number, path in enumerate(scans, 1):
        try:
            with path.open("rb") as stream:
                marks = [hashlib.file_digest(stream, "sha256").hexdigest()]
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror}); give files, one a person") from error
        marks += re.findall(r"sub-[A-Za-z0-9]+", path.name)[:1]
        for mark in marks:
            if mark in seen:
                raise InputError(f"scans {seen[mark]} and {number} are of one person: give one scan of each")
            seen[mark] = number
    return list(scans)


def split_people(people: list[Path], level: float) -> tuple[list[Path], list[Path]]:
    """Who teaches the scale, and who is counted for the multiplier: nobody does both.

    Raises:
        InputError: too few people for intervals of that level.
    """
    from medidiff.uncertainty import smallest_count

    share = max(2, len(people) // SCALE_SHARE)
    taught = {round((index + 0.5) * len(people) / share - 0.5) for index in range(share)} if people else set()
    counted = [path for index, path in enumerate(people) if index not in taught]
    if len(counted) < smallest_count(level):
        raise InputError(
            f"intervals of {1 - level:.0%} need {smallest_count(level)} people for the multiplier and 2 for the scale, "
            f"got {len(people)}: spread, not calibrated"
        )
    return [people[index] for index in sorted(taught)], counted


@dataclass
class _Met:
    """What kinds of scans there were."""

    modalities: set[Modality] = field(default_factory=set)
    spacings: list[float] = field(default_factory=list)

    def modality(self) -> Modality:
        """The one that all have.

        Raises:
            InputError: there are several.
        """
        if len(self.modalities) != 1:
            raise InputError(f"one calibration is for one modality, got {', '.join(sorted(map(str, self.modalities)))}")
        return next(iter(self.modalities))


@dataclass(frozen=True, slots=True)
class _Work:
    """One operator to be tried on everybody."""

    model: Preconditioned
    profile: Profile
    factor: float
    options: CalibrateOptions
    met: _Met
    tell: Callable[[str], None]

    def results(self, people: Sequence[Path], first: int) -> Iterator[Restored]:
        """Restore each, as ``reconstruct`` would."""
        for number, path in enumerate(people, first):
            self.tell(f"{self.profile} x{self.factor:g}")
            volume = fine_scan(path)
            self.met.modalities.add(volume.modality)
            self.met.spacings.append(float(np.mean(volume.geometry.spacing)))
            axis = number % 3 if self.options.axis is None else self.options.axis
            operator = slice_operator(volume.geometry.shape, axis, self.profile, self.factor)
            yield restored(self.model, volume, operator, self.options)


@dataclass(frozen=True, slots=True, eq=False)
class Restored:
    """What became of a scan that was sliced and restored, in model units.

    Args:
        seen: What is known without the truth.
        error: Truth less mean, shape (i, j, k).
        where: Which voxels count.
    """

    seen: Seen
    error: Any
    where: Any


def fine_scan(path: Path) -> Volume:
    """A scan that may be called the truth.

    Raises:
        InputError: 4D, or itself made of thick slices.
    """
    volume = read_volume(path).reoriented()
    spacing = volume.geometry.spacing
    if len(volume.data) != 1 or max(spacing) > LARGEST_RATIO * min(spacing):
        raise InputError(
            f"{path}: a truth is one 3D scan with voxels of equal sides, got {len(volume.data)} frames of "
            f"{' x '.join(f'{step:.3g}' for step in spacing)} mm"
        )
    return volume


def slice_operator(shape: tuple[int, int, int], axis: int, profile: Profile, factor: float) -> SliceOperator:
    """Touching slices of a fine scan.

    Raises:
        InputError: too few slices would be left.
    """
    from medidiff.operators.slices import SliceOperator, SliceProfile

    operator = SliceOperator((1, *shape), axis, SliceProfile(factor, factor, profile))
    if operator.out_shape[axis + 1] < FEWEST_SLICES:
        raise InputError(f"{shape[axis]} voxels leave fewer than {FEWEST_SLICES} slices at x{factor:g}")
    return operator


def restored(model: Preconditioned, volume: Volume, operator: SliceOperator, options: CalibrateOptions) -> Restored:
    """Slice a fine scan, restore it as ``reconstruct`` would, and compare; see ``Restored``."""
    import torch

    from medidiff.data.intensity import IntensityCodec
    from medidiff.metrics.foreground import head_mask
    from medidiff.restoration import Settings, restore

    truth = torch.from_numpy(np.ascontiguousarray(volume.data, dtype=np.float32))[None]
    slices = operator.forward(truth)
    codec = IntensityCodec.fit(slices.numpy(), volume.modality)
    y = codec.encode(slices).to(next(model.parameters()).device)
    settings = Settings(
        samples=options.samples,
        steps=options.steps,
        seed=options.seed,
        lower=float(codec.encode(0.0)) if float(slices.min()) >= 0 else None,
    )
    done = restore(model, operator, y, settings)
    mean, *samples = (_array(x) for x in (done.mean, *done.samples))
    seen = seen_in(mean, _array(operator.reference(y)), operator, samples)
    where = np.ones(mean.shape, dtype=bool)
    if options.region == "head":
        where = head_mask(seen.baseline, spacing=volume.geometry.spacing)
    return Restored(seen, _array(codec.encode(truth)) - mean, where)


def seen_in(mean: Any, baseline: Any, operator: SliceOperator, samples: Sequence[Any] = ()) -> Seen:
    """What a result from thick slices says about itself; arrays (i, j, k), any units."""
    from medidiff.uncertainty import Seen

    shape = [1, 1, 1]
    shape[operator.axis] = -1
    known = operator.closeness().numpy().reshape(shape)
    spread = np.std(samples, axis=0, ddof=1) if len(samples) > 1 else None
    return Seen(mean, baseline, known, operator.axis, spread)


def _array(x: torch.Tensor) -> Any:
    return x[0, 0].float().cpu().numpy()


def _stratum(work: _Work, taught: Sequence[Path], counted: Sequence[Path]) -> StratumReport:
    """Scale and multiplier for one operator."""
    from medidiff.uncertainty import Stratum, fit_scale, missed_shares, observe, smallest_multiplier
    from medidiff.uncertainty.conformal import GRID

    level, rng = work.options.level, np.random.default_rng(work.options.seed)
    scale = fit_scale(
        [observe(one.seen, one.error, one.where, rng) for one in work.results(taught, 0)], coverage=1 - level
    )
    shares, plain, widths = [], [], []
    for one in work.results(counted, len(taught)):
        error, expected = one.error[one.where], scale(one.seen)[one.where]
        shares.append(missed_shares(error, expected))
        plain.append(missed_shares(error, np.ones_like(error)))
        widths.append(float(expected.mean(dtype=np.float64)))
    multiplier = smallest_multiplier(shares, level)
    constant = smallest_multiplier(plain, level)
    if multiplier is None or constant is None:
        raise InputError("no multiplier covers enough of these people: are some of them broken?")
    missed = np.array([share[int(np.searchsorted(GRID, multiplier))] for share in shares])
    stratum = Stratum(
        work.profile, work.factor, scale, multiplier, float(missed.mean()), float(missed.std(ddof=1))
    )  # fmt: skip
    return StratumReport(
        stratum, multiplier * float(np.mean(widths)), constant, (float(1 - missed.max()), float(1 - missed.min()))
    )
