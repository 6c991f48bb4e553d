"""Whether a face may be seen in an image, before anybody looks for a brain in it.

What a header says about the body part decides first, then what a face needs to be seen: 40 mm from front to back and
from top to bottom. That is so for a rendering and for a thin slab from the side alike, which shows the outline. Last,
what is in view: noise alone, or the uniform filling of a test object, shows nobody.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from medidiff.geometry import Geometry
from medidiff.volume import Modality, Volume

Array = NDArray[Any]
BodyPart = Literal["auto", "head", "other"]

# A face needs this much of a head from front to back and from top to bottom, mm.
SMALLEST_FACE_MM = 40.0
# Wider than any head with its ears: a trunk is in view.
TRUNK_MM = 260.0
# From one eye's outer corner to the other's, and from the brow to the mouth, it is 90 mm: less shows a part of a face.
_WHOLE_FACE_MM = 80.0
_HEADS = (
    "HEAD", "BRAIN", "SKULL", "FACE", "NECK", "WHOLE", "ORBIT", "JAW", "TMJ", "EAR", "IAC", "NOSE", "PITUITARY",
    "CSPINE", "CERVICAL", "SELLA", "MAXILLA", "MANDIBLE", "SINUS", "EYE",
)  # fmt: skip
TOO_SMALL = "too small a field of view for a face"
# Narrower, it is a slab of a head, mm.
WHOLE_HEAD_MM = 100.0
_COARSE_MM, _FEW_ML = 3.0, 50.0
_AIR_HU, _SOFT_HU = -900.0, (-150.0, 200.0)
_LARGE_ML, _SKIN_ML = 2000.0, 200.0
_BLOCK_MM = 5.0
_CHANCE = 1.5
# How far an even filling may be off a smooth one: a bottle 3 % in 97 of 100 voxels, heads 30 % and more.
_EVEN, _EVEN_SHARE = 0.06, 0.97
_RIM_MM = 12.0


def says_head(body_part: str) -> bool:
    """Whether a stated body part is one that a face belongs to."""
    words = body_part.upper().replace(" ", "").replace("-", "").replace("_", "")
    return any(word in words for word in _HEADS)


def why_no_face(geometry: Geometry, modality: Modality, body_part: str, stated: BodyPart = "auto") -> str:
    """Why no face can be seen, from header and grid alone; empty if there may be one.

    Args:
        geometry: Of the volume, or of one plane.
        modality: What the values mean.
        body_part: As the header says; empty if it does not.
        stated: What the user says about all sources.
    """
    if stated == "other":
        return "the user says that it shows no head"
    if modality not in (Modality.MR, Modality.CT, Modality.LABEL):
        return "of a kind that shows no face"
    if stated != "head" and body_part and not says_head(body_part):
        return "the header names another body part"
    upright, _, _ = geometry.reoriented()
    if min(upright.extent[1:]) < SMALLEST_FACE_MM or max(upright.extent) < _WHOLE_FACE_MM:
        return TOO_SMALL
    return ""


def why_too_little(millilitres: float, geometry: Geometry) -> str:
    """Why what lies before a brain is no face; empty if it may be one.

    Args:
        millilitres: Tissue where the face would be; a face has 300 and more.
        geometry: Of the volume: with large voxels so little tissue is a few blocks (echo-planar images, where fat and
            skin give no signal).
    """
    coarse = sorted(geometry.spacing)[1] >= _COARSE_MM
    whole = geometry.reoriented()[0].extent[0] >= WHOLE_HEAD_MM  # a slab holds little of anything
    if whole and coarse and millilitres < _FEW_ML:
        return "too little tissue, in too large voxels, where a face would be"
    return ""


def why_nobody(volume: Volume) -> str:
    """Why the voxels show nobody's face: noise alone, or an even filling; empty if they may."""
    upright = Volume(volume.data[:1], volume.geometry, volume.modality).reoriented()
    image = np.nan_to_num(np.asarray(upright.data[0], dtype=np.float32))
    if image.size < 512 or image.min() == image.max():
        return "an empty image" if image.min() == image.max() else ""
    if _is_noise(image, upright.geometry):
        return "noise alone: averages of neighbours differ no more than chance has it"
    if volume.modality is Modality.CT and _has_no_soft_tissue(image, upright.geometry):
        return "no soft tissue: a test object"
    if volume.modality is Modality.MR and _is_evenly_filled(image, upright.geometry):
        return "an even filling without any structure: a test object"
    return ""


