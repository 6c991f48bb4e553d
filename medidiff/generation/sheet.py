"""What a scan looks like to the model that is to change a part of it: the box, the units, and what is kept.

Two kinds of prior can change a scan. One that restores (``brain-t1``) is told of the hole and works on a scan of any
size. A generator of small volumes is told nothing of the hole, has a grid of its own, and may know label maps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medidiff.data.intensity import IntensityCodec
from medidiff.diffusion.denoiser import Denoiser, Preconditioned
from medidiff.diffusion.generator import GenerativeModel, Value
from medidiff.diffusion.tiling import HALO, TiledDenoiser
from medidiff.errors import InputError
from medidiff.generation.codes import LabelCodec
from medidiff.generation.edit import EditSettings, OnStep, Window, regenerate
from medidiff.guidance import condition_from, unconditional
from medidiff.operators.mask import PATCH, MaskOperator
from medidiff.volume import Modality

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Sheet:
    """A window of a scan, ready to be changed.

    Args:
        prior: Over what ``image`` holds.
        image: Model units, shape (1, c, i, j, k); the scan is the first channel.
        keep: True where a value stays, shape (c, i, j, k).
        window: Where the window lies in the scan.
        codec: Physical to model units.
    """

    prior: Denoiser
    image: Tensor
    keep: Tensor
    window: Window
    codec: IntensityCodec

    def draw(self, settings: EditSettings, frame: Array, region: Array, on_step: OnStep | None = None) -> list[Array]:
        """Whole scans in which the region is drawn anew, physical units, shape (i, j, k); ``frame`` elsewhere."""
        scans = []
        for x in regenerate(self.prior, self.image, self.keep, settings, on_step):
            whole = frame.astype(np.float32, copy=True)
            self.window.paste(self.codec.decode(x[0, 0].float().cpu().numpy()), whole, region)
            scans.append(whole)
        return scans


def restorer_sheet(model: Preconditioned, frame: Array, region: Array, modality: Modality) -> Sheet:
    """For a model that restores: the region is a hole that it is told of.

    Args:
        frame: Physical units, shape (i, j, k), axes nearest to R, A, S.
        region: True where the scan changes, same shape.
    """
    codec = IntensityCodec.fit(frame if region.all() else frame[~region], modality)
    # Not smaller than a patch of training, as far as the scan goes; no further than the network sees.
    start, size = [], []
    for axis, n in enumerate(region.shape):
        hit = np.flatnonzero(region.any(axis=tuple(a for a in range(3) if a != axis)))
        first = max(0, min(int(hit[0]) - HALO, n - PATCH))
        start.append(first)
        size.append(min(n, max(int(hit[-1]) + 1 + HALO, first + PATCH)) - first)
    window = Window((start[0], start[1], start[2]), (size[0], size[1], size[2]))
    device = next(model.parameters()).device
    image = torch.from_numpy(window.cut(codec.encode(frame.astype(np.float32))))[None, None].to(device)
    keep = torch.from_numpy(~window.cut(region))[None]
    if not keep.any():
        return Sheet(TiledDenoiser(model, unconditional(tuple(image.shape), device)), image, keep, window, codec)
    operator = MaskOperator(tuple(image.shape[1:]), keep)
    condition = condition_from(operator, operator.forward(image))
    return Sheet(TiledDenoiser(model, condition), image, keep, window, codec)


def generator_sheet(
    model: GenerativeModel,
    frame: Array,
    region: Array,
    labels: Array | None,
    values: Mapping[str, Value],
    modality: Modality,
    guidance_scale: float = 1.0,
) -> Sheet:
    """For a generator of small volumes: its grid around the region, and the joint prior of image and label channels.

    Args:
        frame: Physical units, shape (i, j, k), axes nearest to R, A, S, voxels of the size that the generator knows.
        region: True where the scan changes, same shape.
        labels: What there is to be, in the region and outside, same shape; None lets the generator choose.
        values: Named conditions.
    Raises:
        InputError: the region is larger than the generator's grid, or a label value is unknown to it.
        ConfigError: a condition is.
    """
    spec, device = model.spec, next(model.parameters()).device
    window = Window.around(region, spec.shape)
    inside = window.cut(np.ones(frame.shape, bool), outside=False)
    change = window.cut(region, outside=False)
    part = window.cut(frame.astype(np.float32))
    known = inside & ~change
    # What is to go does not set the brightness, unless there is nothing else.
    fitted = IntensityCodec.fit(part[known] if known.any() else part[inside], modality)
    codec = IntensityCodec(fitted.scale * spec.intensity_std, fitted.offset + fitted.scale * spec.intensity_mean)
    channels = torch.zeros(1, spec.channels, *spec.shape)
    channels[0, 0] = torch.from_numpy(codec.encode(part) * inside)
    keep = torch.zeros(spec.channels, *spec.shape, dtype=torch.bool)
    keep[0] = torch.from_numpy(~change)
    given = None
    if labels is not None:
        given = torch.from_numpy(LabelCodec.of(spec).encode(window.cut(labels, outside=0)))[None]
        channels[:, 1:], keep[1:] = given, True
    conditions = model.conditions([values], labels=given, inside=torch.from_numpy(inside)[None, None].float())
    return Sheet(model.given(conditions, guidance_scale), channels.to(device), keep, window, codec)


def check_region(mask: Array) -> Array:
    """A mask volume's voxels as True where the scan is to change.

    Args:
        mask: Shape (c, i, j, k).
    Raises:
        InputError: several frames, more than two values, nothing marked, or everything.
    """
    if len(mask) != 1:
        raise InputError(f"a mask has one frame, got {len(mask)}")
    values = np.unique(mask)
    if len(values) > 2 or (len(values) == 2 and values[0] != 0):
        raise InputError(
            f"a mask has two values, 0 for what is kept and 1 for what changes; got {len(values)} values "
            f"from {values[0]:g} to {values[-1]:g}"
        )
    region: Array = mask[0] != 0
    if not region.any():
        raise InputError("the mask marks no voxel: 1 means that a voxel changes")
    return region
