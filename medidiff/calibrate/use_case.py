"""The use case *calibrate*: fine scans in, intervals that hold out.

Scans whose truth is known are sliced by our own operator and restored as ``reconstruct`` would; what was missed says
how wide intervals must be. People are what is counted: some teach the scale, the others, who never met it, its
multiplier.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from medidiff.calibrate.options import CalibrateOptions, CalibrateResult, StratumReport
from medidiff.calibrate.people import check_people, split_people
from medidiff.calibrate.trials import Restored, fine_scan, restored, slice_operator
from medidiff.errors import ConfigError, InputError
from medidiff.io.places import check_targets
from medidiff.io.source import file_sha256
from medidiff.models import find_model, read_info
from medidiff.progress import OnProgress
from medidiff.volume import Modality

if TYPE_CHECKING:
    from medidiff.diffusion.denoiser import Preconditioned
    from medidiff.operators.slices import Profile


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
    from medidiff.diffusion.checkpoint import load_model
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
        model_sha256=file_sha256(path),
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
