"""A scan of which the user says what was done to it: any composition of operators, undone together."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from medidiff.config import load_config
from medidiff.data.intensity import IntensityCodec
from medidiff.diffusion.denoiser import Preconditioned
from medidiff.errors import GeometryError
from medidiff.geometry import Geometry
from medidiff.operators.base import LinearOperator
from medidiff.operators.mask import MaskOperator
from medidiff.operators.motion import MovedSlices
from medidiff.operators.slices import SliceOperator
from medidiff.progress import OnProgress
from medidiff.restoration.chain import DATA_STEPS, Chain, Turned
from medidiff.restoration.jobs.base import OfScan, Scan
from medidiff.restoration.operator_config import OperatorConfig, build
from medidiff.restoration.plan import Plan
from medidiff.restoration.repair import every_frame
from medidiff.restoration.run import Frame, Run
from medidiff.restoration.solve import Settings, restore

Array = NDArray[Any]

# Expected standard deviation of truth minus classical answer, model units: the residual at factor 4.
CLASSICAL_ERROR = 0.06
# Nothing is inverted as if it were free of noise: below this share of the above, noise is rounding and interpolation.
SMALLEST_NOISE = 0.03


@dataclass(frozen=True)
class ComposedJob(OfScan):
    """Undo what a file says was done.

    Args:
        config: The steps.
        folder: Where the files that it names are.
    """

    scan: Scan
    config: OperatorConfig
    folder: Path
    kind = "composed"
    idle = False

    @classmethod
    def of(cls, scan: Scan, path: Path) -> ComposedJob:
        """Read the file and see that it suits the scan.

        Raises:
            ConfigError: the file is no such configuration.
            GeometryError: it does not suit the scan.
        """
        job = cls(scan, load_config(path, OperatorConfig), path.parent)
        try:
            job.built  # noqa: B018
        except GeometryError as error:
            raise GeometryError(f"{path}: {error}") from error
        return job

    @cached_property
    def built(self) -> tuple[Geometry, list[LinearOperator], list[str]]:
        """Conformed grid of the result, operators to the conformed scan, words."""
        conformed, _, _ = self.scan.info.geometry.reoriented()
        return build(self.config, conformed, self.folder)

    @property
    def geometry(self) -> Geometry:
        fine, original = self.built[0], self.scan.info.geometry
        _, order, _ = original.reoriented()
        for axis in range(3):
            if fine.shape[axis] != original.shape[order[axis]]:
                original = original.resampled(order[axis], fine.shape[axis], fine.spacing[axis])
        return original

    @property
    def guidance(self) -> str:
        return "proximal" if self.config.noise_std else "projection"

    def plan(self) -> Plan:
        return Plan((), min(self.built[0].spacing), tuple(self.built[2]))

    def record(self) -> list[dict[str, Any]]:
        return [step.model_dump(mode="json", exclude_none=True) for step in self.config.steps]

    def run(self, model: Preconditioned, settings: Settings, on_progress: OnProgress | None = None) -> Run:
        def undo(frame: Array, settings: Settings, counted: OnProgress) -> Frame:
            codec = IntensityCodec.fit(frame, self.modality)
            settings = replace(
                settings,
                lower=float(codec.encode(0.0)) if frame.min() >= 0 else None,
                noise_std=self.config.noise_std / codec.scale,
            )
            device = next(model.parameters()).device
            encoded = np.ascontiguousarray(codec.encode(frame.astype(np.float32)))
            operator = as_learned(Chain(self.built[1], damping(settings.noise_std), DATA_STEPS))
            y = torch.from_numpy(encoded)[None, None].to(device)
            if isinstance(self.built[1][-1], MaskOperator):
                # What lies in lost voxels is no measurement: no image could reproduce it.
                y = self.built[1][-1].forward(y)
            done = restore(model, operator, y, settings, counted)

            def decoded(x: torch.Tensor) -> Array:
                return np.asarray(codec.decode(operator.back(x)[0, 0].float()).cpu().numpy())

            return Frame(
                decoded(done.mean), tuple(map(decoded, done.samples)), decoded(operator.reference(y)), done.misfit
            )

        return every_frame(self.scan.volume, undo, settings, on_progress)


def damping(noise_std: float) -> float:
    """Squared noise of the data over that of the classical answer before it is brought to agree with them."""
    return max(noise_std / CLASSICAL_ERROR, SMALLEST_NOISE) ** 2


def as_learned(chain: Chain) -> Turned:
    """The chain with its thickest slices along the last axis, where the network met them in training."""
    sliced = [step for step in chain.steps if isinstance(step, SliceOperator | MovedSlices)]
    thickest = max(sliced, key=lambda step: step.profile.factor, default=None)
    return Turned(chain, 2 if thickest is None else thickest.axis)
