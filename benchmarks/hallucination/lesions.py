"""Synthetic lesions, and how much of one can be seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

Array = NDArray[Any]

# Millimetres over which a lesion's edge fades: the logistic's scale.
EDGE_MM = 0.35
# What is compared with what: the inner part of the lesion with a shell around it that it does not reach.
CORE, SHELL_MM = 0.8, (1.5, 3.5)
# Tissue that must be left around a lesion within the volume.
MARGIN_MM = 4.0


@dataclass(frozen=True, slots=True)
class Lesion:
    """A ball with a soft edge.

    Args:
        centre: In voxels, anywhere between them, so that slices meet it as they happen to lie.
        radius: mm.
        contrast: What it adds, physical units; negative is dark.
        spacing: Of the volume, mm.
    """

    centre: tuple[float, float, float]
    radius: float
    contrast: float
    spacing: tuple[float, float, float]

    def distance(self, shape: tuple[int, ...]) -> Array:
        """From the centre, mm."""
        axes = np.ogrid[tuple(slice(n) for n in shape)]
        parts = (((a - c) * s) ** 2 for a, c, s in zip(axes, self.centre, self.spacing, strict=True))
        return np.asarray(np.sqrt(sum(parts)))

    def insert(self, x: Array) -> Array:
        """The volume with the lesion in it, shape (i, j, k); magnitudes stay positive."""
        out = x + self.contrast * expit((self.radius - self.distance(x.shape)) / EDGE_MM)
        return np.asarray(np.maximum(out, 0) if x.min() >= 0 else out, dtype=np.float32)

    def core(self, shape: tuple[int, ...]) -> Array:
        """The inner part, bool; at least the voxel in the middle."""
        distance = self.distance(shape)
        return np.asarray(distance <= max(CORE * self.radius, float(distance.min())))

    def seen(self, x: Array) -> float:
        """Mean of the inner part less the mean of the shell around: the contrast that a reader sees."""
        distance = self.distance(x.shape)
        shell = (distance >= self.radius + SHELL_MM[0]) & (distance <= self.radius + SHELL_MM[1])
        return float(x[self.core(x.shape)].mean(dtype=np.float64) - x[shell].mean(dtype=np.float64))


def place(
    allowed: Array, radius: float, contrast: float, spacing: tuple[float, float, float], rng: np.random.Generator
) -> Lesion | None:
    """A lesion somewhere in what is allowed, far enough from the volume's end; None if there is no room.

    Args:
        allowed: Where its centre may be, bool, shape (i, j, k).
    """
    room = np.zeros_like(allowed)
    margin = [int(np.ceil((radius + MARGIN_MM) / s)) for s in spacing]
    inner = tuple(slice(m, n - m) for m, n in zip(margin, allowed.shape, strict=True))
    if any(part.stop - part.start < 1 for part in inner):
        return None
    room[inner] = allowed[inner]
    found = np.flatnonzero(room)
    if not len(found):
        return None
    voxel = np.array(np.unravel_index(rng.choice(found), allowed.shape))
    centre = voxel + rng.uniform(-0.5, 0.5, 3)
    return Lesion((float(centre[0]), float(centre[1]), float(centre[2])), radius, contrast, spacing)
