"""A scan: numbers on a grid, and what kind of numbers they are."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medidiff.errors import GeometryError
from medidiff.geometry import Geometry


class Modality(StrEnum):
    """What the voxel values mean: MR in arbitrary units, CT in Hounsfield units, labels as integers."""

    MR = "MR"
    CT = "CT"
    LABEL = "LABEL"
    OTHER = "OTHER"


@dataclass(frozen=True, slots=True, eq=False)
class Volume:
    """A 3D image with one or more channels or time points on one grid.

    ``data`` is a NumPy array, not a tensor: reading, ingesting and writing scans then never import torch
    (3 CPU-seconds); the engine turns it into a tensor at its own door.

    Args:
        data: Values in physical units, shape (c, i, j, k); c counts channels or 4D frames.
        geometry: Where the voxels lie.
        modality: What the values mean.
    Raises:
        GeometryError: the data is not 4-dimensional or does not fit the grid.
    """

    data: NDArray[Any]
    geometry: Geometry
    modality: Modality = Modality.MR

    def __post_init__(self) -> None:
        if self.data.ndim != 4 or self.data.shape[1:] != self.geometry.shape:
            raise GeometryError(f"data must be (c, i, j, k) on a grid of {self.geometry.shape}, got {self.data.shape}")

    def reoriented(self) -> Volume:
        """The same scan with axes nearest to R, A, S; no value is changed."""
        geometry, order, flips = self.geometry.reoriented()
        data = self.data.transpose(0, *(axis + 1 for axis in order))
        data = data[(slice(None), *(slice(None, None, -1) if flip else slice(None) for flip in flips))]
        return Volume(np.ascontiguousarray(data), geometry, self.modality)

    def like(self, geometry: Geometry) -> Volume:
        """Undo ``reoriented``: the axes of ``geometry`` nearest to R, A, S, flipped and ordered as they are there.

        Raises:
            GeometryError: this volume is not the reoriented form of that grid's orientation.
        """
        _, order, flips = geometry.reoriented()
        data = self.data[(slice(None), *(slice(None, None, -1) if flip else slice(None) for flip in flips))]
        inverse = np.argsort(order)
        data = data.transpose(0, *(int(axis) + 1 for axis in inverse))
        if data.shape[1:] != geometry.shape:
            raise GeometryError(f"cannot lay {self.data.shape[1:]} onto a grid of {geometry.shape}")
        return Volume(np.ascontiguousarray(data), geometry, self.modality)
