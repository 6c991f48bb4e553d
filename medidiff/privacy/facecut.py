"""Where a face is, said in patient coordinates, so that one scan's answer serves every image of the same head.

Seen from the side, a face lies before and below the brain: beyond half-planes that touch the brain's outline from the
front, from straight ahead down to steeply below. They take the nose, eyes, mouth, chin and brow; they cannot reach the
brain, because each one lies outside all of it. A localizer, a thin slab or a tilted stack needs no brain of its own:
its voxels lie beyond the planes or they do not.

The idea of a plane that shears the face off along the brain's hull: Schimke, Hale (2011), Quickshear defacing for
neuroimages.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medidiff.geometry import Geometry

Array = NDArray[Any]

# Directions of the cuts in degrees below straight ahead.
_CUTS = (10, 20, 30, 40, 50, 60, 70)
_BROW_MM = 25.0
_FRONT_POLE_MM = 15.0


@dataclass(frozen=True, slots=True)
class FaceCut:
    """Half-spaces that hold a face and no brain.

    Args:
        distances: For each cutting direction, how far along it the face begins, mm from the world's origin.
        brow: The face ends here above, mm up. Straight ahead of the upper brain is forehead, which tells little and
            shields the frontal lobe.
    """

    distances: tuple[float, ...]
    brow: float

    def covers(self, geometry: Geometry) -> Array:
        """The voxels of a grid that are face, shape (i, j, k)."""
        ahead, up = _ahead_and_up(geometry)
        face = np.zeros(geometry.shape, dtype=bool)
        for degrees, distance in zip(_CUTS, self.distances, strict=True):
            face |= _along(ahead, up, degrees) > distance
        return np.asarray(face & (up < self.brow))

    @property
    def token(self) -> str:
        """A short name of this cut, the same for the same planes."""
        text = ",".join(f"{value:.3f}" for value in (*self.distances, self.brow))
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def cut_before(protected: Array, geometry: Geometry, margin: float) -> FaceCut:
    """The cut that spares a brain.

    Args:
        protected: The brain and what must be spared around it, shape (i, j, k), not empty.
        geometry: Its grid.
        margin: How far from it the cut begins, mm.
    """
    ahead, up = (np.broadcast_to(part, geometry.shape)[protected] for part in _ahead_and_up(geometry))
    distances = tuple(float(_along(ahead, up, degrees).max()) + margin for degrees in _CUTS)
    front = ahead > ahead.max() - _FRONT_POLE_MM
    return FaceCut(distances, float(np.percentile(up[front], 10)) + _BROW_MM)


def _along(ahead: Array, up: Array, degrees: float) -> Array:
    return np.asarray(np.cos(np.radians(degrees)) * ahead - np.sin(np.radians(degrees)) * up)


def _ahead_and_up(geometry: Geometry) -> tuple[Array, Array]:
    """World A and S of every voxel, mm."""
    grid = np.indices(geometry.shape, sparse=True)
    ahead, up = (
        np.asarray(sum(geometry.affine[world, axis] * grid[axis] for axis in range(3)) + geometry.affine[world, 3])
        for world in (1, 2)
    )
    return ahead, up
