"""The use case *reconstruct*: a scan in, a better one out, in the same place, with a record of how."""

from __future__ import annotations

import platform
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from medidiff import __version__
from medidiff.data.intensity import IntensityCodec
from medidiff.diffusion.checkpoint import file_hash, load_model
from medidiff.diffusion.denoiser import Preconditioned
from medidiff.errors import InputError, OutputError
from medidiff.io import check_restorable, probe, read_volume, write_volume
from medidiff.io.atomic import atomic_write_json
from medidiff.models import find_model
from medidiff.operators.slices import Profile
from medidiff.restoration import Plan, Restored, Settings, Stage, make_plan, restore
from medidiff.rng import resolve_seed
from medidiff.volume import Modality, Volume

Array = NDArray[Any]
OnProgress = Callable[[int, int, str], None]

DEFAULT_MODEL = "brain-t1"
FAST_MODEL = "brain-t1-fast"
SUFFIXES = (".nii.gz", ".nii", ".mgz", ".mgh", ".nrrd", ".nhdr", ".hdr", ".img")


@dataclass(frozen=True, slots=True)
class ReconstructOptions:
    """What a user may choose.

    Args:
        model: Name of a shipped model, or a file.
        spacing: Wanted voxel distance, mm; by default the in-plane spacing.
        thickness: Slice thickness, mm; by default what the header says, else slices touch.
        profile: Form of the slice profile.
        samples: Posterior samples beside the mean.
        steps: Network evaluations a sample.
        seed: For samples; a fresh one is drawn and recorded if there is none.
        device: ``"cpu"``, ``"cuda"``; by default CUDA where there is one.
        fast: Use the small model.
        preview: Where to write a picture.
        report: Where to write an HTML page.
    """

    model: str | None = None
    spacing: float | None = None
    thickness: float | None = None
    profile: Profile = "box"
    samples: int = 0
    steps: int = 8
    seed: int | None = None
    device: str | None = None
    fast: bool = False
    preview: Path | None = None
    report: Path | None = None


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
    source: Path, output: Path | None, options: ReconstructOptions, on_progress: OnProgress | None = None
) -> ReconstructResult:
    """Restore a scan and write it with a JSON record, each file whole or not at all.

    Args:
        source: NIfTI, MGZ, NRRD, or a folder with one DICOM series.
        output: Where to write; by default beside the source, ``<name>_medidiff.nii.gz``.
    Raises:
        InputError: the source cannot be restored as it is.
        OutputError: the result cannot be written.
        CheckpointError: there is no such model.
    """
    begun = time.perf_counter()
    target = check_output(source, output or default_output(source), options)
    info = probe(source)
    plan = make_plan(
        info.geometry,
        spacing=options.spacing,
        thickness=options.thickness if options.thickness is not None else info.slice_thickness,
        profile=options.profile,
    )
    volume = read_volume(source)
    check_restorable(volume, source)
    if volume.modality is Modality.CT and options.model is None:
        raise InputError(f"{source}: this is CT, and no CT prior ships yet; give one of your own with --model")
    device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    path = find_model(options.model or (FAST_MODEL if options.fast else DEFAULT_MODEL))
    model, _ = load_model(path, device)
    seed = resolve_seed(options.seed)
    run = run_plan(volume, plan, model, Settings(samples=options.samples, steps=options.steps, seed=seed), on_progress)
    record = {
        "medidiff": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": str(device),
        "model": {"name": path.stem, "sha256": file_hash(path)},
        "plan": list(plan.words),
        "warnings": list(plan.warnings),
        "operators": [stage_record(stage) for stage in plan.stages],
        "rule": "projection",
        "estimate": "posterior mean, one network evaluation",
        "samples": options.samples,
        "steps": options.steps if options.samples else None,
        "seed": seed if options.samples else None,
        "simulated": False,
        "frames": len(volume.data),
        "data_consistency_nrmse": run.misfit,
        "seconds": round(time.perf_counter() - begun, 2),
        "peak_memory_mb": round(peak_memory_mb()),
    }
    return _write(source, target, volume, plan, run, record, options, info.frame_step)


@dataclass(slots=True)
class Run:
    """Arrays of a finished reconstruction, physical units, conformed axes."""

    mean: Array
    samples: list[Array]
    baseline: Array
    misfit: float

    @property
    def spread(self) -> Array | None:
        """Standard deviation over the samples, shape (c, i, j, k); not calibrated."""
        return np.std(self.samples, axis=0, ddof=1).astype(np.float32) if len(self.samples) > 1 else None


def run_plan(
    volume: Volume, plan: Plan, model: Preconditioned, settings: Settings, on_progress: OnProgress | None = None
) -> Run:
    """Carry out a plan on every frame; the frames are independent scans on one grid."""
    conformed = volume.reoriented()
    frames = [_run_frame(frame, volume.modality, plan, model, settings, on_progress) for frame in conformed.data]
    return Run(
        mean=np.stack([frame.mean for frame in frames]),
        samples=[np.stack(parts) for parts in zip(*(frame.samples for frame in frames), strict=True)],
        baseline=np.stack([frame.baseline for frame in frames]),
        misfit=max(frame.misfit for frame in frames),
    )


