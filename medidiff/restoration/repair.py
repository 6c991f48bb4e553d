"""Repairs on a scan's own grid: holes are filled, noise is taken out. Physical units in and out."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from medidiff.data.intensity import IntensityCodec
from medidiff.diffusion.denoiser import Preconditioned
from medidiff.diffusion.tiling import HALO
from medidiff.errors import ConfigError, GeometryError, InputError
from medidiff.geometry import Geometry
from medidiff.metrics.foreground import head_mask
from medidiff.metrics.noise import noise_floor
from medidiff.operators.base import Identity, LinearOperator
from medidiff.operators.mask import PATCH, MaskOperator
from medidiff.progress import OnProgress
from medidiff.restoration.plan import SMALLEST_FACTOR, Plan
from medidiff.restoration.run import Frame, Run, joined
from medidiff.restoration.solve import Measurement, Restored, Settings, restore
from medidiff.rng import derive_seed
from medidiff.volume import Volume

Array = NDArray[Any]

# The deepest hole that the shipped prior was trained to fill: half axes up to 14 voxels.
DEEPEST_TRAINED_HOLE = 14.0
# Two grids are the same if no corner is further off than this share of a voxel.
SAME_GRID = 0.1
# Noise over the bright end of the head with which the shipped prior was trained.
TRAINED_NOISE = (0.01, 0.15)
# Neighbours in air that agree more than this were filtered or interpolated, and their noise is no longer the head's.
WHITE_CORRELATION = 0.15


class Repair(Protocol):
    """Something that is done to every voxel of a scan on its own grid."""

    def plan(self, geometry: Geometry) -> Plan:
        """What is going to be done, in words."""
        ...

    def run(
        self, volume: Volume, model: Preconditioned, settings: Settings, on_progress: OnProgress | None = None
    ) -> Run:
        """Do it to every frame."""
        ...

    @property
    def guidance(self) -> str:
        """The rule that serves it best, one of ``medidiff.guidance.RULES``."""
        ...

    def record(self) -> dict[str, Any]:
        """The operator as plain numbers."""
        ...

    def exact_operators(self) -> tuple[LinearOperator, ...]:
        """The operators that bind, see ``medidiff.restoration.nullspace``; none where the data are noisy."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Inpaint:
    """Fill holes; every other voxel stays as it is, to the last bit.

    Args:
        missing: True where the scan is not to be believed, conformed axes (i->R, j->A, k->S), shape (i, j, k).
    """

    missing: Array

    @classmethod
    def from_mask(cls, mask: Volume, geometry: Geometry) -> Inpaint:
        """Take a mask volume (0 believed, anything else missing) for a scan on ``geometry``.

        Raises:
            GeometryError: the mask lies on another grid.
            InputError: it is no mask, or leaves nothing to do or nothing to do it from.
        """
        check_same_grid(mask.geometry, geometry)
        if len(mask.data) != 1:
            raise InputError(f"a mask has one frame, got {len(mask.data)}")
        values = np.unique(mask.data)
        if len(values) > 2 or (len(values) == 2 and values[0] != 0):
            raise InputError(
                f"a mask has two values, 0 for what is kept and 1 for what is missing; got {len(values)} values "
                f"from {values[0]:g} to {values[-1]:g}"
            )
        missing = mask.reoriented().data[0] != 0
        if missing.all() or not missing.any():
            raise InputError(f"the mask marks {'every voxel' if missing.all() else 'no voxel'}: 1 means missing")
        return cls(missing)

    @property
    def guidance(self) -> str:
        return "projection"

    def plan(self, geometry: Geometry) -> Plan:
        count = int(self.missing.sum())
        words = (
            f"{count} voxels ({count / self.missing.size:.2%}) are marked as missing; they are filled from what "
            "surrounds them, and every other voxel stays as it is."
        )
        warnings = unequal_sides(geometry)
        depth = float(ndimage.distance_transform_edt(self.missing[self.box]).max())
        if depth > DEEPEST_TRAINED_HOLE:
            warnings.append(
                f"A hole is {depth:.0f} voxels deep; the shipped prior was trained on {DEEPEST_TRAINED_HOLE:g}. "
                "What it puts there is guesswork."
            )
        return Plan((), min(geometry.spacing), (words,), tuple(warnings))

    def record(self) -> dict[str, Any]:
        return {"kind": "inpaint", "missing_voxels": int(self.missing.sum())}

    def exact_operators(self) -> tuple[LinearOperator, ...]:
        return (MaskOperator((1, *self.missing.shape), torch.from_numpy(~self.missing)),)

    @property
    def box(self) -> tuple[slice, ...]:
        """The part of the scan that the network looks at: all holes, and what it can see from them."""
        box = []
        for axis, n in enumerate(self.missing.shape):
            hit = np.flatnonzero(self.missing.any(axis=tuple(a for a in range(3) if a != axis)))
            # Not smaller than a patch of training, as far as the scan goes: the share that is missing is one of that.
            start = max(0, min(int(hit[0]) - HALO, n - PATCH))
            box.append(slice(start, min(n, max(int(hit[-1]) + 1 + HALO, start + PATCH))))
        return tuple(box)

    def run(
        self, volume: Volume, model: Preconditioned, settings: Settings, on_progress: OnProgress | None = None
    ) -> Run:
        box = self.box
        hole = self.missing[box]
        operator = MaskOperator((1, *hole.shape), torch.from_numpy(~hole))

        def fill(frame: Array, settings: Settings, counted: OnProgress) -> Frame:
            known = frame[~self.missing]
            codec = IntensityCodec.fit(known, volume.modality)
            settings = replace(settings, lower=float(codec.encode(0.0)) if known.min() >= 0 else None)
            y = operator.forward(_encode(frame[box], codec, model))
            done = restore(model, operator, y, settings, counted)

            def pasted(x: torch.Tensor) -> Array:
                # Every bit of what was measured survives: it never goes through the codec.
                whole = frame.astype(np.result_type(frame.dtype, np.float32))
                whole[box][hole] = _decode(x, codec)[hole]
                return whole

            return Frame(
                pasted(done.mean),
                tuple(pasted(sample) for sample in done.samples),
                pasted(operator.reference(y)),
                done.misfit,
            )

        return every_frame(volume, fill, settings, on_progress)


