"""Faces of head scans removed, the brain untouched.

Seen from the side, everything that lies before and below the brain is cut off: the half-planes that touch the brain's
outline from the front, from straight ahead down to steeply below, moved away by a margin. They take the nose, eyes,
mouth, chin and brow; they cannot reach the brain, because each one lies outside all of it. The brain itself comes from
``deepbet`` (Fisch et al. 2024, its network is in its wheel) for MR and from the inside of the skull for CT.

The idea of a plane that shears the face off along the brain's hull: Schimke, Hale (2011), Quickshear defacing for
neuroimages.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medidiff.geometry import Geometry
from medidiff.privacy.policy import CannotClean
from medidiff.volume import Modality, Volume

Array = NDArray[Any]

# Directions of the cuts in degrees below straight ahead.
_CUTS = (10, 20, 30, 40, 50, 60, 70)
_MARGIN_MM = {Modality.MR: 4.0, Modality.CT: 8.0}
_PROTECT_MM = 3.0
# A brain is 0.6 to 2 litres; half a brain is in view in some scans.
_BRAIN_LITRES = (0.25, 2.6)
_AIR_HU, _BONE_HU, _SOFT_HU = -1000.0, 250.0, (0.0, 100.0)


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
    method = "given"
    if brain is None:
        mask, method = _find_brain(upright)
    else:
        given = Volume(np.asarray(brain, dtype=bool)[None], volume.geometry, Modality.LABEL)
        mask = given.reoriented().data[0]
    brain_ml = float(mask.sum()) * _voxel_ml(upright.geometry)
    if not _BRAIN_LITRES[0] < brain_ml / 1000 < _BRAIN_LITRES[1]:
        raise CannotClean(
            "face-unverified", f"found {brain_ml:.0f} ml of brain; a head scan is expected to show 250 to 2600"
        )
    protected = _dilated(mask, _PROTECT_MM, upright.geometry)
    face = (
        _before_the_brain(protected, upright.geometry, _MARGIN_MM.get(volume.modality, _MARGIN_MM[Modality.MR]))
        & ~protected
    )
    background = _AIR_HU if volume.modality is Modality.CT else min(0.0, float(upright.data.min()))
    data = upright.data.copy()
    data[:, face] = background
    report = _measure(upright, data, face, mask, protected, method)
    return Volume(data, upright.geometry, volume.modality).like(volume.geometry), report


def _find_brain(upright: Volume) -> tuple[Array, str]:
    if upright.modality is Modality.CT:
        return _brain_in_skull(upright), "skull"
    try:
        from deepbet import BrainExtraction
    except ImportError as error:
        raise CannotClean("face-unverified", "defacing MR needs deepbet: pip install 'medidiff[deid]'") from error
    import nibabel

    image = nibabel.Nifti1Image(np.ascontiguousarray(upright.data[0], dtype=np.float32), upright.geometry.affine)
    try:
        _, mask, _ = BrainExtraction(no_gpu=True).run(image)
    except (AssertionError, RuntimeError, ValueError, IndexError) as error:
        raise CannotClean("face-unverified", "the brain extraction found no brain in the scan") from error
    return np.asarray(mask.dataobj) > 0, "deepbet"


def _brain_in_skull(upright: Volume) -> Array:
    """Soft tissue inside the skull of a head CT: inside a ring of bone in its axial slice, and in one piece."""
    from scipy import ndimage

    hounsfield = upright.data[0]
    i, j, _ = upright.geometry.spacing
    ring = max(1, round(4.0 / ((i + j) / 2)))
    disk = _disk(ring)
    inside = np.zeros(hounsfield.shape, dtype=bool)
    for k in range(hounsfield.shape[2]):
        bone = ndimage.binary_closing(np.pad(hounsfield[:, :, k] > _BONE_HU, ring), disk)[ring:-ring, ring:-ring]
        inside[:, :, k] = ndimage.binary_fill_holes(bone) & ~bone
    soft = inside & (hounsfield > _SOFT_HU[0]) & (hounsfield < _SOFT_HU[1])
    core = ndimage.binary_opening(soft, _disk(max(1, ring))[:, :, None])
    labels, count = ndimage.label(core)
    if count == 0:
        raise CannotClean("face-unverified", "no closed skull was found in the CT")
    largest = labels == 1 + int(np.argmax(np.bincount(labels.ravel())[1:]))
    return np.asarray(ndimage.binary_dilation(largest, _disk(max(1, ring))[:, :, None]) & inside)


def _before_the_brain(brain: Array, geometry: Geometry, margin: float) -> Array:
    """Voxels beyond any of the cutting planes; axes are nearest to R, A, S, and world coordinates decide."""
    grid = np.indices(brain.shape, sparse=True)
    ahead, up = (
        np.asarray(sum(geometry.affine[world, axis] * grid[axis] for axis in range(3)) + geometry.affine[world, 3])
        for world in (1, 2)
    )
    face = np.zeros(brain.shape, dtype=bool)
    for degrees in _CUTS:
        forward, down = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
        distance = forward * ahead - down * up
        face |= distance > distance[brain].max() + margin
    # straight ahead of the upper brain is forehead, which tells little and shields the frontal lobe
    return np.asarray(face & (up < _brow(ahead, up, brain)))


def _brow(ahead: Array, up: Array, brain: Array) -> float:
    """Height of the brow: 25 mm above the front pole's lowest point."""
    front = brain & (ahead > ahead[brain].max() - 15)
    return float(np.percentile(up[front], 10)) + 25.0


def _measure(upright: Volume, data: Array, face: Array, brain: Array, protected: Array, method: str) -> FaceReport:
    before = _head(upright)
    voxel = _voxel_ml(upright.geometry)
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


def _head(upright: Volume) -> Array:
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


def _dilated(mask: Array, millimetres: float, geometry: Geometry) -> Array:
    from scipy import ndimage

    return np.asarray(ndimage.distance_transform_edt(~mask, sampling=geometry.spacing) <= millimetres)


def _disk(radius: int) -> Array:
    rows, columns = np.ogrid[-radius : radius + 1, -radius : radius + 1]
    return np.asarray(rows**2 + columns**2 <= radius**2)


def _voxel_ml(geometry: Geometry) -> float:
    return float(abs(np.linalg.det(geometry.affine[:3, :3]))) / 1000
