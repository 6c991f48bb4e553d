"""Whole heads in two stages: a coarse generator decides what is where, a super-resolution prior adds the detail.

The second stage is no other than the restoration of a scan with thick voxels: the coarse image is the measurement. So
the result, seen through thick voxels again, is the coarse image; nothing that was decided is decided anew.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from medidiff.diffusion.denoiser import Preconditioned
from medidiff.errors import ConfigError
from medidiff.geometry import Geometry
from medidiff.operators.slices import SliceOperator, SliceProfile
from medidiff.progress import OnProgress
from medidiff.restoration.solve import Settings, restore
from medidiff.rng import derive_seed
from medidiff.volume import Volume

Array = NDArray[Any]

# Between these, in coarse over fine voxels, the shipped prior was trained.
FACTORS = (1.2, 10.0)
# One axis after the other, as the prior met slices in training: of a T1 head at 4 mm that is 0.24 dB better than all
# three at once, and samples drawn at once are full of streaks.
ORDER = (2, 1, 0)


@dataclass(frozen=True, slots=True)
class Upsampler:
    """The second stage.

    Args:
        prior: A model that restores slices.
        spacing: Wanted distance of voxels, mm.
        sample: Draw a sample along every axis; else the posterior mean of each, in one evaluation.
        steps: Evaluations a sample and axis.
    """

    prior: Preconditioned
    spacing: float = 1.0
    sample: bool = False
    steps: int = 8

    def image(self, coarse: Volume, seed: int = 0, on_step: OnProgress | None = None) -> Volume:
        """The image on a finer grid over the same space, same units, shape (1, i, j, k).

        Args:
            coarse: One frame in model units, axes to R, A, S.
            seed: Of the samples.
        Raises:
            ConfigError: the wanted spacing is not finer than the image's, or much too fine.
        """
        fine = self.grid(coarse.geometry)
        device = next(self.prior.parameters()).device
        x = torch.from_numpy(np.ascontiguousarray(coarse.data[:1], dtype=np.float32))[None].to(device)
        lower = 0.0 if float(coarse.data.min()) >= 0 else None
        for axis, operator in zip(ORDER, self.operators(coarse.geometry, fine), strict=True):
            own = derive_seed(seed, axis)
            settings = Settings(samples=int(self.sample), steps=self.steps, seed=own, lower=lower)
            done = restore(self.prior, operator, x, settings, on_step)
            x = done.samples[0] if self.sample else done.mean
        return Volume(x[0].float().cpu().numpy(), fine, coarse.modality)

    def label(self, coarse: Volume) -> Volume:
        """A label map on the same finer grid: the class that fills most of a voxel, borders made smooth.

        It is the coarse map drawn finer, and knows nothing of the finer image.
        """
        fine = self.grid(coarse.geometry)
        best, chosen = np.full(fine.shape, -np.inf, np.float32), np.zeros(fine.shape, coarse.data.dtype)
        for value in np.unique(coarse.data):
            share = resized((coarse.data[0] == value).astype(np.float32), fine.shape)
            chosen[share > best] = value
            best = np.maximum(best, share)
        return Volume(chosen[None], fine, coarse.modality)

    def grid(self, coarse: Geometry) -> Geometry:
        """The fine grid: the same space, voxels of about the wanted size.

        Raises:
            ConfigError: the prior was not trained for such a step.
        """
        fine = coarse
        for axis in range(3):
            factor = coarse.spacing[axis] / self.spacing
            if not FACTORS[0] <= factor <= FACTORS[1]:
                raise ConfigError(
                    f"from {coarse.spacing[axis]:g} mm to {self.spacing:g} mm is a factor of {factor:.3g}; the second "
                    f"stage takes {FACTORS[0]:g} to {FACTORS[1]:g}"
                )
            count = math.ceil(coarse.shape[axis] * factor - 1e-6)
            fine = fine.resampled(axis, count, coarse.shape[axis] * coarse.spacing[axis] / count)
        return fine

    def operators(self, coarse: Geometry, fine: Geometry) -> list[SliceOperator]:
        """What thick voxels do along each axis of ``ORDER``, given that those before are already fine."""
        shape, found = list(coarse.shape), []
        for axis in ORDER:
            factor = fine.shape[axis] / coarse.shape[axis]
            shape[axis] = fine.shape[axis]
            # As the coarse training data were made: full width at half maximum is the spacing.
            profile = SliceProfile(factor, factor, "gaussian")
            size = (1, shape[0], shape[1], shape[2])
            found.append(SliceOperator(size, axis, profile, count=coarse.shape[axis]))
        return found


def resized(data: Array, shape: tuple[int, int, int]) -> Array:
    """Linear interpolation onto a finer grid over the same space, voxel edges on voxel edges."""
    factors = [n / old for n, old in zip(shape, data.shape, strict=True)]
    return np.asarray(ndimage.zoom(data, factors, order=1, mode="nearest", grid_mode=True))
