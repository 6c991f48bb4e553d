"""The people that all three learn from, and the scale on which they see them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from medidiff.data.cohort import Cohort, load_people, people
from medidiff.diffusion.haar import haar

SHAPE = (40, 56, 40)
TRAINING, HELD_OUT = 160, 40
# Of the training people, the last so many choose the settings: nobody held out is seen before the end.
CHOOSING = 32


def training(data: Path, shape: tuple[int, int, int] = SHAPE) -> Tensor:
    """Images of the training people, shape (n, 1, i, j, k), model units."""
    return _images(Cohort(images=data, first=TRAINING), shape)


def held_out(data: Path, shape: tuple[int, int, int] = SHAPE) -> Tensor:
    """Images of the people whom nothing was trained or tuned on."""
    return _images(Cohort(images=data, last=HELD_OUT), shape)


def _images(cohort: Cohort, shape: tuple[int, int, int]) -> Tensor:
    return torch.from_numpy(load_people(people(cohort), shape).images)


@dataclass(frozen=True, slots=True)
class Scale:
    """What the training images measure; all three see them standardised, on the same Haar bands.

    Args:
        mean, std: Of the voxels.
        bands: Standard deviation of each Haar band of the standardised images, shape (8,).
        middle: Their mean image as Haar bands, shape (8, i, j, k): where the decoders of GAN and VAE begin.
    """

    mean: float
    std: float
    bands: Tensor
    middle: Tensor

    @classmethod
    def of(cls, images: Tensor) -> Scale:
        mean, std = float(images.mean()), float(images.std())
        bands = haar((images - mean) / std)
        return cls(mean, std, bands.std((0, 2, 3, 4)), bands.mean(0))

    def standardised(self, images: Tensor) -> Tensor:
        return (images - self.mean) / self.std

    def physical(self, images: Tensor) -> Tensor:
        """Back to model units."""
        return images * self.std + self.mean
