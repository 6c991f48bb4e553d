"""Where the head was while slices were taken: rigid positions found by comparing slices with what an image predicts.

Gauss-Newton on the squared difference between measured slices and those that our own operator makes of the image, from
coarse to fine. Slices of one group (a whole stack, a shot, or a single slice) share a position.
Source: Lucas & Kanade (1981), An iterative image registration technique, IJCAI; for slices against a volume Rousseau
et al. (2006), Registration-based approach for reconstruction of high-resolution in utero fetal MR brain images,
Acad. Radiol. 13, 1072.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from medidiff.geometry import Geometry
from medidiff.operators.motion import MovedSlices
from medidiff.operators.slices import MeasuredProfile, Profile, SliceProfile

Array = NDArray[Any]

# Voxel sizes at which positions are found, mm: the coarsest catches what the finest cannot see.
LEVELS = (8.0, 4.0, 2.0)
ROUNDS = 8
# Finite differences for the derivatives: rad and mm; small against a voxel, large against rounding in single precision.
STEP = np.array([2e-3] * 3 + [0.1] * 3)
# A step below this (rad, mm) ends a level.
SMALL = np.array([1e-4] * 3 + [5e-3] * 3)
# Heads turn and shift by about so much (rad, mm); it keeps slices that show next to nothing where they were.
USUAL = np.array([0.1] * 3 + [6.0] * 3)
# Errors of neighbouring voxels are not independent: so many count as one.
VOXELS_AS_ONE = 20.0
# Measurements of which less than this share lies in the image are left out.
COVERED = 0.98


@dataclass(frozen=True, slots=True)
class Stack:
    """Slices and where the scanner took them.

    Args:
        y: Shape (1, 1, *geometry.shape).
        axis: Across the slices.
        thickness: Of the slices, mm.
        form: Of their profile.
        motion: Of the head during each slice, as for ``MovedSlices``; None if it was at rest.
    """

    y: Tensor
    geometry: Geometry
    axis: int
    thickness: float
    form: Profile | MeasuredProfile = "box"
    motion: Array | None = None


def find_motion(
    image: Tensor,
    grid: Geometry,
    stack: Stack,
    motion: Array,
    groups: Array,
    *,
    inside: Tensor | None = None,
    levels: Sequence[float] = LEVELS,
    rounds: int = ROUNDS,
) -> Array:
    """Rigid position of the head during each slice.

    Args:
        image: What the head looks like, shape (1, 1, *grid.shape); its intensities may differ by a factor and a shift.
        motion: Where to begin, shape (slices, 6), as for ``MovedSlices``.
        groups: Number of the group of each slice, 0, 1, ..., shape (slices,).
        inside: 1 where the image is to be believed; everywhere if left out.
        levels: Voxel sizes, mm, coarse to fine; sizes below those of the image are skipped.
    Returns:
        Motion of the same shape, equal within a group.
    """
    for level in levels:
        if level < 0.99 * min(grid.spacing) and level != levels[0]:
            continue
        blocks = [max(1, round(level / s)) for s in grid.spacing]
        coarse, coarse_grid = pooled(image, grid, blocks)
        within, _ = pooled(torch.ones_like(image) if inside is None else inside, grid, blocks)
        # Slices are as thick as they are; only within their plane are they made coarser.
        factors = [max(1, round(level / s)) for s in stack.geometry.spacing]
        factors[stack.axis] = 1
        y, geometry = pooled(stack.y, stack.geometry, factors)
        motion = _level(coarse, within, coarse_grid, replace(stack, y=y, geometry=geometry), motion, groups, rounds)
    return motion


def _level(
    image: Tensor, inside: Tensor, grid: Geometry, stack: Stack, motion: Array, groups: Array, rounds: int
) -> Array:
    """Gauss-Newton with Levenberg's damping, each group on its own."""
    distance = stack.geometry.spacing[stack.axis]
    profile = SliceProfile.of(distance, stack.thickness, stack.form, min(distance, *grid.spacing))
    measured = _by_slice(stack.y, stack.axis)
    count = int(groups.max()) + 1
    damping = np.full(count, 1e-3)

    def predict(motion: Array, of: Tensor = image) -> Array:
        operator = MovedSlices(1, grid, stack.geometry, stack.axis, profile, motion)
        return _by_slice(operator.forward(of), stack.axis)

    predicted = predict(motion)
    for _ in range(rounds):
        # What lies beyond the image says nothing about where the head is.
        seen = predict(motion, inside) > COVERED
        gain, offset = _scale(predicted[seen], measured[seen])
        rest = seen * (measured - gain * predicted - offset)
        noise = VOXELS_AS_ONE * float(np.sum(rest**2) / max(1, seen.sum())) + 1e-12
        slope = np.stack([seen * gain * (predict(motion + h) - predicted) / h.max() for h in np.diag(STEP)], axis=-1)
        own = _of_groups(motion, groups, count)
        curvature = _sum_groups(np.einsum("npa,npb->nab", slope, slope) / noise, groups, count)
        curvature += np.diag(1 / USUAL**2)
        gradient = _sum_groups(np.einsum("npa,np->na", slope, rest) / noise, groups, count) - own / USUAL**2
        diagonal = np.einsum("naa->na", curvature)
        damped = curvature + damping[:, None, None] * np.einsum("na,ab->nab", diagonal, np.eye(6))
        step = np.linalg.solve(damped, gradient[..., None])[..., 0]
        candidate = (own + step)[groups]
        tried = predict(candidate)

        after = seen * (measured - gain * tried - offset)
        # Chi-squared of each group, and how far it then is from where heads usually are.
        change = _sum_groups(np.sum(after**2 - rest**2, axis=1) / noise, groups, count)
        change += np.sum(((own + step) / USUAL) ** 2 - (own / USUAL) ** 2, axis=1)
        better = change < 0
        motion = np.where(better[groups][:, None], candidate, motion)
        predicted = np.where(better[groups][:, None], tried, predicted)
        damping = np.where(better, damping / 5, damping * 10)
        if (np.abs(step) < SMALL).all():
            break
    return motion


