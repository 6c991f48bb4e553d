"""Raw parallel-beam projections to an image: several looks of the prior, each brought back to the data."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medidiff.diffusion.denoiser import Condition, Denoiser, Preconditioned
from medidiff.diffusion.network import NoNetwork
from medidiff.diffusion.path import sigma_schedule
from medidiff.diffusion.sampler import SOLVERS, sample
from medidiff.diffusion.tiling import TiledDenoiser
from medidiff.errors import InputError
from medidiff.geometry import Geometry
from medidiff.guidance import Posterior, condition_from, uncertainty
from medidiff.io.sinogram import Sinogram, SinogramInfo, probe_sinogram, read_sinogram
from medidiff.operators.likelihood import Likelihood
from medidiff.operators.projection import ParallelBeam
from medidiff.progress import OnProgress
from medidiff.restoration.looks import DATA_STEPS, LOOKS, ORIENTATIONS, PLANES, look_again, unexplained
from medidiff.restoration.plan import Plan
from medidiff.restoration.run import Run
from medidiff.restoration.solve import SAMPLE_FROM, SAMPLE_TO, Settings
from medidiff.rng import generators
from medidiff.volume import Modality, Volume

Array = NDArray[Any]

# What is brightest is laid to this model value: dense bone, as in training.
BRIGHT, BRIGHT_PERCENTILE = 1.0, 99.5
# Views and noise that the shipped prior was trained with.
TRAINED_VIEWS = (15, 100)
TRAINED_NOISE = 0.05
NOT_BODIES = (
    "The shipped CT prior was trained on the trunks of people; anything else, such as a tooth, a phantom or a rock, is "
    "beyond it. Compare with the answer without a network (--fast)."
)
NO_PLACE = (
    "The file does not say how the object lay: letters such as R and A in pictures mean the rows and columns of the "
    "detector's turn, nothing of a person."
)
NOT_HU = (
    "Values are attenuation, not Hounsfield units: nothing in the file says what water attenuates. For the prior they "
    "are scaled by the densest parts of the picture."
)


@dataclass(frozen=True)
class ProjectionJob:
    """Projections in a file: their header now, their counts when they are asked for."""

    path: Path
    info: SinogramInfo
    kind = "projections"
    modality = Modality.OTHER
    frame_step = None
    guidance = "proximal"
    prior = "ct-body"
    idle = False
    simulated = False

    @classmethod
    def at(cls, path: Path) -> ProjectionJob:
        """Look at the header.

        Raises:
            InputError: there are no projections that can be reconstructed.
        """
        return cls(path, probe_sinogram(path))

    @cached_property
    def sinogram(self) -> Sinogram:
        """The line integrals, read once."""
        return read_sinogram(self.path)

    @property
    def pixel(self) -> float:
        """Side of a voxel, mm; 1 where it is not known."""
        return self.info.pixel_mm or 1.0

    @property
    def geometry(self) -> Geometry:
        """A grid about the rotation axis: as many pixels a side as the detector has bins, a plane for each row."""
        shape = (self.info.detectors, self.info.detectors, self.info.rows)
        affine = np.diag([self.pixel, self.pixel, self.pixel, 1.0])
        affine[:3, 3] = [-self.pixel * (n - 1) / 2 for n in shape]
        return Geometry(affine, shape)

    def operator(self) -> ParallelBeam:
        """The projections as a linear operator on that grid, lengths in voxels."""
        shape = self.geometry.shape
        angles = np.deg2rad(self.info.angles).tolist()
        return ParallelBeam((1, *shape), angles, detectors=self.info.detectors, centre=self.sinogram.centre)

    def plan(self) -> Plan:
        unit = "attenuation per voxel" if self.info.pixel_mm is None else "attenuation per mm"
        side = self.info.detectors
        done = f"They are reconstructed to {self.info.rows} planes of {side} x {side} pixels, in {unit}."
        warnings = (*self.info.warnings, NO_PLACE, NOT_HU)
        of_prior = [NOT_BODIES]
        if not TRAINED_VIEWS[0] <= self.info.views <= TRAINED_VIEWS[1]:
            of_prior.append(
                f"The shipped prior was trained with {TRAINED_VIEWS[0]} to {TRAINED_VIEWS[1]} views; here are "
                f"{self.info.views}."
            )
        return Plan((), self.pixel, (*self.info.words, done), warnings, tuple(of_prior))

    def record(self) -> list[dict[str, Any]]:
        return [
            {
                "kind": "projections",
                "views": self.info.views,
                "angles_degrees": [round(angle, 6) for angle in self.info.angles],
                "detectors": self.info.detectors,
                "rows": self.info.rows,
                "pixel_mm": self.info.pixel_mm,
                "centre_bins": self.sinogram.centre,
                "noise_std": self.sinogram.noise_std,
            }
        ]

    @torch.no_grad()
    def run(self, model: Preconditioned, settings: Settings, on_progress: OnProgress | None = None) -> Run:
        device = next(model.parameters()).device
        operator, sinogram = self.operator(), self.sinogram
        y = torch.from_numpy(sinogram.data)[None, None].to(device)
        scale = float(np.percentile(operator.classical(y).cpu().numpy(), BRIGHT_PERCENTILE)) / BRIGHT
        if not 0 < scale < math.inf:
            raise InputError(f"{self.path}: nothing in the projections attenuates; there is nothing to reconstruct")
        y, noise = y / scale, sinogram.noise_std / scale
        condition = condition_from(operator, y, noise)
        # Without a network the classical answer is the estimate, noise and streaks and all.
        looks = 0 if isinstance(model.network, NoNetwork) else LOOKS
        evaluations = looks * ORIENTATIONS
        count = _Progress(evaluations + settings.samples * settings.steps, on_progress)
        mean, samples = condition.reference, []
        if looks:
            mean = look_again(model, operator, y, noise, looks=looks, condition=condition, on_look=count)[-1]
            samples = draw(model, operator, y, noise, condition, settings, count)
        misfit = float(Likelihood(operator, y, noise).misfit(mean).max())
        decode = scale / self.pixel
        baseline = (decode * condition.reference)[0].cpu().numpy()
        conformed = self.geometry
        return Run(
            input=Volume(baseline, conformed, self.modality),
            mean=(decode * mean)[0].cpu().numpy(),
            samples=tuple((decode * one)[0].cpu().numpy() for one in samples),
            baseline=baseline,
            misfit=misfit,
            warnings=(*sinogram.warnings, *(self._doubts(operator.task(noise).noise) if looks else ())),
            evaluations=evaluations,
        )

    def _doubts(self, noise: float) -> tuple[str, ...]:
        if noise <= TRAINED_NOISE:
            return ()
        return (f"The noise, {noise:.2g} of the densest parts, is beyond the prior's training ({TRAINED_NOISE:g}).",)


def draw(
    model: Preconditioned,
    operator: ParallelBeam,
    y: Tensor,
    noise: float,
    condition: Condition,
    settings: Settings,
    count: Callable[[], None],
) -> list[Tensor]:
    """Posterior samples, shape (1, 1, i, j, k) each; every step goes back to the data as the looks do."""

    level = unexplained(operator, y, condition.reference, noise)

    def guidance(prior: Denoiser, _: Likelihood, x: Tensor, sigma: Tensor) -> Tensor:
        rho = float(uncertainty(prior.spread, sigma).max())
        out = operator.consistent(prior(x, sigma), y, (level / rho) ** 2, steps=DATA_STEPS)
        count()
        return out

    prior = TiledDenoiser(model, condition, PLANES)
    posterior = Posterior(prior, Likelihood(operator, y, noise), guidance)
    sigmas = sigma_schedule(SAMPLE_TO * prior.spread, SAMPLE_FROM * prior.spread, settings.steps)
    return [
        sample(
            posterior,
            (1, *operator.in_shape),
            sigmas,
            generators=[generators(settings.seed, index + 1)[index]],
            solver=SOLVERS[settings.solver],
            start=condition.reference,
        ).clamp_min(0)
        for index in range(settings.samples)
    ]


class _Progress:
    """Counts evaluations of the network."""

    def __init__(self, total: int, on_progress: OnProgress | None) -> None:
        self.done, self.total, self.on_progress = 0, total, on_progress

    def __call__(self) -> None:
        self.done += 1
        if self.on_progress is not None:
            self.on_progress(self.done, self.total, "looks")
