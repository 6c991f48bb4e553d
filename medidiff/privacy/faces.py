"""Faces of head scans removed, the brain untouched: ``brain`` finds it, and the face lies before it (``facecut``)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medidiff.geometry import Geometry
from medidiff.privacy.brain import checked, find_brain, voxel_ml
from medidiff.privacy.facecut import FaceCut, cut_before
from medidiff.volume import Modality, Volume

Array = NDArray[Any]

_MARGIN_MM = {Modality.MR: 4.0, Modality.CT: 8.0}
_PROTECT_MM = 3.0
AIR_HU = -1000.0


@dataclass(frozen=True, slots=True)
class FaceReport:
    """What removing a face did; measures, no picture.

    Args:
        removed_ml: Tissue that was removed.
        brain_ml: Size of the brain that was protected.
        brain_voxels_changed: Changed voxels within the brain and 3 mm around it: must be 0.
        face_surface_before: Skin voxels on the front of the head below the brow, before.
        face_surface_removed: The share of these that is gone.
        method: Where the brain mask came from.
    """

    removed_ml: float
    brain_ml: float
    brain_voxels_changed: int
    face_surface_before: int
    face_surface_removed: float
    method: str


def deface(volume: Volume, brain: Array | None = None) -> tuple[Volume, FaceReport]:
    """Remove the face of a head scan.

    Args:
        volume: Head MR or CT, any orientation, shape (c, i, j, k); the first channel finds the brain.
        brain: Brain mask on the volume's grid, shape (i, j, k), if there is one already.
    Returns:
        The same volume with the face set to background (air in CT, zero or the least value in MR), and what was done.
    Raises:
        CannotClean: no brain was found where a head was expected, so nobody can say where the face is.
    """
    upright = volume.reoriented()
    if brain is None:
        found = find_brain(upright)
    else:
        given = Volume(np.asarray(brain, dtype=bool)[None], volume.geometry, Modality.LABEL)
        found = checked(given.reoriented().data[0], upright.geometry, "given")
    protected = around(found.mask, upright.geometry)
    face = cut_of(protected, upright).covers(upright.geometry)
    background = AIR_HU if volume.modality is Modality.CT else min(0.0, float(upright.data.min()))
    data = upright.data.copy()
    data[:, face] = background
    report = _measure(upright, data, face, found.mask, protected, found.method)
    return Volume(data, upright.geometry, volume.modality).like(volume.geometry), report


def around(brain: Array, geometry: Geometry) -> Array:
    """The brain and what must be spared around it."""
    from scipy import ndimage

    return np.asarray(ndimage.distance_transform_edt(~brain, sampling=geometry.spacing) <= _PROTECT_MM)


def cut_of(protected: Array, volume: Volume) -> FaceCut:
    """The cut that spares ``protected``, a mask on the volume's grid."""
    return cut_before(protected, volume.geometry, _MARGIN_MM.get(volume.modality, _MARGIN_MM[Modality.MR]))


def _measure(upright: Volume, data: Array, face: Array, brain: Array, protected: Array, method: str) -> FaceReport:
    before = head_of(upright)
    voxel = voxel_ml(upright.geometry)
    # the skin as one sees it from the front: the first voxel of the head in every line of sight
    first = before.shape[1] - 1 - np.argmax(before[:, ::-1], axis=1)
    surface = before & (np.arange(before.shape[1])[None, :, None] == first[:, None, :])
    skin = surface & _face_zone(before, brain, upright.geometry)
    gone = skin & face
    return FaceReport(
        removed_ml=float((before & face).sum()) * voxel,
        brain_ml=float(brain.sum()) * voxel,
        brain_voxels_changed=int((data != upright.data)[:, protected].sum()),
        face_surface_before=int(skin.sum()),
        face_surface_removed=float(gone.sum() / max(1, int(skin.sum()))),
        method=method,
    )


def head_of(upright: Volume) -> Array:
    """The head without the air around it, holes filled."""
    from scipy import ndimage
    from skimage.filters import threshold_otsu

    image = upright.data[0].astype(np.float32)
    if upright.modality is Modality.CT:
        head = image > -300
    else:
        bright = image[image > np.percentile(image, 20)]
        head = image > 0.5 * threshold_otsu(bright) if bright.size else image > 0
    labels, count = ndimage.label(ndimage.binary_opening(head))
    if count == 0:
        return np.zeros(image.shape, dtype=bool)
    largest = labels == 1 + int(np.argmax(np.bincount(labels.ravel())[1:]))
    return np.asarray(ndimage.binary_fill_holes(largest))


def _face_zone(head: Array, brain: Array, geometry: Geometry) -> Array:
    """Where eyes, nose and mouth are: up to 90 mm below the front pole of the brain, from 40 mm behind it forward."""
    points = geometry.to_world(np.argwhere(brain))
    front, low = points[:, 1].max(), np.percentile(points[points[:, 1] > points[:, 1].max() - 15, 2], 10)
    middle = float(np.median(points[:, 0]))
    zone = np.zeros(head.shape, dtype=bool)
    index = np.argwhere(head)
    world = geometry.to_world(index)
    inside = (
        (world[:, 1] > front - 40)
        & (world[:, 2] < low)
        & (world[:, 2] > low - 90)
        & (np.abs(world[:, 0] - middle) < 45)
    )
    zone[tuple(index[inside].T)] = True
    return zone