def pooled(x: Tensor, geometry: Geometry, factors: Sequence[int]) -> tuple[Tensor, Geometry]:
    """Means of blocks of voxels, and their grid; what does not fill a block at the far end is left out."""
    factors = [min(f, n) for f, n in zip(factors, geometry.shape, strict=True)]
    if max(factors) == 1:
        return x, geometry
    out = functional.avg_pool3d(x, factors, stride=factors)
    affine = geometry.affine.copy()
    affine[:3, 3] = geometry.to_world((np.asarray(factors) - 1) / 2)
    affine[:3, :3] = affine[:3, :3] * factors
    return out, Geometry(affine, (out.shape[2], out.shape[3], out.shape[4]))


def _scale(predicted: Array, measured: Array) -> tuple[float, float]:
    """Gain and offset that bring a prediction nearest to what was measured."""
    if predicted.size < 2 or np.ptp(predicted) == 0:
        return 1.0, 0.0
    middle = predicted - predicted.mean()
    gain = float(np.sum(middle * measured) / np.sum(middle**2))
    return gain, float(measured.mean() - gain * predicted.mean())


def _by_slice(y: Tensor, axis: int) -> Array:
    """Slices as rows, shape (slices, voxels)."""
    return np.asarray(y[0, 0].movedim(axis, 0).flatten(1).double().cpu().numpy())


def _sum_groups(values: Array, groups: Array, count: int) -> Array:
    total: Array = np.zeros((count, *values.shape[1:]))
    np.add.at(total, groups, values)
    return np.asarray(total)


def _of_groups(motion: Array, groups: Array, count: int) -> Array:
    """The position of each group, shape (groups, 6)."""
    first = [int(np.argmax(groups == number)) for number in range(count)]
    return np.asarray(motion[first])


def displacement(matrix: Array, geometry: Geometry) -> float:
    """Largest distance in mm by which a rigid matrix moves a corner of a grid."""
    moved = Geometry(matrix @ geometry.affine, geometry.shape)
    return geometry.distance(moved)
