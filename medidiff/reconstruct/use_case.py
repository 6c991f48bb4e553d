"""The whole line: find the job, tell the plan, run it, write what came out and how."""

from __future__ import annotations

import math
import platform
import resource
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medidiff import __version__
from medidiff.errors import CheckpointError, ConfigError, InputError
from medidiff.io import write_volume
from medidiff.io.atomic import atomic_write_json
from medidiff.io.places import default_output
from medidiff.io.source import file_sha256
from medidiff.models import find_model, is_shipped
from medidiff.progress import OnProgress
from medidiff.reconstruct.certainty import Certainty, certainty_of, check_job, find_calibration
from medidiff.reconstruct.jobs import find_job
from medidiff.reconstruct.options import ReconstructOptions
from medidiff.reconstruct.targets import Targets
from medidiff.rng import resolve_seed
from medidiff.volume import Modality, Volume

if TYPE_CHECKING:
    import torch

    from medidiff.restoration import Job, Plan, Run

OnPlan = Callable[["Plan"], None]

NOT_CALIBRATED = "standard deviation over the samples: spread, not calibrated"


@dataclass(frozen=True, slots=True)
class ReconstructResult:
    """What was written, and the record that lies beside it."""

    output: Path
    record: dict[str, Any]
    plan: Plan
    samples: tuple[Path, ...] = ()
    spread: Path | None = None
    volumes: dict[str, Volume] = field(default_factory=dict)


def reconstruct(
    sources: Path | Sequence[Path],
    output: Path | None,
    options: ReconstructOptions,
    on_progress: OnProgress | None = None,
    on_plan: OnPlan | None = None,
) -> ReconstructResult:
    """Restore a scan and write it with a JSON record, each file whole or not at all.

    Args:
        sources: NIfTI, MGZ, NRRD, or a folder with one DICOM series.
        output: Where to write; by default beside the first source, ``<name>_medidiff.nii.gz``.
        options: What the user chose.
        on_progress: Called with evaluations done, evaluations in all, and what is being done.
        on_plan: Called once with what will be done, before it is done.
    Raises:
        InputError: the source cannot be restored as it is.
        OutputError: the result cannot be written.
        CheckpointError: there is no such model.
        ConfigError: there is no such device.
    """
    begun = time.perf_counter()
    given = (sources,) if isinstance(sources, Path) else tuple(sources)
    targets = Targets.of(output or default_output(given[0]), options)
    targets.check(given)
    options.check_model()  # what is no model at all is told before the scan is read
    job = find_job(given, options)
    check_job(job, options)
    model = _choose_model(job, options, given[0])
    calibration = find_calibration(options, model)
    from medidiff.diffusion.device import choose_device  # loads torch

    device = choose_device(options.device)
    plan = job.plan() if model is not None else job.plan().without_prior()
    if on_plan is not None:
        on_plan(plan)
    run, about = _carried_out(job, model, device, options, on_progress)
    certainty = certainty_of(job, run, calibration, options, about["model"] and about["model"]["sha256"])
    record = about | {
        "kind": job.kind,
        "plan": list(plan.words),
        "warnings": [*plan.doubts, *run.warnings],
        "operators": job.record(),
        "samples": options.samples,
        "simulated": job.simulated,
        "frames": len(run.mean),
        "data_consistency_nrmse": run.misfit,
        **({"by_frame": list(run.details)} if run.details else {}),
        "seconds": round(time.perf_counter() - begun, 2),
        "peak_memory_mb": round(peak_memory_mb()),
        **certainty.record,
    }
    return _write(given, targets, job, plan, run, certainty, record)


def _choose_model(job: Job, options: ReconstructOptions, source: Path) -> Path | None:
    """The file of the prior; None if no network is needed.

    Shipped priors are not shown what they have never seen; whoever brings a model of their own knows what it is for.

    Raises:
        InputError: no shipped prior suits these data.
        CheckpointError: there is no such model.
    """
    modality = job.modality  # of what is idle too: label maps are refused
    if job.idle or options.fast:
        return None
    chosen = None if options.model is None else find_model(options.model)
    if job.prior is None and (chosen is None or is_shipped(chosen)):
        what = "CT" if modality is Modality.CT else f"of modality {modality}"
        raise InputError(
            f"{source}: this is {what}, and no prior for such scans ships yet; give one of your own with --model, "
            "or use --fast"
        )
    return chosen or find_model(str(job.prior))


