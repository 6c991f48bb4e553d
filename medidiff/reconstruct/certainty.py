"""How far a result is to be believed: the interval around it, and what no measurement fixes.

Both are made from a finished run and are extra: where one cannot be had, the record says why and the result stands.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medidiff.errors import ConfigError, InputError
from medidiff.reconstruct.options import ReconstructOptions

if TYPE_CHECKING:
    from medidiff.restoration import Job, Run
    from medidiff.restoration.nullspace import Projectable
    from medidiff.uncertainty import Calibration

Array = NDArray[Any]

NOT_CALIBRATED = "not calibrated"


@dataclass(frozen=True, slots=True, eq=False)
class Certainty:
    """What is written beside a result.

    Args:
        interval: Half-width at each voxel, shape (c, i, j, k), physical units; None if there is none.
        from_prior: The part of the result that no measurement fixes, signed, likewise.
        record: What the JSON record says about both.
    """

    interval: Array | None
    from_prior: Array | None
    record: dict[str, Any]


def find_calibration(options: ReconstructOptions, model: Path | None) -> Calibration | None:
    """The calibration that was named, else the one that lies beside the model; None if there is neither.

    Raises:
        InputError: it is damaged.
    """
    if not options.wants_interval or model is None:
        return None
    from medidiff.uncertainty import beside_model, load_calibration

    path = options.calibration or beside_model(model)
    return load_calibration(path) if options.calibration is not None or path.is_file() else None


def check_job(job: Job, options: ReconstructOptions) -> None:
    """Refuse what this kind of job cannot give, before the work.

    Raises:
        ConfigError: its operators are not known as a linear map that can be inverted.
    """
    if options.provenance:
        exact_operators(job)


def exact_operators(job: Job) -> Sequence[Projectable]:
    """The operators of a job whose measurements bind.

    Raises:
        ConfigError: there are none: the data are noisy, or not a linear map that is known.
    """
    from medidiff.restoration.nullspace import Splits

    found = job.exact_operators() if isinstance(job, Splits) else ()
    if not found:
        raise ConfigError(f"--provenance is for measurements that bind, such as thick slices or holes, not {job.kind}")
    return found


def certainty_of(
    job: Job, run: Run, calibration: Calibration | None, options: ReconstructOptions, model_sha256: str | None
) -> Certainty:
    """Interval and provenance of a finished run, as far as they were asked for."""
    interval, from_prior = None, None
    record: dict[str, Any] = {}
    if options.wants_interval:
        interval, record["interval"] = _interval(job, run, calibration, options, model_sha256)
    if options.provenance:
        from medidiff.restoration.nullspace import provenance

        found = provenance(exact_operators(job), run.mean, run.baseline)
        from_prior, record["provenance"] = found.from_prior, found.record()
    return Certainty(interval, from_prior, record)


def _interval(
    job: Job, run: Run, calibration: Calibration | None, options: ReconstructOptions, model_sha256: str | None
) -> tuple[Array | None, dict[str, Any]]:
    """The map, and what may be said of it."""
    if calibration is None:
        why = "no model was used" if model_sha256 is None else "no calibration lies beside the model; see calibrate"
        return None, _refused(why)
    try:
        maps = _half_widths(job, run, calibration, options, str(model_sha256))
    except InputError as error:
        return None, _refused(str(error))
    return np.stack(maps), {
        "calibrated": True,
        "says": calibration.words,
        "level": calibration.level,
        "region": calibration.region,
        "domain": calibration.domain,
        "made_by": calibration.version,
        "mean_half_width": float(np.mean(maps)),
    }


def _half_widths(
    job: Job, run: Run, calibration: Calibration, options: ReconstructOptions, model_sha256: str
) -> list[Array]:
    """One map a frame.

    Raises:
        InputError: the calibration does not cover this job.
    """
    from medidiff.restoration.jobs.base import SliceJob
    from medidiff.uncertainty import NotCalibratedError, Seen

    if not isinstance(job, SliceJob) or len(job.chosen.stages) != 1:
        raise NotCalibratedError(f"made for {calibration.domain}; this is another kind of measurement")
    (stage,) = job.chosen.stages
    calibration.check(
        model_sha256=model_sha256,
        modality=str(job.modality),
        spacing_mm=float(np.mean(stage.fine.spacing)),
        samples=len(run.samples),
        steps=options.steps,
    )
    operator = stage.operator()
    shape = [1, 1, 1]
    shape[stage.axis] = -1
    known = operator.closeness().numpy().reshape(shape)
    spread = run.spread if calibration.samples else None
    return [
        calibration.half_width(
            Seen(mean, baseline, known, stage.axis, None if spread is None else spread[frame]), operator.profile
        )
        for frame, (mean, baseline) in enumerate(zip(run.mean, run.baseline, strict=True))
    ]


def _refused(why: str) -> dict[str, Any]:
    return {"calibrated": False, "says": f"{NOT_CALIBRATED}: {why}"}