def _run_frame(
    frame: Array,
    modality: Modality,
    plan: Plan,
    model: Preconditioned,
    settings: Settings,
    on_progress: OnProgress | None,
) -> Run:
    codec = IntensityCodec.fit(frame, modality)
    device = next(model.parameters()).device
    measured = torch.from_numpy(np.ascontiguousarray(codec.encode(frame.astype(np.float32))))[None, None].to(device)
    lower = float(codec.encode(0.0)) if frame.min() >= 0 else None
    settings = Settings(
        settings.samples,
        settings.steps,
        settings.solver,
        settings.guidance,
        settings.seed,
        settings.noise_std,
        lower,
        settings.tiling,
    )
    mean, baseline = measured, measured
    samples = [measured] * settings.samples
    for stage in plan.stages:
        operator = stage.operator()
        done: Restored = restore(model, operator, mean, settings, on_progress)
        # A later axis continues each sample of the axis before it.
        samples = (
            list(done.samples)
            if stage is plan.stages[0]
            else [
                restore(model, operator, one, settings, on_progress).samples[index] for index, one in enumerate(samples)
            ]
        )
        mean, baseline = done.mean, operator.reference(baseline)
    return Run(
        mean=_decode(mean, codec),
        samples=[_decode(one, codec) for one in samples],
        baseline=_decode(baseline, codec),
        misfit=total_misfit(plan, mean, measured),
    )


def total_misfit(plan: Plan, x: torch.Tensor, measured: torch.Tensor) -> float:
    """Slice the result again as the scanner did, axis by axis, and compare: relative error of the whole chain."""
    for stage in reversed(plan.stages):
        x = stage.operator().forward(x)
    return float((x - measured).norm() / measured.norm().clamp_min(1e-30))


def _decode(x: torch.Tensor, codec: IntensityCodec) -> Array:
    return np.asarray(codec.decode(x[0, 0].float()).cpu().numpy())


def _write(
    source: Path,
    target: Path,
    volume: Volume,
    plan: Plan,
    run: Run,
    record: dict[str, Any],
    options: ReconstructOptions,
    frame_step: float | None,
) -> ReconstructResult:
    geometry = plan.fine_geometry(volume.geometry)
    conformed, _, _ = geometry.reoriented()

    def place(data: Array) -> Volume:
        return Volume(data, conformed, volume.modality).like(geometry)

    stem, suffix = split_name(target)
    restored, baseline = place(run.mean), place(run.baseline)
    paths = []
    for index, one in enumerate(run.samples):
        path = target.with_name(f"{stem}_sample-{index + 1:02d}{suffix}")
        paths.append(write_volume(place(one), path, frame_step=frame_step, source=source))
    spread = None
    if run.spread is not None:
        spread = target.with_name(f"{stem}_spread{suffix}")
        write_volume(place(run.spread), spread, frame_step=frame_step, source=source)
        record["spread"] = "standard deviation over the samples: spread, not calibrated"
    volumes = {"input": volume, "baseline": baseline, "restored": restored}
    if options.preview is not None or options.report is not None:
        from medidiff.restoration.present import write_presentation

        write_presentation(volumes, record, preview=options.preview, report=options.report)
    # The volume comes last but for its record: whoever finds the record finds everything that it speaks of.
    write_volume(restored, target, frame_step=frame_step, source=source)
    atomic_write_json(target.with_name(f"{stem}.json"), record)
    return ReconstructResult(target, record, plan, tuple(paths), spread, volumes)


def stage_record(stage: Stage) -> dict[str, Any]:
    """A stage as plain numbers, enough to rebuild its operator."""
    return {
        "kind": "slices",
        "axis": "RAS"[stage.axis],
        "factor": stage.profile.factor,
        "thickness_voxels": stage.profile.thickness,
        "profile": stage.profile.kind,
        "slices": stage.coarse.shape[stage.axis],
        "fine_voxels": stage.fine.shape[stage.axis],
        "fine_spacing_mm": stage.fine.spacing[stage.axis],
    }


def split_name(path: Path) -> tuple[str, str]:
    """File name without and with its whole suffix: ``scan.nii.gz`` -> (``scan``, ``.nii.gz``)."""
    for suffix in SUFFIXES:
        if path.name.lower().endswith(suffix):
            return path.name[: -len(suffix)], path.name[-len(suffix) :]
    return path.name, ""


def default_output(source: Path) -> Path:
    """Beside the source, so that the result is found where it is looked for."""
    stem, suffix = split_name(source)
    return source.with_name(f"{stem}_medidiff{suffix if suffix in ('.mgz', '.nrrd') else '.nii.gz'}")


def check_output(source: Path, target: Path, options: ReconstructOptions) -> Path:
    """Refuse a place that cannot be written before minutes are spent on what would be written there.

    Raises:
        OutputError: unknown suffix, missing folder, or the target is the source.
    """
    if split_name(target)[1] not in (".nii", ".nii.gz", ".mgz", ".mgh", ".nrrd"):
        raise OutputError(f"cannot write {target}: the name must end in .nii, .nii.gz, .mgz, .mgh or .nrrd")
    for path in (target, options.preview, options.report):
        if path is None:
            continue
        if not path.parent.is_dir():
            raise OutputError(f"cannot write {path}: there is no folder {path.parent}; create it first")
        if path.is_dir():
            raise OutputError(f"cannot write {path}: it is a folder")
        if path.exists() and source.exists() and path.samefile(source):
            raise OutputError(f"cannot write {path}: it is the input; choose another name")
    return target


def peak_memory_mb() -> float:
    """Largest resident memory of this process so far, MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak / 1e3
