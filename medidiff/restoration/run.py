"""Carrying out a plan: every frame, one axis after the other, physical units in and out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from medidiff.data.intensity import IntensityCodec
from medidiff.diffusion.denoiser import Preconditioned
from medidiff.progress import OnProgress
from medidiff.restoration.plan import Plan
from medidiff.restoration.solve import Restored, Settings, restore
from medidiff.rng import derive_seed
from medidiff.volume import Modality, Volume

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Run:
    """Arrays of a finished reconstruction, shape (c, i, j, k), physical units, conformed axes.

    Args:
        input: What there was before, as an image on its own grid; of raw data the classical image.
        mean: The estimate.
        samples: Posterior samples, each like ``mean``.
        baseline: Cubic interpolation and exact projection, without a network.
        misfit: Relative data-consistency error of ``mean`` over the whole chain; of the worst frame.
        details: What was found out on the way, by frame; physical units.
        warnings: Doubts that only the voxels could raise.
        evaluations: Of the network, for ``mean``.
    """

    input: Volume
    mean: Array
    samples: tuple[Array, ...]
    baseline: Array
    misfit: float
    details: tuple[dict[str, float], ...] = ()
    warnings: tuple[str, ...] = ()
    evaluations: int = 1

    @property
    def spread(self) -> Array | None:
        """Standard deviation over the samples, shape (c, i, j, k); not calibrated. None for fewer than two."""
        return np.std(self.samples, axis=0, ddof=1).astype(np.float32) if len(self.samples) > 1 else None


@dataclass(frozen=True, slots=True)
class Frame:
    """What came of one frame, shape (i, j, k); else like ``Run``."""

    mean: Array
    samples: tuple[Array, ...]
    baseline: Array
    misfit: float
    details: dict[str, float] | None = None
    warnings: tuple[str, ...] = ()


def joined(volume: Volume, frames: Sequence[Frame]) -> Run:
    """Frames of one scan, each restored on its own, as one result."""
    return Run(
        input=volume,
        mean=np.stack([frame.mean for frame in frames]),
        samples=tuple(np.stack(parts) for parts in zip(*(frame.samples for frame in frames), strict=True)),
        baseline=np.stack([frame.baseline for frame in frames]),
        misfit=max(frame.misfit for frame in frames),
        details=tuple(frame.details for frame in frames if frame.details is not None),
        warnings=tuple(dict.fromkeys(text for frame in frames for text in frame.warnings)),
    )


def unchanged(volume: Volume, samples: int = 0) -> Run:
    """What an empty plan comes to: the scan itself, to the last bit."""
    data = volume.reoriented().data
    return Run(volume, data, (data,) * samples, data, 0.0)


def run_plan(
    volume: Volume, plan: Plan, model: Preconditioned, settings: Settings, on_progress: OnProgress | None = None
) -> Run:
    """Carry out a plan on every frame; the frames are independent scans on one grid."""
    conformed = volume.reoriented()
    counter = _Counter(len(conformed.data), len(plan.stages), settings, on_progress)
    frames = [
        # Frames with one noise in common would agree for no other reason.
        _run_frame(frame, volume.modality, plan, model, replace(settings, seed=derive_seed(settings.seed, n)), counter)
        for n, frame in enumerate(conformed.data)
    ]
    return joined(volume, frames)


class _Counter:
    """Adds the evaluations of all frames and axes up to one progress."""

    def __init__(self, frames: int, stages: int, settings: Settings, on_progress: OnProgress | None) -> None:
        first = 1 + settings.samples * settings.steps
        later = 1 + settings.samples * (1 + settings.steps)
        self.total = frames * (first + (stages - 1) * later)
        self.finished = 0
        self.on_progress = on_progress

    def __call__(self, done: int, total: int, what: str) -> None:
        if self.on_progress is not None:
            self.on_progress(self.finished + done, self.total, what)
        if done == total:
            self.finished += total


def _run_frame(
    frame: Array, modality: Modality, plan: Plan, model: Preconditioned, settings: Settings, counter: _Counter
) -> Frame:
    codec = IntensityCodec.fit(frame, modality)
    device = next(model.parameters()).device
    measured = torch.from_numpy(np.ascontiguousarray(codec.encode(frame.astype(np.float32))))[None, None].to(device)
    settings = replace(settings, lower=float(codec.encode(0.0)) if frame.min() >= 0 else None)
    mean, baseline = measured, measured
    samples: list[torch.Tensor] = []
    for number, stage in enumerate(plan.stages):
        operator = stage.operator()
        done: Restored = restore(
            model, operator, mean, settings if number == 0 else replace(settings, samples=0), counter
        )
        if number == 0:
            samples = list(done.samples)
        else:  # each sample of the axis before is gone on with
            for index, before in enumerate(samples):
                own = replace(settings, samples=1, seed=derive_seed(settings.seed, number, index))
                samples[index] = restore(model, operator, before, own, counter).samples[0]
        mean, baseline = done.mean, operator.reference(baseline)
    return Frame(
        mean=_decode(mean, codec),
        samples=tuple(_decode(one, codec) for one in samples),
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
