"""What every raw-data file comes to: samples on a Cartesian grid, where they were taken, and what is known of space."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medidiff.errors import InputError
from medidiff.geometry import Geometry

Array = NDArray[Any]
Box = tuple[slice, slice, slice]

# Receivers give integers of 16 to 32 bits, scaled.
LARGEST_SAMPLE = 1e15
# In the image that a transform of centred k-space gives, the origin of the gradients is this voxel: n // 2.


@dataclass(frozen=True, slots=True)
class KSpaceInfo:
    """What a raw-data file holds, from its header alone.

    Args:
        format: ``"ISMRMRD"``, ``"fastMRI"`` or ``"NumPy"``.
        geometry: Grid of the image, oversampling cut away; axes as encoded (read or first phase, phase, slice or second
            phase).
        full: The grid on which samples lie, before anything is cut away.
        crop: Where ``geometry`` lies in ``full``.
        coils: Number of receiver channels.
        frames: Number of images (contrasts, repetitions, ...).
        encoded: Axes along which the data are in k-space: (0, 1) for stacks of slices, (0, 1, 2) for volumes.
        words: What the file holds, for a person, one sentence each; no identifiers.
        warnings: What had to be assumed, and what was left out.
        emulated: A single coil was computed from several, which is no measurement.
    """

    format: str
    geometry: Geometry
    full: Geometry
    crop: Box
    coils: int
    frames: int
    encoded: tuple[int, ...]
    words: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    emulated: bool = False

    @property
    def bytes_needed(self) -> int:
        """Memory of the samples once read (complex64)."""
        i, j, k = self.full.shape
        return self.frames * self.coils * i * j * k * np.dtype(np.complex64).itemsize


@dataclass(frozen=True, slots=True, eq=False)
class RawKSpace:
    """Measured samples, frequency zero in the middle (voxel n // 2) along every encoded axis.

    Args:
        info: What the header says.
        data: Samples, zero where none was taken, complex64, shape (frames, coils, i, j, k) on ``info.full``.
        mask: True where a sample was taken, shape (frames, i, j, k).
        calibration: Samples for coil maps that are no part of the image, shape (coils, i, j, k), or None.
        noise_covariance: Covariance of the coils' complex noise, shape (coils, coils), units of ``data`` squared; None
            if no noise was measured.
        warnings: What only the samples could show.
    """

    info: KSpaceInfo
    data: Array
    mask: NDArray[np.bool_]
    calibration: Array | None = None
    noise_covariance: Array | None = None
    warnings: tuple[str, ...] = ()


def check_samples(samples: Array, path: Path) -> None:
    """Refuse samples that no receiver gives, and that would overflow in a transform.

    Raises:
        InputError: some are not finite, or absurdly large.
    """
    with np.errstate(all="ignore"):
        largest = float(np.abs(samples).max()) if samples.size else 0.0
    if not largest <= LARGEST_SAMPLE:
        raise InputError(f"{path} has samples that are not finite, or beyond {LARGEST_SAMPLE:g}: it is damaged")


def whole(shape: tuple[int, int, int]) -> Box:
    """Nothing is cut away."""
    return slice(0, shape[0]), slice(0, shape[1]), slice(0, shape[2])


def middle(full: int, kept: int) -> slice:
    """The middle ``kept`` of ``full`` voxels, with the origin (n // 2) of the one on the origin of the other."""
    start = full // 2 - kept // 2
    return slice(start, start + kept)


def display_geometry(shape: tuple[int, int, int], spacing: tuple[float, float, float]) -> Geometry:
    """A grid for data that do not say where they lie: axial slices as radiologists look at them.

    Rows (i) run to the back, columns (j) to the person's left, slices (k) to the head; centred on the origin.
    """
    affine = np.zeros((4, 4))
    affine[1, 0], affine[0, 1], affine[2, 2], affine[3, 3] = -spacing[0], -spacing[1], spacing[2], 1
    affine[:3, 3] = -affine[:3, :3] @ (np.asarray(shape) // 2)
    return Geometry(affine, shape)


ASSUMED_AXES = (
    "The file does not say how the axes lie in the person: axial slices with the front at the top and the person's "
    "left on the right are assumed. Do not tell left from right by this image."
)
