"""One thing to be reconstructed: what was measured, what will be done about it, and how."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from medidiff.diffusion.denoiser import Preconditioned
from medidiff.errors import GeometryError, InputError
from medidiff.geometry import Geometry
from medidiff.io import VolumeInfo, check_restorable, probe, read_volume
from medidiff.operators.base import LinearOperator
from medidiff.progress import OnProgress
from medidiff.restoration.plan import Plan, Stage, make_plan
from medidiff.restoration.repair import Repair
from medidiff.restoration.run import Run, run_plan, unchanged
from medidiff.restoration.solve import Settings
from medidiff.volume import Modality, Volume

# The shipped prior for each kind of image; there is none for the others.
DEFAULT_PRIORS = {Modality.MR: "brain-t1"}


class Job(Protocol):
    """Something measured, and what is to be done about it.

    A job is made from paths and headers, so that a user is told what will be done, and what is wrong, before minutes
    are spent. Voxels and samples are read when they are first asked for.
    """

    @property
    def kind(self) -> str:
        """``slices``, ``inpaint``, ``denoise``, ...: how records, pictures and pages speak of it."""
        ...

    @property
    def geometry(self) -> Geometry:
        """Grid of the result, with the axes that the result's file shall have."""
        ...

    @property
    def modality(self) -> Modality:
        """What the result's values mean."""
        ...

    @property
    def frame_step(self) -> float | None:
        """Time between frames, s; None if there is none."""
        ...

    @property
    def guidance(self) -> str:
        """The rule that serves it best, one of ``medidiff.guidance.RULES``."""
        ...

    @property
    def prior(self) -> str | None:
        """Name of the shipped model that suits it; None if none does."""
        ...

    @property
    def idle(self) -> bool:
        """There is nothing to do: the input is the result, and no model is needed."""
        ...

    @property
    def simulated(self) -> bool:
        """The measurements were made from an image, by us or by others, not by a scanner."""
        ...

    def plan(self) -> Plan:
        """What was lost and what is going to be done, in words."""
        ...

    def record(self) -> list[dict[str, Any]]:
        """The operators as plain numbers, enough to rebuild them."""
        ...

    def run(self, model: Preconditioned, settings: Settings, on_progress: OnProgress | None = None) -> Run:
        """Do it."""
        ...


@dataclass(frozen=True)
class Scan:
    """A scan in a file or folder: its header now, its voxels when they are asked for.

    Args:
        path: Where it lies.
        info: What its header says.
    """

    path: Path
    info: VolumeInfo

    @classmethod
    def at(cls, path: Path) -> Scan:
        """Look at the header.

        Raises:
            InputError: it is no volume.
        """
        return cls(path, probe(path))

    @cached_property
    def volume(self) -> Volume:
        """The voxels, read once.

        Raises:
            InputError: they cannot be read, or there is nothing in them to restore.
        """
        volume = read_volume(self.path)
        check_restorable(volume, self.path)
        if volume.modality is Modality.LABEL:
            raise InputError(f"{self.path}: this is a label map, not a scan; restore the scan and segment that")
        return volume


class OfScan:
    """What every job of one scan has in common."""

    scan: Scan
    simulated = False

    @property
    def modality(self) -> Modality:
        return self.scan.volume.modality

    @property
    def frame_step(self) -> float | None:
        return self.scan.info.frame_step

    @property
    def prior(self) -> str | None:
        return DEFAULT_PRIORS.get(self.modality)


@dataclass(frozen=True)
class SliceJob(OfScan):
    """Thick slices to voxels of equal sides, one axis after the other."""

    scan: Scan
    chosen: Plan
    kind = "slices"
    guidance = "projection"

    @classmethod
    def of(cls, scan: Scan, **choices: Any) -> SliceJob:
        """Plan from the header; ``choices`` as for ``make_plan``, with the header's thickness as a default.

        Raises:
            GeometryError: the grid cannot be restored.
        """
        if choices.get("thickness") is None:
            choices["thickness"] = scan.info.slice_thickness
        try:
            return cls(scan, make_plan(scan.info.geometry, **choices))
        except GeometryError as error:
            raise GeometryError(f"{scan.path}: {error}") from error

    @property
    def geometry(self) -> Geometry:
        return self.chosen.fine_geometry(self.scan.info.geometry)

    @property
    def idle(self) -> bool:
        return not self.chosen.stages

    def plan(self) -> Plan:
        return self.chosen

    def record(self) -> list[dict[str, Any]]:
        return [stage_record(stage) for stage in self.chosen.stages]

    def exact_operators(self) -> tuple[LinearOperator, ...]:
        """One a stage; each is invertible on its own axis."""
        return tuple(stage.operator() for stage in self.chosen.stages)

    def run(self, model: Preconditioned, settings: Settings, on_progress: OnProgress | None = None) -> Run:
        if self.idle:
            return unchanged(self.scan.volume, settings.samples)
        return run_plan(self.scan.volume, self.chosen, model, settings, on_progress)


@dataclass(frozen=True)
class RepairJob(OfScan):
    """Something done to every voxel of a scan on its own grid."""

    scan: Scan
    repair: Repair
    idle = False

    @property
    def kind(self) -> str:
        return str(self.repair.record()["kind"])

    @property
    def geometry(self) -> Geometry:
        return self.scan.info.geometry

    @property
    def guidance(self) -> str:
        return self.repair.guidance

    def plan(self) -> Plan:
        return self.repair.plan(self.geometry)

    def record(self) -> list[dict[str, Any]]:
        return [self.repair.record()]

    def exact_operators(self) -> tuple[LinearOperator, ...]:
        """What is not missing binds; noisy voxels do not."""
        return self.repair.exact_operators()

    def run(self, model: Preconditioned, settings: Settings, on_progress: OnProgress | None = None) -> Run:
        return self.repair.run(self.scan.volume, model, settings, on_progress)


def stage_record(stage: Stage) -> dict[str, Any]:
    """A stage as plain numbers, enough to rebuild its operator."""
    return {
        "kind": "slices",
        "axis": "RAS"[stage.axis],
        "factor": stage.profile.factor,
        "thickness_voxels": stage.profile.thickness,
        "profile": stage.profile.kind,
        **({} if stage.profile.measured is None else {"profile_voxels": asdict(stage.profile.measured)}),
        "slices": stage.coarse.shape[stage.axis],
        "fine_voxels": stage.fine.shape[stage.axis],
        "fine_spacing_mm": stage.fine.spacing[stage.axis],
    }
