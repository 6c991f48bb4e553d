"""Bringing samples into the form that reconstruction starts from: oversampling away, frequency zero in the middle."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medidiff.io.kspace.model import Array, RawKSpace

# Frequency zero lies within this share of the middle, or of the corner.
NEAR = 0.1


def without_oversampling(raw: RawKSpace) -> RawKSpace:
    """Cut read-out oversampling away, where every line was read from end to end; it is exact then.

    A partial echo leaves samples out along the read-out; there the image is cut in the end.
    """
    kept, shape = raw.info.crop[0], raw.info.full.shape
    complete = np.array_equal(raw.mask.all(axis=1), raw.mask.any(axis=1))
    if (kept.start, kept.stop) == (0, shape[0]) or not complete:
        return raw
    size = kept.stop - kept.start
    full = raw.info.full.cropped((kept.start, 0, 0), (size, shape[1], shape[2]))
    info = replace(raw.info, full=full, crop=(slice(0, size), *raw.info.crop[1:]))
    data = _cut(raw.data, kept, 2)
    # A line that was not read stays exactly zero.
    data *= raw.mask[:, None, :1]
    calibration = None if raw.calibration is None else _cut(raw.calibration, kept, 1)
    return replace(raw, info=info, data=data, mask=np.ascontiguousarray(raw.mask[:, :size]), calibration=calibration)


def _cut(samples: Array, kept: slice, axis: int) -> Array:
    """Samples of the middle of the image alone, along one axis."""
    image = to_image(samples, (axis,))
    part = image[(slice(None),) * axis + (kept,)]
    return to_kspace(part, (axis,)).astype(np.complex64)


def to_image(samples: Array, axes: tuple[int, ...]) -> Array:
    """Orthonormal transform of centred k-space along some axes."""
    turned = np.fft.ifftn(np.fft.ifftshift(samples, axes=axes), axes=axes, norm="ortho")
    return np.asarray(np.fft.fftshift(turned, axes=axes).astype(np.complex64))


def to_kspace(image: Array, axes: tuple[int, ...]) -> Array:
    """Undo ``to_image``."""
    turned = np.fft.fftn(np.fft.ifftshift(image, axes=axes), axes=axes, norm="ortho")
    return np.asarray(np.fft.fftshift(turned, axes=axes).astype(np.complex64))


def centred(samples: Array, axis: int) -> Array:
    """Move frequency zero from the corner to the middle along an axis, and the image's first voxel to the front.

    What ``numpy.fft.fft`` made of an image has frequency zero first and the image's origin in its first voxel.
    """
    n = samples.shape[axis]
    frequency = np.fft.fftshift(np.fft.fftfreq(n))
    ramp = np.exp(-2j * np.pi * frequency * (n // 2)).astype(np.complex64)
    shape = [1] * samples.ndim
    shape[axis] = n
    return np.asarray(np.fft.fftshift(samples, axes=axis) * ramp.reshape(shape))


def energy_along(samples: Array, axis: int) -> NDArray[Any]:
    """Share of the energy in each position along an axis, shape (n,)."""
    power = (samples.real.astype(np.float64) ** 2 + samples.imag.astype(np.float64) ** 2).sum(
        axis=tuple(a for a in range(samples.ndim) if a != axis)
    )
    total = power.sum()
    return np.asarray(power / total) if total > 0 else power


def peak(share: NDArray[Any]) -> str:
    """Where the energy lies: ``"middle"`` or ``"corner"`` as in k-space, ``"spread"`` as in an image."""
    n = len(share)
    if n < 4:
        return "spread"
    reach = max(1, round(NEAR * n / 2))
    middle = share[n // 2 - reach : n // 2 + reach + 1]
    corner = np.concatenate([share[:reach], share[-reach:]])
    for name, part in (("middle", middle), ("corner", corner)):
        # Halfway between what even energy would give and all of it.
        if part.sum() > (1 + len(part) / n) / 2:
            return name
    return "spread"
