"""The use case *reconstruct*: a scan in, a better one out, in the same place, with a record of how.

Whatever can be said about the arguments and the header is said before torch is loaded.
"""

from __future__ import annotations

import json
import math
import platform
import re
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medidiff import __version__
from medidiff.errors import CheckpointError, ConfigError, GeometryError, InputError, OutputError
from medidiff.io import VolumeInfo, check_restorable, probe, read_volume, write_volume
from medidiff.io.atomic import atomic_write_json
from medidiff.io.places import beside, check_targets, default_output
from medidiff.models import find_model, is_shipped, read_info
from medidiff.rng import resolve_seed
from medidiff.volume import Modality, Volume

if TYPE_CHECKING:
    import torch

    from medidiff.operators.slices import Profile
    from medidiff.restoration import Plan, Repair, Run, Stage

OnProgress = Callable[[int, int, str], None]
OnPlan = Callable[["Plan"], None]

DEFAULT_MODEL = "brain-t1"
# A record is a few kilobytes.
MAX_RECORD_BYTES = 1 << 20
NOT_CALIBRATED = "standard deviation over the samples: spread, not calibrated"


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
        fast: No network: cubic interpolation and exact projection, in seconds.
        preview: Where to write a picture.
        report: Where to write an HTML page.
        inpaint: A mask of voxels to fill (1 = missing) on the scan's grid; the slices are then left as they are.
        denoise: Take noise out; the slices are then left as they are.
        noise_std: Standard deviation of that noise, physical units; estimated if None.
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
    inpaint: Path | None = None
    denoise: bool = False
    noise_std: float | None = None

    def __post_init__(self) -> None:
        if self.samples < 0 or not 1 <= self.steps <= 1000:
            raise ConfigError(f"--samples must be >= 0 and --steps 1 to 1000, got {self.samples} and {self.steps}")
        for name, value in (("--spacing", self.spacing), ("--thickness", self.thickness)):
            if value is not None and not 0 < value < math.inf:
                raise ConfigError(f"{name} must be a positive number of mm, got {value:g}")
        if self.device is not None and not re.fullmatch(r"cpu|cuda(:\d+)?", self.device):
            raise ConfigError(f"--device must be cpu, cuda or cuda:N, got {self.device!r}")
        if self.inpaint is not None and self.denoise:
            raise ConfigError("--inpaint and --denoise are two jobs: do one, then the other with its result")
        if self.repairs and (self.spacing is not None or self.thickness is not None):
            raise ConfigError("--inpaint and --denoise keep the grid: --spacing and --thickness are for slices")
        if self.noise_std is not None and not (self.denoise and 0 < self.noise_std < math.inf):
            raise ConfigError("--noise-std is a positive number, and goes with --denoise")
        if self.fast and (self.model is not None or self.samples or self.repairs):
            raise ConfigError(
                "--fast uses no network: it goes with neither --model, --samples, --inpaint nor --denoise"
            )

    @property
    def repairs(self) -> bool:
        """The scan is repaired on its own grid, instead of restoring what lies between slices."""
        return self.denoise or self.inpaint is not None

    def find_model(self) -> Path | None:
        """The file of the model to use; None if no network is wanted.

        Raises:
            CheckpointError: there is no such model, or the file is none.
        """
        if self.fast:
            return None
        path = find_model(self.model or DEFAULT_MODEL)
        read_info(path)
        return path


