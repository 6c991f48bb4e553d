"""Where the brain is in a head scan, found and then doubted: a wrong brain would leave a face or cut into the brain.

MR: ``deepbet`` (Fisch et al. 2024, its network is in its wheel). CT: the soft tissue between the bones of the skull,
and where a skull holds none (after surgery) the room inside it. What was found has to have a brain's size, shape and
place, else nobody can say where the face is.
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

_BONE_HU, _SOFT_HU = 250.0, (0.0, 100.0)
# A brain is 0.6 to 2 litres with its ventricles; half a brain is in view in some scans, a newborn's is a third.
_BRAIN_ML = (250.0, 2200.0)
# The largest brains are 160 x 200 x 150 mm with the stem; the axes may be turned by some degrees.
_BRAIN_MM = (180.0, 215.0, 190.0)
# What looks like a small brain in a whole skull is a part of one: cuts along it would go through the rest.
_WHOLE_CT_ML = 600.0
_ONE_PIECE = 0.9
# Part of the box around it that a brain fills: 0.5 to 0.6; a mask with arms reaches a face or a shoulder.
_BOX_SHARE = 0.33
# A section of a brain seen from the side, cm2: near the middle 100 to 160, of a newborn 50.
_SECTION_CM2 = (40.0, 200.0)
_SLAB_MM = 40.0
# A thin slab is made as wide as a head by repeating its outer slices, so that the network sees a head.
_HEAD_WIDTH_MM = 180.0
_UNFOUND = "the brain extraction found no brain in the scan"


@dataclass(frozen=True, slots=True)
class Brain:
    """A brain that passed the doubts.

    Args:
        mask: On the grid it was looked for on, shape (i, j, k).
        method: ``"deepbet"``, ``"skull"``, ``"inside of the skull"`` or ``"given"``.
        ml: Its size.
    """

    mask: Array
    method: str
    ml: float


def find_brain(upright: Volume) -> Brain:
    """The brain of a head scan.

    Args:
        upright: Axes nearest to R, A, S, shape (c, i, j, k); the first channel is looked at.
    Raises:
        CannotClean: none was found, or what was found is not like a brain.
    """
    doubts = []
    finders = (_in_skull, _room_in_skull) if upright.modality is Modality.CT else (_by_network,)
    for finder in finders:
        try:
            mask, method = finder(upright)
            return checked(mask, upright.geometry, method, upright.modality)
        except CannotClean as error:
            doubts.append(error)
    raise doubts[0]


def checked(mask: Array, geometry: Geometry, method: str, modality: Modality = Modality.MR) -> Brain:
    """Doubt a mask.

    Raises:
        CannotClean: it does not have a brain's size, shape or place.
    """
    millilitres = float(mask.sum()) * voxel_ml(geometry)
    doubt = _implausible(mask, geometry, millilitres, modality)
    if doubt:
        raise CannotClean("face-unverified", doubt)
    return Brain(mask, method, millilitres)


def _implausible(mask: Array, geometry: Geometry, millilitres: float, modality: Modality) -> str:
    """Why a mask is no brain; empty if it may be one."""
    from scipy import ndimage

    slab = geometry.extent[0] < _SLAB_MM
    least, most = _BRAIN_ML
    if slab:
        section = millilitres / geometry.extent[0] * 10  # ml over mm is 10 cm2
        if not _SECTION_CM2[0] < section < _SECTION_CM2[1]:
            return f"found {section:.0f} cm2 of brain seen from the side; a head shows {_SECTION_CM2[0]:.0f} to 200"
    elif millilitres < _WHOLE_CT_ML and modality is Modality.CT and not _is_cropped(mask):
        return f"found {millilitres:.0f} ml of brain, all in view; a skull holds {_WHOLE_CT_ML:.0f} and more"
    elif not least < millilitres < most:
        return f"found {millilitres:.0f} ml of brain; a head scan is expected to show {least:.0f} to {most:.0f}"
    labels, _ = ndimage.label(mask)
    sizes = np.bincount(labels.ravel())[1:]
    if sizes.max() < _ONE_PIECE * sizes.sum():
        return "the brain that was found is in pieces"
    place = ndimage.find_objects(np.asarray(labels == 1 + int(sizes.argmax()), dtype=np.uint8))[0]
    size = [(part.stop - part.start) * step for part, step in zip(place, geometry.spacing, strict=True)]
    if any(found > limit for found, limit in zip(size, _BRAIN_MM, strict=True)):
        return f"found a brain of {size[0]:.0f} x {size[1]:.0f} x {size[2]:.0f} mm, larger than any"
    if sizes.max() < _BOX_SHARE * np.prod([part.stop - part.start for part in place]):
        return "the brain that was found has no brain's shape"
    return ""


def _is_cropped(mask: Array) -> bool:
    """Whether a brain runs out of the field of view at its top or bottom."""
    return bool(mask[:, :, 0].any() or mask[:, :, -1].any())


def _by_network(upright: Volume) -> tuple[Array, str]:
    try:
        from deepbet import BrainExtraction
    except ImportError as error:
        raise CannotClean("face-unverified", "defacing MR needs deepbet: pip install 'medidiff[deid]'") from error
    import nibabel

    data = np.nan_to_num(np.asarray(upright.data[0], dtype=np.float32))
    spacing = upright.geometry.spacing[0]
    pad = max(0, round((_HEAD_WIDTH_MM / spacing - data.shape[0]) / 2)) if upright.geometry.extent[0] < _SLAB_MM else 0
    padded = np.pad(data, ((pad, pad), (0, 0), (0, 0)), mode="edge")
    image = nibabel.Nifti1Image(np.ascontiguousarray(padded), upright.geometry.affine)
    try:
        _, found, _ = BrainExtraction(no_gpu=True).run(image)
    except (AssertionError, RuntimeError, ValueError, IndexError, ZeroDivisionError) as error:
        raise CannotClean("face-unverified", _UNFOUND) from error
    mask = np.asarray(found.dataobj)[pad : pad + data.shape[0]] > 0
    if not mask.any():
        raise CannotClean("face-unverified", _UNFOUND)
    return mask, "deepbet"


def _in_skull(upright: Volume) -> tuple[Array, str]:
    """Soft tissue of a head CT with bone on all sides, in one piece."""
    inside = _inside_rings(upright) | _between_bones(upright)
    soft = inside & (upright.data[0] > _SOFT_HU[0]) & (upright.data[0] < _SOFT_HU[1])
    return _largest_opened(soft, inside, upright.geometry), "skull"


def _room_in_skull(upright: Volume) -> tuple[Array, str]:
    """The room inside the skull whatever fills it: air after surgery, foam in a test object."""
    inside = _inside_rings(upright)
    return _largest_opened(inside, inside, upright.geometry), "inside of the skull"


def _between_bones(upright: Volume) -> Array:
    """Voxels with bone to the right, left, front and back, or to three of these and above.

    At the base of the skull the rings of bone are open (orbits, nose, ear canals), and the brain is there all the same.
    """
    bone = upright.data[0] > _BONE_HU
    seen = np.zeros(bone.shape, dtype=np.int8)
    for axis in (0, 1):
        seen += np.logical_or.accumulate(bone, axis=axis)
        seen += np.flip(np.logical_or.accumulate(np.flip(bone, axis), axis=axis), axis)
    above = np.flip(np.logical_or.accumulate(np.flip(bone, 2), axis=2), 2)
    return np.asarray(((seen == 4) | ((seen == 3) & above)) & ~bone)


def _inside_rings(upright: Volume) -> Array:
    from scipy import ndimage

    hounsfield = upright.data[0]
    ring = _ring(upright.geometry)
    inside = np.zeros(hounsfield.shape, dtype=bool)
    for k in range(hounsfield.shape[2]):
        bone = ndimage.binary_closing(np.pad(hounsfield[:, :, k] > _BONE_HU, ring), _disk(ring))[ring:-ring, ring:-ring]
        inside[:, :, k] = ndimage.binary_fill_holes(bone) & ~bone
    return inside


def _largest_opened(tissue: Array, inside: Array, geometry: Geometry) -> Array:
    from scipy import ndimage

    disk = _disk(_ring(geometry))[:, :, None]
    labels, count = ndimage.label(ndimage.binary_opening(tissue, disk))
    if count == 0:
        raise CannotClean("face-unverified", "no closed skull was found in the CT")
    largest = labels == 1 + int(np.argmax(np.bincount(labels.ravel())[1:]))
    return np.asarray(ndimage.binary_dilation(largest, disk) & inside)


def _ring(geometry: Geometry) -> int:
    """Gaps of so many voxels in a ring of bone are closed: 4 mm."""
    i, j, _ = geometry.spacing
    return max(1, round(4.0 / ((i + j) / 2)))


def _disk(radius: int) -> Array:
    rows, columns = np.ogrid[-radius : radius + 1, -radius : radius + 1]
    return np.asarray(rows**2 + columns**2 <= radius**2)


def voxel_ml(geometry: Geometry) -> float:
    """Volume of a voxel, ml."""
    return float(abs(np.linalg.det(geometry.affine[:3, :3]))) / 1000
