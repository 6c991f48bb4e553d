"""Where the body is, from the intensities alone: cheap, for scoring; not a brain extraction."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medidiff.errors import InputError
from medidiff.metrics.fidelity import as_array

Array = NDArray[Any]

COARSE_MM = 3.0
CLOSING_MM = 9.0


def head_mask(volume: Any, *, spacing: tuple[float, float, float] = (1.0, 1.0, 1.0)) -> Array:
    """The head (or body) against air: Otsu, closing, filling, largest component.

    Works on block means of about 3 mm: they average noise away, and morphology costs 1/27. The threshold is Otsu's on
    the logarithm, because bright fat pulls Otsu's on plain values above muscle and grey matter.

    Args:
        volume: Shape (i, j, k), MR or CT.
        spacing: Voxel spacing, mm.
    Returns:
        Boolean mask, shape (i, j, k).
    Raises:
        InputError: the volume is constant.
    """
    x = as_array(volume)
    low, high = np.percentile(x, [0.5, 99.5])
    if not high > low:
        raise InputError("no head can be told from air in a volume whose values are all (nearly) the same")
    factors = tuple(max(1, min(n, round(COARSE_MM / s))) for n, s in zip(x.shape, spacing, strict=True))
    coarse = _block_means(np.clip(x, low, high) - low, factors)
    found = _largest(coarse > _threshold(coarse))
    found = _fill(_closed(found, factors, spacing))
    return _refined(found, factors, x.shape)


def _threshold(coarse: Array) -> float:
    """Otsu's threshold on log intensities, floored at a fiftieth of the bright: near zero noise has no log scale."""
    from skimage.filters import threshold_otsu

    bright = float(np.percentile(coarse, 98))
    return float(np.exp(threshold_otsu(np.log(np.maximum(coarse, bright / 50)).ravel())))


def _block_means(x: Array, factors: tuple[int, ...]) -> Array:
    pads = [(0, -n % f) for n, f in zip(x.shape, factors, strict=True)]
    padded = np.pad(x, pads, mode="edge")
    shape = [size for n, f in zip(padded.shape, factors, strict=True) for size in (n // f, f)]
    return np.asarray(padded.reshape(shape).mean(axis=(1, 3, 5)))


def _largest(mask: Array) -> Array:
    labels, count = ndimage.label(mask)
    if count == 0:
        raise InputError("no foreground was found: the volume holds nothing brighter than its background")
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return np.asarray(labels == int(sizes.argmax()))


def _closed(mask: Array, factors: tuple[int, ...], spacing: tuple[float, float, float]) -> Array:
    """Closing with a ball in mm, by distances: exact for spacing that differs between axes.

    Padding keeps the closing from eating at the volume's edge, where heads are cut off by the field of view.
    """
    step = [f * s for f, s in zip(factors, spacing, strict=True)]
    pad = [int(np.ceil(CLOSING_MM / s)) + 1 for s in step]
    padded = np.pad(mask, [(p, p) for p in pad], mode="edge")
    grown = ndimage.distance_transform_edt(~padded, sampling=step) <= CLOSING_MM
    closed = ndimage.distance_transform_edt(grown, sampling=step) > CLOSING_MM
    inner = tuple(slice(p, n - p) for p, n in zip(pad, padded.shape, strict=True))
    return np.asarray(closed[inner] | mask)


def _fill(mask: Array) -> Array:
    """Fill cavities in 3D and in each plane (sinuses and the neck open to the outside in 3D, seldom in all planes)."""
    filled = np.asarray(ndimage.binary_fill_holes(mask))
    for axis in range(3):
        planes = [ndimage.binary_fill_holes(plane) for plane in np.moveaxis(filled, axis, 0)]
        filled = np.moveaxis(np.stack(planes), 0, axis)
    return filled


def _refined(mask: Array, factors: tuple[int, ...], shape: tuple[int, ...]) -> Array:
    """Back to full resolution: linear between block centres, cut at one half."""
    out = mask.astype(np.float32)
    for axis, (f, n) in enumerate(zip(factors, shape, strict=True)):
        position = np.clip((np.arange(n) - (f - 1) / 2) / f, 0, out.shape[axis] - 1)
        left = np.minimum(position.astype(int), max(out.shape[axis] - 2, 0))
        weight = (position - left).astype(np.float32).reshape([-1 if a == axis else 1 for a in range(3)])
        right = np.minimum(left + 1, out.shape[axis] - 1)
        out = out.take(left, axis) * (1 - weight) + out.take(right, axis) * weight
    return np.asarray(out >= 0.5)
