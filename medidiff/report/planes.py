"""Anatomical planes through volumes on any grid, resampled by their geometry to one common picture grid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medidiff.errors import InputError
from medidiff.geometry import Geometry
from medidiff.metrics.foreground import head_mask
from medidiff.volume import Volume

Array = NDArray[Any]

# From the vertex down to the foramen magnum is about 15 cm in an adult; what lies below is neck and shoulders, and
# would pull the centre out of the brain.
HEAD_HEIGHT_MM = 150.0
MARGIN_MM = 8.0
# With fewer voxels across, a plane is a stripe in which nothing can be seen and letters lie on one another.
FEWEST_VOXELS = 8


@dataclass(frozen=True, slots=True)
class Plane:
    """A rectangle in space that is looked at as radiologists do: the patient's right is on the left.

    Args:
        name: Axial, coronal or sagittal.
        letters: Anatomical directions at the left, right, top and bottom edge.
        world: Position of each pixel, world RAS+ mm, shape (rows, columns, 3); row 0 is the top.
    """

    name: str
    letters: tuple[str, str, str, str]
    world: Array

    def sample(self, volume: Volume, *, order: int) -> Array:
        """The first frame of a volume at the pixels, NaN outside its voxels; ``order`` 0 shows voxels as they are."""
        index = np.moveaxis(volume.geometry.to_index(self.world), -1, 0)
        data = np.asarray(volume.data[0])
        found = ndimage.map_coordinates(data, index, order=order, mode="nearest", output=np.float64)
        limits = np.asarray(volume.geometry.shape)[:, None, None] - 0.5
        return np.where(((index >= -0.5 - 1e-6) & (index <= limits + 1e-6)).all(axis=0), found, np.nan)


# name, constant axis, axis of columns, axis of rows (of a grid whose axes point nearest to R, A, S), edge letters.
_VIEWS = (
    ("Axial", 2, 0, 1, ("R", "L", "A", "P")),
    ("Coronal", 1, 0, 2, ("R", "L", "S", "I")),
    ("Sagittal", 0, 1, 2, ("A", "P", "S", "I")),
)


def three_planes(volume: Volume, *, pixel: float) -> tuple[Plane, Plane, Plane]:
    """Axial, coronal and sagittal plane along the volume's own axes, through its middle, cut to the body.

    Args:
        volume: Decides centre, extent and obliquity; the first frame counts.
        pixel: Distance of pixels, mm.
    """
    whole = Volume(np.asarray(volume.data[:1]), volume.geometry, volume.modality).reoriented()
    geometry = whole.geometry
    centre, low, high = _focus(whole.data[0], geometry)
    planes = []
    for name, fixed, across, up, letters in _VIEWS:
        columns, rows = (_positions(low[a], high[a], pixel / geometry.spacing[a]) for a in (across, up))
        index = np.empty((len(rows), len(columns), 3))
        index[..., fixed] = centre[fixed]
        # Both columns and rows run against R, A, S: right (or anterior) is drawn left, superior (or anterior) on top.
        index[..., across] = columns[::-1]
        index[..., up] = rows[::-1, None]
        planes.append(Plane(name, letters, geometry.to_world(index)))
    return planes[0], planes[1], planes[2]


def telling_planes(volume: Volume, *, pixel: float) -> tuple[Plane, ...]:
    """Those of ``three_planes`` that show an image: of a few slices the plane that they lie in alone.

    Args:
        volume: See ``three_planes``; where no plane has ``FEWEST_VOXELS`` both ways, the one with the most is left.
        pixel: Distance of pixels, mm.
    """
    counts = volume.geometry.reoriented()[0].shape
    across = [(min(counts[a], counts[b]), max(counts[a], counts[b])) for _, _, a, b, _ in _VIEWS]
    planes = three_planes(volume, pixel=pixel)
    told = tuple(plane for plane, (fewest, _) in zip(planes, across, strict=True) if fewest >= FEWEST_VOXELS)
    return told or (planes[max(range(3), key=across.__getitem__)],)


def _positions(low: float, high: float, step: float) -> Array:
    count = max(2, int((high - low) / step))
    return np.asarray((low + high) / 2 + (np.arange(count) - (count - 1) / 2) * step)


def _focus(data: Array, geometry: Geometry) -> tuple[Array, Array, Array]:
    """Voxel index of a telling centre, and of the body's box with a margin."""
    edges = np.asarray(geometry.shape) - 0.5
    try:
        mask = head_mask(data, spacing=geometry.spacing)
    except InputError:
        mask = np.ones(data.shape, dtype=bool)
    inside = np.argwhere(mask)
    spacing = np.asarray(geometry.spacing)
    low = np.maximum(inside.min(axis=0) - MARGIN_MM / spacing, -0.5)
    high = np.minimum(inside.max(axis=0) + MARGIN_MM / spacing, edges)
    top = inside[:, 2].max() - HEAD_HEIGHT_MM / spacing[2]
    head = inside[inside[:, 2] >= top]
    return np.round((head.min(axis=0) + head.max(axis=0)) / 2), low, high