@dataclass(frozen=True, slots=True)
class Denoise:
    """Take Gaussian or Rician noise out.

    Args:
        noise_std: Standard deviation of the noise, physical units; estimated in each frame if None.
    """

    noise_std: float | None = None

    def __post_init__(self) -> None:
        if self.noise_std is not None and not 0 < self.noise_std < math.inf:
            raise ConfigError(f"--noise-std must be a positive number, got {self.noise_std:g}")

    @property
    def guidance(self) -> str:
        # The noisy scan is what the network was given: weighing its answer against the same scan once more would put
        # noise back (measured: 1 to 1.7 dB worse, at every noise level, Gaussian and Rician).
        return "unguided"

    def plan(self, geometry: Geometry) -> Plan:
        level = "estimated from the scan" if self.noise_std is None else f"{self.noise_std:g} as given"
        words = (f"Noise is taken out of every voxel; its standard deviation is {level}.",)
        return Plan((), min(geometry.spacing), words, tuple(unequal_sides(geometry)))

    def record(self) -> dict[str, Any]:
        return {"kind": "denoise", "noise_std": "estimated" if self.noise_std is None else self.noise_std}

    def exact_operators(self) -> tuple[LinearOperator, ...]:
        return ()

    def run(
        self, volume: Volume, model: Preconditioned, settings: Settings, on_progress: OnProgress | None = None
    ) -> Run:
        def clean(frame: Array, settings: Settings, counted: OnProgress) -> Frame:
            noise = self.noise_std or estimate_noise(frame, volume.geometry.reoriented()[0].spacing)
            codec = IntensityCodec.fit(frame, volume.modality)
            settings = replace(
                settings,
                lower=float(codec.encode(0.0)) if frame.min() >= 0 else None,
                noise_std=noise / codec.scale,
            )
            y = _encode(frame, codec, model)
            operator: Measurement = Identity((1, *frame.shape))
            done: Restored = restore(model, operator, y, settings, counted)
            taken = float((done.mean - y).square().mean().sqrt()) * codec.scale
            low, high = TRAINED_NOISE
            return Frame(
                _decode(done.mean, codec),
                tuple(_decode(sample, codec) for sample in done.samples),
                frame.astype(np.float32),
                done.misfit,
                {"noise_std": noise, "residual_over_noise": taken / noise},
                () if low / 2 <= settings.noise_std <= high else (_unusual_noise(settings.noise_std),),
            )

        return every_frame(volume, clean, settings, on_progress)


