"""Several stacks of thick slices of one head, taken in different directions, joined into one fine volume."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medidiff.data.intensity import IntensityCodec
from medidiff.diffusion.denoiser import Preconditioned
from medidiff.diffusion.path import sigma_schedule
from medidiff.diffusion.sampler import SOLVERS, posterior_mean, sample
from medidiff.errors import GeometryError, InputError
from medidiff.geometry import Geometry
from medidiff.operators.slices import MeasuredProfile, Profile
from medidiff.progress import OnProgress, silent
from medidiff.restoration.jobs.base import DEFAULT_PRIORS, Scan
from medidiff.restoration.joint import Join, JointPosterior, union
from medidiff.restoration.motion import groups_of
from medidiff.restoration.plan import MAX_FINE_VOXELS, Plan
from medidiff.restoration.register import Stack
from medidiff.restoration.run import Run
from medidiff.restoration.solve import SAMPLE_FROM, SAMPLE_TO, Settings
from medidiff.rng import generators
from medidiff.volume import Modality

Array = NDArray[Any]


@dataclass(frozen=True)
class StacksJob:
    """Two or more stacks of one head to one volume of equal sides.

    Args:
        scans: The stacks; the first one says where the head is and which way the result's axes run.
        spacing: Of the result, mm; by default the finest of all stacks.
        thickness: Of the slices, mm; by default as each header says, else slices touch.
        profile: Form of all slice profiles.
        shots: Find out how the head moved between slices that were taken in so many interleaved shots, 0 for each slice
            by itself; None if it did not move. With this, a single stack is welcome too.
    """

    scans: tuple[Scan, ...]
    spacing: float | None = None
    thickness: float | None = None
    profile: Profile | MeasuredProfile = "box"
    shots: int | None = None
    simulated: bool = False
    found: list[dict[str, Any]] = field(default_factory=list)
    idle = False
    guidance = "projection"

    @classmethod
    def of(cls, scans: Sequence[Scan], **choices: Any) -> StacksJob:
        """See from the headers that these are stacks that can be joined.

        Raises:
            ConfigError, GeometryError: they cannot.
        """
        job = cls(tuple(scans), **choices)
        for scan, own in zip(job.scans, job.grids, strict=True):
            if not own.is_orthogonal:
                raise GeometryError(f"{scan.path}: the voxel axes are not at right angles; resample the scan first")
            if sorted(own.shape)[1] < 8:
                raise GeometryError(f"{scan.path}: a stack needs at least 8 voxels along two axes, got {own.shape}")
        if job.shots is not None:
            for own, axis in zip(job.grids, job.axes, strict=True):
                groups_of(own.shape[axis], job.shots)
        first = job.grids[0]
        for scan, own in zip(job.scans[1:], job.grids[1:], strict=True):
            inside = first.to_index(own.to_world((np.asarray(own.shape) - 1) / 2))
            if not ((inside >= 0) & (inside <= np.asarray(first.shape) - 1)).all():
                raise GeometryError(
                    f"{scan.path}: its middle lies outside of the first stack: these are not stacks of one place"
                )
        if math.prod(job.geometry.shape) > MAX_FINE_VOXELS:
            raise GeometryError("the result would be absurdly large: choose a coarser --spacing")
        return job

    @property
    def kind(self) -> str:
        return "stacks" if len(self.scans) > 1 else "motion"

    @property
    def modality(self) -> Modality:
        return self.scans[0].volume.modality

    @property
    def frame_step(self) -> float | None:
        return None

    @property
    def prior(self) -> str | None:
        return DEFAULT_PRIORS.get(self.modality)

    @property
    def grids(self) -> tuple[Geometry, ...]:
        """Conformed grid of each stack."""
        return tuple(scan.info.geometry.reoriented()[0] for scan in self.scans)

    @property
    def target(self) -> float:
        """Wanted voxel distance, mm."""
        return self.spacing or min(min(grid.spacing) for grid in self.grids)

    @property
    def geometry(self) -> Geometry:
        """A grid along the first stack's axes that holds all stacks."""
        return union(self.grids, self.target)

    def plan(self) -> Plan:
        words = [
            f"Stack {n}: {own.shape[axis]} slices {_across(axis)}, {own.spacing[axis]:.3g} mm apart, "
            f"{thickness:.3g} mm thick."
            for n, (own, axis, thickness) in enumerate(zip(self.grids, self.axes, self.widths, strict=True), 1)
        ]
        if self.shots is not None:
            between = f"{self.shots} interleaved shots" if self.shots else "slices"
            words.append(f"How the head moved between {between} is found out together with what it looks like.")
        several = len(self.grids) > 1
        joined = "They are laid onto each other and joined into one volume" if several else "It is restored"
        words.append(f"{joined}: {self.target:.3g} mm voxels, {' x '.join(map(str, self.geometry.shape))}.")
        directions = {_direction(own, axis) for own, axis in zip(self.grids, self.axes, strict=True)}
        warnings: tuple[str, ...] = ()
        if len(directions) < len(self.grids):
            warnings = (
                "Some stacks have their slices in the same direction: they add less than an orthogonal one would.",
            )
        return Plan((), self.target, tuple(words), warnings)

    @property
    def axes(self) -> tuple[int, ...]:
        """Axis across the slices of each stack."""
        return tuple(int(np.argmax(own.spacing)) for own in self.grids)

    @property
    def widths(self) -> tuple[float, ...]:
        """Thickness of the slices of each stack, mm."""
        if isinstance(self.profile, MeasuredProfile):
            return (self.profile.fwhm,) * len(self.scans)
        given = (self.thickness or scan.info.slice_thickness for scan in self.scans)
        return tuple(width or own.spacing[axis] for width, own, axis in zip(given, self.grids, self.axes, strict=True))

    def record(self) -> list[dict[str, Any]]:
        return [
            {
                "kind": "stack",
                "axis": "RAS"[axis],
                "slices": own.shape[axis],
                "spacing_mm": list(own.spacing),
                "thickness_mm": width,
                "profile": "measured" if isinstance(self.profile, MeasuredProfile) else self.profile,
                **(self.found[number] if self.found else {}),
            }
            for number, (own, axis, width) in enumerate(zip(self.grids, self.axes, self.widths, strict=True))
        ]

    def run(self, model: Preconditioned, settings: Settings, on_progress: OnProgress | None = None) -> Run:
        for scan in self.scans:
            if len(scan.volume.data) != 1 or scan.volume.modality is not self.modality:
                raise InputError(f"{scan.path}: stacks are joined that have one frame and are of one kind")
        report = on_progress or silent
        evaluations = 1 + settings.samples * settings.steps
        device = next(model.parameters()).device
        frames = [scan.volume.reoriented().data[0].astype(np.float32) for scan in self.scans]
        codec = IntensityCodec.fit(frames[0], self.modality)
        lower = float(codec.encode(0.0)) if min(float(f.min()) for f in frames) >= 0 else None
        stacks = [
            Stack(self._encoded(frame, codec, device), own, axis, width, self.profile)
            for frame, own, axis, width in zip(frames, self.grids, self.axes, self.widths, strict=True)
        ]
        report(0, evaluations, "laying the stacks onto each other")
        with torch.no_grad():
            joined = Join.of(
                stacks,
                self.geometry.reoriented()[0],
                [str(scan.path) for scan in self.scans],
                float(codec.encode(0.0)),
                self.shots,
            )
            self.found[:] = joined.found
            posterior = joined.posterior(model, settings.tiling)
            baseline = posterior.looks[0].reference
            mean = posterior_mean(posterior, baseline.shape, device=device)
            report(1, evaluations, "posterior mean")
            samples = [self._sample(posterior, settings, n, report) for n in range(settings.samples)]

        def decoded(x: Tensor) -> Array:
            x = x if lower is None else x.clamp_min(lower)
            return np.asarray(codec.decode(x[0].float()).cpu().numpy())

        return Run(
            input=self.scans[0].volume,
            mean=decoded(mean),
            samples=tuple(map(decoded, samples)),
            baseline=decoded(baseline),
            misfit=joined.misfit(mean),
            warnings=tuple(joined.warnings),
        )

    @staticmethod
    def _encoded(frame: Array, codec: IntensityCodec, device: torch.device) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(codec.encode(frame), dtype=np.float32))[None, None].to(device)

    @staticmethod
    def _sample(posterior: JointPosterior, settings: Settings, number: int, report: OnProgress) -> Tensor:
        """One posterior sample, walked down from the classical answer."""
        total = 1 + settings.samples * settings.steps
        start = posterior.looks[0].reference
        return sample(
            posterior,
            start.shape,
            sigma_schedule(SAMPLE_TO * posterior.spread, SAMPLE_FROM * posterior.spread, settings.steps),
            generators=[generators(settings.seed, number + 1)[number]],
            solver=SOLVERS[settings.solver],
            start=start,
            on_step=lambda done, _: report(
                1 + number * settings.steps + done, total, f"sample {number + 1} of {settings.samples}"
            ),
        )


def _across(axis: int) -> str:
    return ("from left to right", "from back to front", "from foot to head")[axis]


def _direction(grid: Geometry, axis: int) -> int:
    """The world axis that a stack's slices lie across."""
    return int(np.argmax(np.abs(grid.direction[:, axis])))