def _is_noise(image: Array, geometry: Geometry) -> bool:
    """Whether averages over blocks of 5 mm scatter as those of independent values do, over the whole image and in it.

    A face that could be made visible by smoothing would make neighbouring blocks alike, or make some blocks brighter.
    """
    factors = [max(1, min(n, round(_BLOCK_MM / step))) for n, step in zip(image.shape, geometry.spacing, strict=True)]
    count = int(np.prod(factors))
    if count < 16:
        factors = [max(1, min(n, 3 if n < 16 else 4)) for n in image.shape]
        count = int(np.prod(factors))
    blocks = image[tuple(slice(0, n - n % f) for n, f in zip(image.shape, factors, strict=True))]
    shape = [size for n, f in zip(blocks.shape, factors, strict=True) for size in (n // f, f)]
    cut = blocks.reshape(shape).astype(np.float64)
    means = cut.mean(axis=(1, 3, 5))
    inside = float(cut.var(axis=(1, 3, 5)).mean())
    if means.size < 64 or count < 8:
        return False
    return float(means.var()) < _CHANCE * inside / count


def _has_no_soft_tissue(image: Array, geometry: Geometry) -> bool:
    """Whether a large CT holds less soft tissue than the skin of a head, in Hounsfield units that can be believed."""
    from scipy import ndimage

    voxel = float(abs(np.linalg.det(geometry.affine[:3, :3]))) / 1000
    if image.size * voxel < _LARGE_ML or float(np.percentile(image, 5)) > _AIR_HU:
        return False
    # opened by about 3 mm within the slice: the edge of bone against air passes through soft tissue's values
    steps = [max(1, round(1.0 / step)) for step in geometry.spacing[:2]]
    thinned = image[:: steps[0], :: steps[1]]
    soft = ndimage.binary_opening((thinned > _SOFT_HU[0]) & (thinned < _SOFT_HU[1]), np.ones((3, 3, 1)))
    return float(soft.sum()) * voxel * steps[0] * steps[1] < _SKIN_ML


def _is_evenly_filled(image: Array, geometry: Geometry) -> bool:
    """Whether what is in view has no more structure inside than a bottle of water: no bone, no air, no folds."""
    from scipy import ndimage
    from skimage.filters import threshold_otsu

    factors = [max(1, round(2.0 / step)) for step in geometry.spacing]
    coarse = ndimage.uniform_filter(image, factors)[tuple(slice(None, None, f) for f in factors)]
    spacing = np.asarray(geometry.spacing) * factors
    body = coarse > 0.5 * float(threshold_otsu(coarse))
    labels, found = ndimage.label(body)
    if found == 0:
        return False
    sizes = np.bincount(labels.ravel())[1:]
    if sizes.max() < 0.98 * sizes.sum():
        return False
    filled = ndimage.binary_fill_holes(body)
    deep = ndimage.distance_transform_edt(filled, sampling=spacing) > _RIM_MM
    if deep.sum() < 1000 or (filled & ~body).sum() > 0.001 * body.sum():
        return False
    # what a smooth coil profile does not explain, against the signal there
    weight = ndimage.gaussian_filter(filled.astype(np.float32), 6.0 / spacing)
    smooth = ndimage.gaussian_filter(np.where(filled, coarse, 0), 6.0 / spacing) / np.maximum(weight, 1e-6)
    rest = np.abs(coarse - smooth)[deep] / np.maximum(smooth[deep], 1e-6)
    return float(np.mean(rest < _EVEN)) > _EVEN_SHARE
