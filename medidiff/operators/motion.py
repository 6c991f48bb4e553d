"""Slices that were taken one after the other from a head that moved: each has a rigid position of its own."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from medidiff.errors import GeometryError
from medidiff.geometry import Geometry
from medidiff.operators.base import LinearOperator
from medidiff.operators.slices import FWHM_TO_STD, GAUSSIAN_CUTOFF_STD, SliceProfile, slice_task, slice_weights
from medidiff.operators.smooth import smooth_least_squares, spanned
from medidiff.operators.task import Task

Array = NDArray[Any]

# Slices are worked off in groups of about so many sampling points; each point takes three numbers of memory.
CHUNK_POINTS = 1 << 21


class MovedSlices(LinearOperator):
    """A stack whose slices each see the head in another position.

    Every slice is a weighted sum of planes through the image, each sampled by trilinear interpolation where the head
    then was; beyond the image there is nothing.

    Args:
        channels: c.
        image: Grid of the image.
        stack: Grid of the slices, orthogonal.
        axis: Axis of ``stack`` across its slices.
        profile: Distance, thickness and form of the slices, in steps of ``stack.spacing[axis] / profile.factor``.
        motion: Rigid movement of the head during each slice, shape (slices, 6): rotations about x, y, z (radians,
            applied in this order, about the centre of the stack) and shifts (mm), world RAS+.
    Raises:
        GeometryError: there is not one movement for each slice.
    """

    # Neighbouring measurements share voxels in ways that no closed form undoes; see ``solve_gram``.
    cg_steps = 400

    def __init__(
        self, channels: int, image: Geometry, stack: Geometry, axis: int, profile: SliceProfile, motion: Array
    ) -> None:
        if np.shape(motion) != (stack.shape[axis], 6):
            raise GeometryError(
                f"motion has six numbers for each of {stack.shape[axis]} slices, got an array of {np.shape(motion)}"
            )
        self.in_shape, self.out_shape = (channels, *image.shape), (channels, *stack.shape)
        self.axis, self.profile = axis, profile
        self.offsets, self.weights = planes(profile)
        centre = stack.to_world((np.asarray(stack.shape) - 1) / 2)
        moved = rigid_matrices(np.asarray(motion, dtype=np.float64), centre)
        # A head that moves by M is seen at M^-1 of the place where the scanner looks.
        self.placements = np.linalg.inv(image.affine) @ np.linalg.inv(moved) @ stack.affine
        self.step = 1 / profile.factor
        in_plane = [n for own, n in enumerate(stack.shape) if own != axis]
        self._group = max(1, CHUNK_POINTS // (in_plane[0] * in_plane[1] * len(self.offsets)))

    def _forward(self, x: Tensor) -> Tensor:
        weights = torch.from_numpy(self.weights).to(x).view(-1, 1, 1)
        parts = []
        for points in self._points(x):
            grid = points.reshape(1, 1, 1, -1, 3).expand(len(x), -1, -1, -1, -1)
            seen = functional.grid_sample(x, grid, mode="bilinear", padding_mode="zeros", align_corners=True)
            parts.append((seen.view(*x.shape[:2], *points.shape[:-1]) * weights).sum(3))
        return torch.cat(parts, dim=2).movedim(2, self.axis + 2)

    def _adjoint(self, y: Tensor) -> Tensor:
        weights = torch.from_numpy(self.weights).to(y).view(-1, 1, 1)
        slices = y.movedim(self.axis + 2, 2)
        like = y.new_zeros(()).expand(len(y), *self.in_shape)
        total, begin = torch.zeros_like(like, memory_format=torch.contiguous_format), 0
        for points in self._points(y):
            grid = points.reshape(1, 1, 1, -1, 3).expand(len(y), -1, -1, -1, -1)
            own = slices[:, :, begin : begin + len(points), None] * weights
            # The backward pass of sampling is its adjoint; of the image only the shape matters.
            spread, _ = torch.ops.aten.grid_sampler_3d_backward(
                own.reshape(*y.shape[:2], 1, 1, -1), like.contiguous(), grid, 0, 0, True, (True, False)
            )
            total += spread
            begin += len(points)
        return total

    def reference(self, y: Tensor) -> Tensor:
        """The smoothest image that agrees with the slices, each where it was taken, shape (b, *in_shape)."""
        self._check(y, self.out_shape, "measurement")
        return smooth_least_squares(self, y, spanned(self, y))

    def known(self, y: Tensor) -> Tensor:
        """How much of its share in the slices each voxel has, at most 1, shape (b, *in_shape)."""
        weight = self._adjoint(torch.ones_like(y)) * self.profile.factor
        return weight.clamp(0, 1)

    def task(self, noise_std: float = 0.0) -> Task:
        """Slices; that they moved is undone before a network sees the image."""
        return slice_task(self.profile, noise_std)

    def _points(self, like: Tensor) -> Iterator[Tensor]:
        """Where each group of slices samples the image, in the units of ``grid_sample``, (slices, planes, p, q, 3)."""
        size = torch.tensor(self.in_shape[1:], dtype=torch.float64)
        count = self.out_shape[self.axis + 1]
        first, second = (n for own, n in enumerate(self.out_shape[1:]) if own != self.axis)
        shift = torch.from_numpy(self.offsets * self.step)
        for begin in range(0, count, self._group):
            number = torch.arange(begin, min(begin + self._group, count), dtype=torch.float64)
            along = (number[:, None] + shift)[:, :, None, None]
            plane = [torch.arange(first).double()[:, None], torch.arange(second).double()]
            plane.insert(self.axis, along)
            index = torch.stack(torch.broadcast_tensors(*plane), dim=-1)
            place = torch.from_numpy(self.placements[begin : begin + self._group])
            voxel = torch.einsum("nab,nkpqb->nkpqa", place[:, :3, :3], index) + place[:, None, None, None, :3, 3]
            scaled = 2 * voxel / (size - 1).clamp_min(1) - 1
            yield scaled.flip(-1).to(like)


def planes(profile: SliceProfile) -> tuple[Array, Array]:
    """Planes through a slice and their weights: offsets from its centre in fine voxels, shape (planes,) each."""
    if profile.measured is not None:
        reach = max(abs(profile.measured.offsets[0]), abs(profile.measured.offsets[-1]))
    elif profile.kind == "box":
        reach = profile.thickness / 2
    else:
        reach = GAUSSIAN_CUTOFF_STD * FWHM_TO_STD * profile.thickness
    count = max(1, math.ceil(2 * reach - 1e-9))
    middle = (count - 1) / 2
    return np.arange(count) - middle, slice_weights(count, np.array([middle]), profile)[0]


def rigid_matrices(motion: Array, centre: Array) -> Array:
    """Rotations about ``centre`` and shifts as matrices of world coordinates, shape (n, 4, 4).

    Args:
        motion: (n, 6): rotations about x, then y, then z (radians), shifts along x, y, z (mm).
        centre: Point that the rotations leave where it is, mm, shape (3,).
    """
    matrices = np.tile(np.eye(4), (len(motion), 1, 1))
    for axis in range(3):
        cosine, sine = np.cos(motion[:, axis]), np.sin(motion[:, axis])
        turn = np.tile(np.eye(3), (len(motion), 1, 1))
        one, two = (axis + 1) % 3, (axis + 2) % 3
        turn[:, one, one], turn[:, two, two] = cosine, cosine
        turn[:, two, one], turn[:, one, two] = sine, -sine
        matrices[:, :3, :3] = turn @ matrices[:, :3, :3]
    matrices[:, :3, 3] = centre - matrices[:, :3, :3] @ centre + motion[:, 3:]
    return matrices