@dataclass(frozen=True, slots=True)
class ReconstructResult:
    """What was written, and the record that lies beside it."""

    output: Path
    record: dict[str, Any]
    plan: Plan
    samples: tuple[Path, ...] = ()
    spread: Path | None = None
    volumes: dict[str, Volume] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Targets:
    """Every file that a reconstruction will leave."""

    volume: Path
    samples: tuple[Path, ...]
    spread: Path | None
    record: Path
    preview: Path | None
    report: Path | None

    @classmethod
    def of(cls, volume: Path, options: ReconstructOptions) -> Targets:
        return cls(
            volume=volume,
            samples=tuple(beside(volume, f"_sample-{index:02d}") for index in range(1, options.samples + 1)),
            spread=beside(volume, "_spread") if options.samples > 1 else None,
            record=beside(volume, "", ".json"),
            preview=options.preview,
            report=options.report,
        )

    def check(self, source: Path) -> None:
        """Refuse places that cannot be written before minutes are spent on what would be written there.

        Raises:
            OutputError: see ``medidiff.io.places.check_targets``.
        """
        others = (self.record, *(path for path in (self.preview, self.report) if path is not None))
        check_targets((self.volume, *self.samples, *((self.spread,) if self.spread else ())), others, source)
        for path, suffixes in ((self.preview, (".png",)), (self.report, (".html", ".htm"))):
            if path is not None and path.suffix.lower() not in suffixes:
                raise OutputError(f"cannot write {path}: its name must end in {' or '.join(suffixes)}")
        if self.record.exists() and not _is_record(self.record):
            raise OutputError(
                f"cannot write {self.record}: a file of that name is there that is no record of medidiff, "
                "such as the scan's own sidecar; choose another output"
            )


def _is_record(path: Path) -> bool:
    """Whether a file is a record that an earlier reconstruction left, and may be replaced."""
    try:
        if path.stat().st_size > MAX_RECORD_BYTES:
            return False
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(found, dict) and {"medidiff", "plan", "operators"} <= found.keys()


