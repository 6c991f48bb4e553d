"""What a result itself says about where it is likely to be wrong: one number a voxel and clue, and no truth.

Errors are large where the image changes fast, above all along the slices and near edges across them, where the network
changed the classical answer, and far from the centre of a slice. The spread of samples is a clue like the others where
samples were drawn. All but ``known`` are lengths in the image's units: multiply the scan, and they multiply alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medidiff.errors import InputError

Array = NDArray[Any]

# Clues of a result without samples, in the order in which calibrations are written.
CLUES = ("along", "across", "near_edge", "learned", "detail", "known")
SPREAD = "spread"
# Widths of the windows in which squares are averaged, voxels. An error a voxel away from an edge belongs to the edge.
WINDOW, REACH, TRUNCATE = 1.0, 1.8, 2.0
# Below this share of the scan's unit a clue says nothing but "little".
FLOOR = 0.03


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """A result as it is before the truth is known.

    Args:
        mean: The estimate, shape (i, j, k), any units.
        baseline: The classical answer to the same data, same shape and units.
        known: How directly each voxel was measured, 0 to 1, broadcasts to the shape.
        axis: Axis of the slices.
        spread: Standard deviation over samples, same shape and units; None without.
    """

    mean: Array
    baseline: Array
    known: Array
    axis: int
    spread: Array | None = None

    def __post_init__(self) -> None:
        others = [self.baseline, *([self.spread] if self.spread is not None else [])]
        if self.mean.ndim != 3 or any(x.shape != self.mean.shape for x in others) or self.axis not in (0, 1, 2):
            raise InputError(f"a result is one volume (i, j, k) with a baseline alike, got {self.mean.shape}")

    @property
    def clues(self) -> tuple[str, ...]:
        """Names of what ``logarithms`` gives, in its order."""
        return CLUES if self.spread is None else (*CLUES, SPREAD)

    def logarithms(self) -> tuple[Array, float]:
        """Clues in units of the scan, as logarithms (``known`` as it is), and that unit.

        Returns:
            Clues, shape (clues, i, j, k), float32; and the unit: the gradient along the slices in the mean over
            gradients, so that flat air counts for nothing.
        """
        mean = np.asarray(self.mean, dtype=np.float32)
        squares = [np.square(_slope(mean, axis)) for axis in range(3)]
        one, other = (squares[axis] for axis in range(3) if axis != self.axis)
        across, along = one + other, _rms(squares[self.axis])
        weight = float(along.sum(dtype=np.float64))
        if not weight > 0:
            raise InputError("the result is constant: there is nothing to be uncertain of")
        unit = float(np.square(along, dtype=np.float64).sum()) / weight
        reach = [REACH if axis == self.axis else WINDOW for axis in range(3)]
        found = {
            "along": along,
            "across": _rms(across),
            "near_edge": _rms(across, reach),
            "learned": _rms(np.square(mean - self.baseline)),
            "detail": _rms(np.square(mean - ndimage.gaussian_filter(mean, 1.0, mode="nearest", truncate=TRUNCATE))),
        }
        if self.spread is not None:
            found[SPREAD] = _rms(np.square(np.asarray(self.spread, dtype=np.float32)))
        out = np.empty((len(self.clues), *mean.shape), dtype=np.float32)
        for name, row in zip(self.clues, out, strict=True):
            row[...] = self.known if name == "known" else np.log(found[name] / unit + FLOOR)
        return out, unit


def _slope(x: Array, axis: int) -> Array:
    """Central difference per voxel, edges repeated."""
    return np.asarray(ndimage.correlate1d(x, [-0.5, 0.0, 0.5], axis=axis, mode="nearest"))


def _rms(square: Array, sigma: Any = WINDOW) -> Array:
    smooth = ndimage.gaussian_filter(square, sigma, mode="nearest", truncate=TRUNCATE)
    return np.asarray(np.sqrt(np.maximum(smooth, 0)))
