"""Controlled damage to a set: what a metric must see, in amounts that are known.

Damage to an image acts on one volume of model units, shape (i, j, k); damage to a set says which of its items are
kept. Each takes an amount, where 0 is none, and a generator; the same generator state gives the same damage.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Array = NDArray[Any]


def blur(image: Array, sigma: float) -> Array:
    """Gaussian blur, sigma in voxels."""
    return np.asarray(ndimage.gaussian_filter(image, sigma, mode="nearest"))


def noise(image: Array, std: float, rng: np.random.Generator) -> Array:
    """Rician noise of a magnitude image; ``std`` of each of its two channels, model units.

    Source: Gudbjartsson & Patz (1995), The Rician distribution of noisy MRI data.
    """
    real, imaginary = rng.standard_normal((2, *image.shape)) * std
    return np.asarray(np.hypot(image + real, imaginary))


def ghosting(image: Array, amount: float, axis: int = 1) -> Array:
    """Every other line of k-space along an axis scaled by ``1 - amount``: a ghost half a field of view away."""
    lines = np.fft.fft(image, axis=axis)
    index: list[slice] = [slice(None)] * image.ndim
    index[axis] = slice(1, None, 2)
    lines[tuple(index)] *= 1 - amount
    return np.abs(np.fft.ifft(lines, axis=axis))


def bias_field(image: Array, amount: float, rng: np.random.Generator) -> Array:
    """Smooth shading as of a surface coil: times exp(amount * field), the field of unit spread over the volume."""
    field = _smooth_field(image.shape, rng, knots=3)
    return np.asarray(image * np.exp(amount * (field - field.mean()) / field.std()))


def gamma(image: Array, amount: float) -> Array:
    """Another contrast: values to the power of exp(amount); negative ones stay."""
    return np.asarray(np.where(image > 0, np.abs(image) ** np.exp(amount), image))


def elastic(image: Array, label: Array | None, voxels: float, rng: np.random.Generator) -> tuple[Array, Array | None]:
    """Anatomy that nobody has: a smooth displacement of ``voxels`` root mean square, of image and label map alike."""
    fields = np.stack([_smooth_field(image.shape, rng, knots=5) for _ in range(3)])
    fields *= voxels / max(float(np.sqrt((fields**2).sum(axis=0).mean())), 1e-12)
    where = np.indices(image.shape) + fields
    moved = np.asarray(ndimage.map_coordinates(image, where, order=3, mode="nearest"))
    if label is None:
        return moved, None
    return moved, np.asarray(ndimage.map_coordinates(label, where, order=0, mode="nearest"))


def thick_slices(image: Array, factor: float, axis: int = 2) -> Array:
    """Slices ``factor`` voxels apart, and the fine grid interpolated between them again."""
    count = max(2, round(image.shape[axis] / factor))
    zooms = [1.0] * image.ndim
    zooms[axis] = count / image.shape[axis]
    averaged = ndimage.uniform_filter1d(image, max(1, round(factor)), axis=axis, mode="nearest")
    coarse = ndimage.zoom(averaged, zooms, order=1, grid_mode=True, mode="nearest")
    back = [n / m for n, m in zip(image.shape, coarse.shape, strict=True)]
    return np.asarray(ndimage.zoom(coarse, back, order=1, grid_mode=True, mode="nearest"))


def scrambled(image: Array, amount: float, rng: np.random.Generator) -> Array:
    """Phases of the Fourier transform moved by ``amount`` times those of white noise: at 1 texture without anatomy.

    The power at every frequency, and so sharpness and noise, stays what it was.
    Source: Theiler et al. (1992), Testing for nonlinearity in time series: surrogate data.
    """
    phases = np.angle(np.fft.fftn(rng.standard_normal(image.shape)))
    phases.flat[0] = 0  # the mean stays
    return np.asarray(np.fft.ifftn(np.fft.fftn(image) * np.exp(1j * amount * phases)).real)


def eroded(label: Array, rounds: int) -> Array:
    """Every structure of a label map smaller by so many layers of voxels; none vanishes whole."""
    out = np.zeros_like(label)
    for value in np.unique(label[label > 0]):
        kept = ndimage.binary_erosion(label == value, iterations=rounds) if rounds else label == value
        out[kept if kept.any() else label == value] = value
    return out


def copies(count: int, distinct: int) -> Array:
    """Which items make a set of ``count`` that shows only ``distinct`` of them, shape (count,)."""
    return np.arange(count) % max(1, distinct)


def _smooth_field(shape: tuple[int, ...], rng: np.random.Generator, knots: int) -> Array:
    coarse = rng.standard_normal((knots,) * len(shape))
    zooms = [n / knots for n in shape]
    return np.asarray(ndimage.zoom(coarse, zooms, order=3, mode="nearest", grid_mode=True))