def reconstruct(
    source: Path,
    output: Path | None,
    options: ReconstructOptions,
    on_progress: OnProgress | None = None,
    on_plan: OnPlan | None = None,
) -> ReconstructResult:
    """Restore a scan and write it with a JSON record, each file whole or not at all.

    Args:
        source: NIfTI, MGZ, NRRD, or a folder with one DICOM series.
        output: Where to write; by default beside the source, ``<name>_medidiff.nii.gz``.
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
    targets = Targets.of(output or default_output(source), options)
    targets.check(source)
    path = options.find_model()  # what is no model at all is told before the scan is read
    info = probe(source)
    repair = _repair_for(options, info)
    plan = plan_for(info, options, source) if repair is None else repair.plan(info.geometry)
    volume = read_volume(source)
    check_restorable(volume, source)
    if plan.stages or repair is not None:
        _check_prior(volume, source, path)
    device = choose_device(options.device)
    if on_plan is not None:
        on_plan(plan)
    run, about = _restored(volume, repair or plan, path, device, options, on_progress)
    record = about | {
        "plan": list(plan.words),
        "warnings": [*plan.warnings, *run.warnings],
        "operators": [stage_record(stage) for stage in plan.stages] if repair is None else [repair.record()],
        "samples": options.samples,
        "simulated": False,
        "frames": len(volume.data),
        "data_consistency_nrmse": run.misfit,
        **({"by_frame": list(run.details)} if run.details else {}),
        "seconds": round(time.perf_counter() - begun, 2),
        "peak_memory_mb": round(peak_memory_mb()),
    }
    return _write(source, targets, volume, plan, run, record, info.frame_step)


def _repair_for(options: ReconstructOptions, info: VolumeInfo) -> Repair | None:
    """What is to be repaired on the scan's own grid, if that was asked for.

    Raises:
        InputError: the mask is none, or not one of this scan.
    """
    if options.denoise:
        from medidiff.restoration import Denoise

        return Denoise(options.noise_std)
    if options.inpaint is None:
        return None
    from medidiff.restoration import Inpaint
    from medidiff.restoration.repair import check_same_grid

    try:
        check_same_grid(probe(options.inpaint).geometry, info.geometry)  # before it is read
        return Inpaint.from_mask(read_volume(options.inpaint), info.geometry)
    except GeometryError as error:
        raise GeometryError(f"{options.inpaint}: {error}") from error
    except InputError as error:
        raise InputError(f"{options.inpaint}: {error}") from error


def plan_for(info: VolumeInfo, options: ReconstructOptions, source: Path) -> Plan:
    """What would be done to a scan, from its header alone.

    Raises:
        GeometryError: its grid cannot be restored.
    """
    from medidiff.restoration import make_plan

    thickness = options.thickness if options.thickness is not None else info.slice_thickness
    try:
        return make_plan(info.geometry, spacing=options.spacing, thickness=thickness, profile=options.profile)
    except GeometryError as error:
        raise GeometryError(f"{source}: {error}") from error


def choose_device(name: str | None) -> torch.device:
    """The device of that name; by default CUDA where there is one.

    Raises:
        ConfigError: this machine has no such device.
    """
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    device = torch.device(name or ("cuda" if count else "cpu"))
    if device.type == "cuda" and (device.index or 0) >= count:
        raise ConfigError(f"there is no device {name}: torch sees {count} CUDA devices here; use --device cpu")
    return device


def _check_prior(volume: Volume, source: Path, model: Path | None) -> None:
    """Refuse what the shipped priors have never seen; whoever brings a model of their own knows what it is for."""
    if volume.modality is Modality.LABEL:
        raise InputError(f"{source}: this is a label map, not a scan; restore the scan and segment that")
    if volume.modality is Modality.CT and model is not None and is_shipped(model):
        raise InputError(
            f"{source}: this is CT, and no CT prior ships yet; give one of your own with --model, or use --fast"
        )


def _restored(
    volume: Volume,
    task: Plan | Repair,
    path: Path | None,
    device: torch.device,
    options: ReconstructOptions,
    on_progress: OnProgress | None,
) -> tuple[Run, dict[str, Any]]:
    """The arrays, and how they came about."""
    import torch

    from medidiff.diffusion.checkpoint import file_hash, load_model
    from medidiff.restoration import Plan, Settings, run_plan, unchanged

    about = {
        "medidiff": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": str(device),
    }
    if isinstance(task, Plan) and not task.stages:
        nothing = {"model": None, "rule": None, "estimate": "the input, unchanged", "steps": None, "seed": None}
        return unchanged(volume, options.samples), about | nothing
    if path is None:
        from medidiff.diffusion.denoiser import Preconditioned
        from medidiff.diffusion.network import NoNetwork

        model, name = Preconditioned(NoNetwork()).to(device).eval(), None
    else:
        model, name = load_model(path, device)[0], {"name": path.stem, "sha256": file_hash(path)}
    settings = Settings(samples=options.samples, steps=options.steps, seed=resolve_seed(options.seed))
    if isinstance(task, Plan):
        run = run_plan(volume, task, model, settings, on_progress)
    else:
        settings = replace(settings, guidance=task.guidance)
        run = task.run(volume, model, settings, on_progress)
    return run, about | {
        "model": name,
        "rule": settings.guidance,
        "estimate": "cubic and exact projection, no network"
        if name is None
        else "posterior mean, one network evaluation",
        "steps": options.steps if options.samples else None,
        "seed": settings.seed if options.samples else None,
    }


def _write(
    source: Path,
    targets: Targets,
    volume: Volume,
    plan: Plan,
    run: Run,
    record: dict[str, Any],
    frame_step: float | None,
) -> ReconstructResult:
    geometry = plan.fine_geometry(volume.geometry)
    conformed, _, _ = geometry.reoriented()

    def place(data: Any) -> Volume:
        return Volume(data, conformed, volume.modality).like(geometry)

    if not (np.isfinite(run.mean).all() and math.isfinite(run.misfit)):
        raise CheckpointError("the model gave values that are not finite: its weights are damaged; nothing was written")
    # The record comes last: whoever finds it finds everything that it speaks of. An older one speaks of other files.
    targets.record.unlink(missing_ok=True)
    for path, sample in zip(targets.samples, run.samples, strict=True):
        write_volume(place(sample), path, frame_step=frame_step, source=source)
    if targets.spread is not None and run.spread is not None:
        write_volume(place(run.spread), targets.spread, frame_step=frame_step, source=source)
        record["spread"] = NOT_CALIBRATED
    volumes = {"input": volume, "baseline": place(run.baseline), "restored": place(run.mean)}
    if targets.preview is not None or targets.report is not None:
        from medidiff.restoration.present import write_presentation

        write_presentation(volumes, record, preview=targets.preview, report=targets.report)
    write_volume(volumes["restored"], targets.volume, frame_step=frame_step, source=source)
    atomic_write_json(targets.record, record)
    return ReconstructResult(targets.volume, record, plan, targets.samples, targets.spread, volumes)


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


def peak_memory_mb() -> float:
    """Largest resident memory of this process so far, MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak / 1e3