def _carried_out(
    job: Job, path: Path | None, device: torch.device, options: ReconstructOptions, on_progress: OnProgress | None
) -> tuple[Run, dict[str, Any]]:
    """The arrays, and how they came about."""
    import torch

    from medidiff.diffusion.checkpoint import load_model
    from medidiff.diffusion.denoiser import Preconditioned
    from medidiff.diffusion.network import NoNetwork
    from medidiff.restoration import Settings

    if path is None:
        model, name = Preconditioned(NoNetwork()).to(device).eval(), None
    else:
        model, name = load_model(path, device)[0], {"name": path.stem, "sha256": file_sha256(path)}
    settings = Settings(
        samples=options.draws, steps=options.steps, seed=resolve_seed(options.seed), guidance=job.guidance
    )
    run = job.run(model, settings, on_progress)
    looks = "one network evaluation" if run.evaluations == 1 else f"{run.evaluations} network evaluations"
    estimate = f"posterior mean, {looks}"
    if options.mode == "sample" and not job.idle:
        run, estimate = _as_sample(job, run), f"one posterior sample, {options.steps} network evaluations"
    if path is None:
        estimate = "the input, unchanged" if job.idle else "classical, no network"
    return run, {
        "medidiff": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": str(device),
        "model": name,
        "rule": None if job.idle else settings.guidance,
        "estimate": estimate,
        "steps": options.steps if options.draws and not job.idle else None,
        "seed": settings.seed if options.draws and not job.idle else None,
    }


def _as_sample(job: Job, run: Run) -> Run:
    """The same run with its first sample as the result.

    Raises:
        ConfigError: this kind of job draws none.
    """
    if not run.samples:
        raise ConfigError(f"{job.kind} gives the mean alone: leave out --mode sample")
    return replace(run, mean=run.samples[0])


def _write(
    sources: Sequence[Path],
    targets: Targets,
    job: Job,
    plan: Plan,
    run: Run,
    certainty: Certainty,
    record: dict[str, Any],
) -> ReconstructResult:
    geometry = job.geometry
    conformed, _, _ = geometry.reoriented()

    def place(data: Any) -> Volume:
        return Volume(data, conformed, job.modality).like(geometry)

    def write(volume: Volume, path: Path) -> None:
        write_volume(volume, path, frame_step=job.frame_step, source=sources[0])

    if not (np.isfinite(run.mean).all() and math.isfinite(run.misfit)):
        raise CheckpointError("the model gave values that are not finite: its weights are damaged; nothing was written")
    # The record comes last: whoever finds it finds everything that it speaks of. An older one speaks of other files.
    targets.record.unlink(missing_ok=True)
    for path, sample in zip(targets.samples, run.samples, strict=False):  # the result may be the only one
        write(place(sample), path)
    if targets.spread is not None and run.spread is not None:
        write(place(run.spread), targets.spread)
        record["spread"] = NOT_CALIBRATED
    volumes = {"input": run.input, "baseline": place(run.baseline), "restored": place(run.mean)}
    maps = {"interval": certainty.interval, "from_prior": certainty.from_prior}
    for name, place_of in (("interval", targets.interval), ("from_prior", targets.from_prior)):
        if place_of is not None:
            place_of.unlink(missing_ok=True)  # an older one speaks of another result
        if place_of is not None and (found := maps[name]) is not None:
            volumes[name] = place(found)
            write(volumes[name], place_of)
    if targets.preview is not None or targets.report is not None:
        from medidiff.restoration.present import write_presentation

        write_presentation(volumes, record, preview=targets.preview, report=targets.report)
    write(volumes["restored"], targets.volume)
    atomic_write_json(targets.record, record)
    return ReconstructResult(targets.volume, record, plan, targets.samples, targets.spread, volumes)


def peak_memory_mb() -> float:
    """Largest resident memory of this process so far, MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak / 1e3
