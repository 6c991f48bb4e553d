"""Where voxels lie: grids in world RAS+ millimetres.

A ``Geometry`` maps voxel *centres* (i, j, k) to world coordinates, as NIfTI does. DICOM's LPS never gets past
``medidiff.io.dicom``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medidiff.errors import GeometryError

Array = NDArray[Any]

# Cosines of scanners are stored with about six digits; a real shear (gantry tilt) is far above this.
SHEAR_TOLERANCE = 1e-3

_AXIS_CODES = (("L", "R"), ("P", "A"), ("I", "S"))


@dataclass(frozen=True, slots=True, eq=False)
class Geometry:
    """A voxel grid in space.

    Args:
        affine: Voxel index to world RAS+ mm, shape (4, 4), float64.
        shape: Number of voxels (i, j, k).
    Raises:
        GeometryError: the affine is not a finite, invertible 4x4 matrix, or the shape is not three positive ints.
    """

    affine: Array
    shape: tuple[int, int, int]

    def __post_init__(self) -> None:
        affine = np.array(self.affine, dtype=np.float64)
        if affine.shape != (4, 4):
            raise GeometryError(f"an affine must be 4x4, got {affine.shape}")
        if not np.isfinite(affine).all():
            raise GeometryError("the affine has values that are not finite")
        if not np.allclose(affine[3], (0, 0, 0, 1)):
            raise GeometryError(f"the last row of an affine must be 0 0 0 1, got {affine[3].tolist()}")
        if abs(np.linalg.det(affine[:3, :3])) < 1e-12:
            raise GeometryError("the affine is singular: two voxel axes point the same way, or a spacing is zero")
        shape = tuple(int(n) for n in self.shape)
        if len(shape) != 3 or min(shape) < 1:
            raise GeometryError(f"a grid needs three positive sizes, got {self.shape}")
        affine.setflags(write=False)
        object.__setattr__(self, "affine", affine)
        object.__setattr__(self, "shape", shape)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Geometry) and self.shape == other.shape and np.array_equal(self.affine, other.affine)

    def __hash__(self) -> int:
        return hash((self.shape, self.affine.tobytes()))

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Distance between neighbouring voxel centres along (i, j, k), mm."""
        i, j, k = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(i), float(j), float(k)

    @property
    def direction(self) -> Array:
        """Unit vectors of the voxel axes, as columns, shape (3, 3)."""
        return np.asarray(self.affine[:3, :3] / np.asarray(self.spacing))

    @property
    def origin(self) -> Array:
        """World position of voxel (0, 0, 0), mm, shape (3,)."""
        return np.asarray(self.affine[:3, 3])

    @property
    def extent(self) -> tuple[float, float, float]:
        """Edge-to-edge size along (i, j, k), mm."""
        si, sj, sk = self.spacing
        ni, nj, nk = self.shape
        return ni * si, nj * sj, nk * sk

    @property
    def shear(self) -> float:
        """Largest cosine between two voxel axes: 0 for an orthogonal grid."""
        gram = self.direction.T @ self.direction
        return float(np.abs(gram - np.diag(np.diag(gram))).max())

    @property
    def is_orthogonal(self) -> bool:
        return self.shear < SHEAR_TOLERANCE

    @property
    def orientation(self) -> str:
        """Nearest anatomical direction of each axis, e.g. ``"RAS"``."""
        order, signs = self._anatomical_axes()
        codes = [""] * 3
        for world, (voxel, sign) in enumerate(zip(order, signs, strict=True)):
            codes[voxel] = _AXIS_CODES[world][int(sign > 0)]
        return "".join(codes)

    def _anatomical_axes(self) -> tuple[list[int], list[int]]:
        """For each world axis R, A, S: the voxel axis nearest to it and its sign.

        The voxel axis closest to any world axis chooses first, as in nibabel, so that all tools say the same letters.
        """
        cosines = self.direction
        strength = np.abs(cosines)
        order, free = [0, 0, 0], [0, 1, 2]
        for voxel in np.argsort(-strength.max(axis=0), kind="stable"):
            world = free[int(np.argmax(strength[free, voxel]))]
            free.remove(world)
            order[world] = int(voxel)
        return order, [1 if cosines[w, v] >= 0 else -1 for w, v in enumerate(order)]

    def to_world(self, index: Array) -> Array:
        """World position in mm of voxel indices, shape (..., 3)."""
        return np.asarray(index) @ self.affine[:3, :3].T + self.affine[:3, 3]

    def to_index(self, world: Array) -> Array:
        """Fractional voxel index of world positions in mm, shape (..., 3)."""
        return np.asarray((np.asarray(world) - self.affine[:3, 3]) @ np.linalg.inv(self.affine[:3, :3]).T)

    def reoriented(self) -> tuple[Geometry, tuple[int, int, int], tuple[bool, bool, bool]]:
        """The same grid with axes nearest to R, A, S.

        Returns:
            The geometry, the voxel axis taken for each new axis, and whether each new axis is flipped.
        """
        order, signs = self._anatomical_axes()
        flips = tuple(sign < 0 for sign in signs)
        matrix = np.eye(4)
        matrix[:3, :3] = 0
        for new, (old, flip) in enumerate(zip(order, flips, strict=True)):
            matrix[old, new] = -1 if flip else 1
            matrix[old, 3] = self.shape[old] - 1 if flip else 0
        shape = tuple(self.shape[old] for old in order)
        return Geometry(self.affine @ matrix, shape), tuple(order), flips  # type: ignore[arg-type, return-value]

    def resampled(self, axis: int, count: int, spacing: float) -> Geometry:
        """A grid with another number and distance of voxels along one axis, about the same centre."""
        step = self.affine[:3, axis] / self.spacing[axis]
        affine = self.affine.copy()
        affine[:3, axis] = step * spacing
        shift = (self.shape[axis] - 1) * self.spacing[axis] / 2 - (count - 1) * spacing / 2
        affine[:3, 3] += step * shift
        shape = list(self.shape)
        shape[axis] = count
        return Geometry(affine, (shape[0], shape[1], shape[2]))

    def cropped(self, start: tuple[int, int, int], shape: tuple[int, int, int]) -> Geometry:
        """The sub-grid that begins at voxel ``start``; a negative start pads."""
        affine = self.affine.copy()
        affine[:3, 3] = self.to_world(np.asarray(start, dtype=float))
        return Geometry(affine, shape)

    def distance(self, other: Geometry) -> float:
        """Largest distance in mm between corresponding corners; infinite for different shapes."""
        if self.shape != other.shape:
            return float("inf")
        corners = np.stack(np.meshgrid(*[(0, n - 1) for n in self.shape], indexing="ij"), axis=-1).reshape(-1, 3)
        return float(np.linalg.norm(self.to_world(corners) - other.to_world(corners), axis=1).max())