def estimate_noise(frame: Array, spacing: tuple[float, float, float]) -> float:
    """Standard deviation of the noise of a magnitude image, from its air where that is plain noise, else from the head.

    Raises:
        InputError: there is no noise, or too little image to tell.
    """
    try:
        found = noise_floor(frame, head_mask(frame, spacing=spacing))
    except InputError as error:
        raise InputError(f"the noise cannot be estimated ({error}); give it with --noise-std") from error
    white = found.correlation is not None and max(abs(c) for c in found.correlation) < WHITE_CORRELATION
    noise = found.background_sigma if found.background_sigma is not None and white else found.sigma
    if not noise > 0:
        raise InputError("no noise is found in this scan; if there is some, give it with --noise-std")
    return noise


def check_same_grid(mask: Geometry, scan: Geometry) -> None:
    """Refuse a mask of another grid; the order and direction of the axes may differ.

    Raises:
        GeometryError: shapes or places differ.
    """
    one, other = mask.reoriented()[0], scan.reoriented()[0]
    if one.shape != other.shape:
        raise GeometryError(f"the mask has {one.shape} voxels, the scan {other.shape}: resample it to the scan first")
    distance = one.distance(other)
    if distance > SAME_GRID * min(other.spacing):
        raise GeometryError(f"the mask lies {distance:.3g} mm from the scan: resample it to the scan first")


def unequal_sides(geometry: Geometry) -> list[str]:
    """A doubt about thick slices: repairs were learned on voxels of equal sides."""
    ratio = max(geometry.spacing) / min(geometry.spacing)
    if ratio < SMALLEST_FACTOR:
        return []
    doubt = f"Voxels are {ratio:.3g} times as long as they are wide; the shipped prior learned repairs on equal sides."
    return [f"{doubt} Consider restoring the slices first."]


def every_frame(
    volume: Volume,
    one: Callable[[Array, Settings, OnProgress], Frame],
    settings: Settings,
    on_progress: OnProgress | None,
) -> Run:
    """Frames are independent scans on one grid, each with noise of its own."""
    conformed = volume.reoriented()
    each = 1 + settings.samples * settings.steps
    frames = []
    for number, frame in enumerate(conformed.data):

        def counted(done: int, _: int, what: str, before: int = number * each) -> None:
            if on_progress is not None:
                on_progress(before + done, len(conformed.data) * each, what)

        frames.append(one(frame, replace(settings, seed=derive_seed(settings.seed, number)), counted))
    return joined(volume, frames)


def _unusual_noise(level: float) -> str:
    low, high = TRAINED_NOISE
    return (
        f"The noise is {level:.1%} of the bright end of the scan; the shipped prior was trained on {low:.0%} to "
        f"{high:.0%}. If the estimate is wrong, say --noise-std."
    )


def _encode(frame: Array, codec: IntensityCodec, model: Preconditioned) -> torch.Tensor:
    """One frame as a batch, model units, on the model's device."""
    encoded = np.ascontiguousarray(codec.encode(frame.astype(np.float32)))
    return torch.from_numpy(encoded)[None, None].to(next(model.parameters()).device)


def _decode(x: torch.Tensor, codec: IntensityCodec) -> Array:
    return np.asarray(codec.decode(x[0, 0].float()).cpu().numpy())
