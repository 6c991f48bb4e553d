"""Blur: a scanner or a filter that spreads every voxel over its neighbours, the same way everywhere."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
from scipy.special import erf
from torch import Tensor

from medidiff.errors import ConfigError
from medidiff.operators.base import OnGrid
from medidiff.operators.separable import SeparableOperator
from medidiff.operators.slices import FWHM_TO_STD

# Beyond four standard deviations a Gaussian weighs less than 1e-4 of its middle.
CUTOFF_STD = 4.0


class BlurOperator(SeparableOperator, OnGrid):
    """Convolve with a Gaussian along some axes; beyond the edge the weights go to the voxels that are there.

    No network was trained on blur: it is told of noise, the nearest thing that it knows of an image on its own grid.

    Args:
        in_shape: Image (c, i, j, k).
        fwhm: Full width at half maximum in voxels, by axis (0, 1 or 2).
    Raises:
        ConfigError: a width that is not positive, or no axis.
        GeometryError: an axis that the image has not.
    """

    def __init__(self, in_shape: tuple[int, ...], fwhm: Mapping[int, float]) -> None:
        for axis, width in fwhm.items():
            if axis not in (0, 1, 2) or not 0 < width < math.inf:
                raise ConfigError(f"a blur has a positive width along axis 0, 1 or 2, got {width:g} along {axis}")
        if not fwhm:
            raise ConfigError("a blur needs at least one axis")
        self.fwhm = dict(fwhm)
        super().__init__(in_shape, {a: gaussian_matrix(in_shape[a + 1], width) for a, width in fwhm.items()})


def gaussian_matrix(size: int, fwhm: float) -> Tensor:
    """A Gaussian integrated over every voxel, each row summing to one, shape (size, size), float64."""
    std = fwhm * FWHM_TO_STD
    centres = np.arange(size)
    edges = np.arange(size + 1) - 0.5 - centres[:, None]
    reach = max(CUTOFF_STD * std, 0.5)
    weights = np.diff(erf(np.clip(edges, -reach, reach) / (math.sqrt(2) * std)), axis=1)
    return torch.from_numpy(weights / weights.sum(axis=1, keepdims=True))
