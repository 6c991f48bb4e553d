"""Sampling an image on another grid that is shifted, turned or coarser, with the exact adjoint.

An affine map of a grid is split into three passes, each of which moves voxels along one axis alone. A pass is a
one-dimensional interpolation whose shift differs from line to line; where it does not, it is one small matrix.
Source: Catmull & Smith (1980), 3-D transformations of images in scanline order, SIGGRAPH; interpolation kernel of
Keys (1981), Cubic convolution interpolation for digital image processing, IEEE Trans. ASSP 29, eq. (15).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from medidiff.errors import GeometryError
from medidiff.geometry import Geometry
from medidiff.operators.base import LinearOperator
from medidiff.operators.separable import along

Array = NDArray[Any]
Interpolation = Literal["linear", "cubic"]

# Shifts that differ by less than this many voxels over the whole grid are one shift.
SAME_SHIFT = 1e-6
# Lines are worked off in blocks of this many voxels, so that indices never take more memory than the image.
BLOCK_VOXELS = 1 << 20


@dataclass(frozen=True, slots=True)
class Pass:
    """Positions along ``axis`` of the input: ``scale * (own index) + a * (first other) + b * (second other) + offset``.

    Args:
        axis: The axis that is resampled.
        count: Its number of voxels afterwards.
        others: Index of the other two axes, rising, and how the position changes with each.
    """

    axis: int
    count: int
    scale: float
    a: float
    b: float
    offset: float


class ResampleOperator(LinearOperator):
    """Interpolate an image at the voxel centres of another grid; zero where the image does not reach.

    Args:
        channels: c.
        source: Grid of the image.
        target: Grid on which it is sampled. No voxels are averaged: a coarser grid wants a blur or slices besides.
        interpolation: ``"cubic"`` keeps more detail, ``"linear"`` never overshoots.
    Raises:
        GeometryError: the grids are turned so that no axis of one lies near one of the other.
    """

    # Neighbouring measurements share voxels in ways that no closed form undoes; see ``solve_gram``.
    cg_steps = 400

    def __init__(
        self, channels: int, source: Geometry, target: Geometry, interpolation: Interpolation = "cubic"
    ) -> None:
        self.in_shape, self.out_shape = (channels, *source.shape), (channels, *target.shape)
        self.interpolation = interpolation
        index = np.linalg.inv(source.affine) @ target.affine
        matrix, offset = index[:3, :3], index[:3, 3]
        # Axes of the target in the order of the source axes that they lie nearest to.
        _, columns = linear_sum_assignment(-np.abs(matrix))
        self.order = tuple(int(c) for c in columns)
        shape = tuple(target.shape[c] for c in self.order)
        self.passes = split(matrix[:, columns], offset, shape)

    def _forward(self, x: Tensor) -> Tensor:
        for step in self.passes:
            x = apply_pass(x, step, self.interpolation)
        return x.permute(0, 1, *(2 + int(n) for n in np.argsort(self.order))).contiguous()

    def _adjoint(self, y: Tensor) -> Tensor:
        y = y.permute(0, 1, *(2 + n for n in self.order))
        for step, size in zip(reversed(self.passes), reversed(self.in_shape[1:]), strict=True):
            y = apply_pass(y, step, self.interpolation, back_to=size)
        return y.contiguous()


def split(matrix: Array, offset: Array, shape: tuple[int, ...]) -> tuple[Pass, Pass, Pass]:
    """``source index = matrix @ target index + offset`` as passes along axes 0, 1 and 2, in this order.

    Each pass leaves two coordinates as they are, so that its own is a linear function of what is there then.

    Raises:
        GeometryError: one of the passes would have to squeeze an axis to nothing.
    """
    lower, last = matrix[1:, 1:], matrix[2, 2]
    if (
        min(abs(np.linalg.det(lower)), abs(last)) < 1e-3 * np.abs(matrix).max() ** 2
        or abs(np.linalg.det(matrix)) < 1e-9
    ):
        raise GeometryError("the grids are turned too far against each other to be resampled axis by axis")
    row = matrix[0, 1:] @ np.linalg.inv(lower)
    first = Pass(
        0, shape[0], float(matrix[0, 0] - row @ matrix[1:, 0]), float(row[0]), float(row[1]),
        float(offset[0] - row @ offset[1:]),
    )  # fmt: skip
    share = matrix[1, 2] / last
    second = Pass(
        1, shape[1], float(matrix[1, 1] - share * matrix[2, 1]), float(matrix[1, 0] - share * matrix[2, 0]),
        float(share), float(offset[1] - share * offset[2]),
    )  # fmt: skip
    third = Pass(2, shape[2], float(last), float(matrix[2, 0]), float(matrix[2, 1]), float(offset[2]))
    return first, second, third


def apply_pass(x: Tensor, step: Pass, interpolation: Interpolation, back_to: int | None = None) -> Tensor:
    """One pass, or its adjoint to an axis of ``back_to`` voxels."""
    size = back_to or x.shape[step.axis + 2]
    others = [n for axis, n in enumerate(x.shape[2:]) if axis != step.axis]
    if abs(step.a) * others[0] + abs(step.b) * others[1] < SAME_SHIFT:
        matrix = interpolation_matrix(step.scale * np.arange(step.count) + step.offset, size, interpolation)
        return along(x, matrix if back_to is None else matrix.T, step.axis)
    lines = x.movedim(step.axis + 2, -1)
    out = x.new_zeros(*lines.shape[:-1], step.count if back_to is None else size)
    block = max(1, BLOCK_VOXELS // max(1, lines.shape[3] * max(step.count, size)))
    own = step.scale * torch.arange(step.count, dtype=torch.float64, device=x.device)
    second = step.b * torch.arange(others[1], dtype=torch.float64, device=x.device)
    for begin in range(0, others[0], block):
        end = min(begin + block, others[0])
        first = step.a * torch.arange(begin, end, dtype=torch.float64, device=x.device)
        positions = first[:, None, None] + second[:, None] + own + step.offset
        part, into = lines[:, :, begin:end], out[:, :, begin:end]
        for index, weight in taps(positions, size, interpolation):
            index, weight = index.expand(*part.shape[:2], *index.shape), weight.to(x)
            if back_to is None:
                into += weight * part.gather(-1, index)
            else:
                into.scatter_add_(-1, index, weight * part)
    return out.movedim(-1, step.axis + 2)


def taps(positions: Tensor, size: int, interpolation: Interpolation) -> list[tuple[Tensor, Tensor]]:
    """Index and weight of each voxel that takes part in an interpolation, shaped like ``positions``.

    Neighbours beyond the edge are replaced by the edge; positions more than half a voxel beyond it weigh nothing.
    """
    base = positions.floor()
    t = positions - base
    inside = (positions >= -0.5) & (positions <= size - 0.5)
    if interpolation == "linear":
        kernel = [(0, 1 - t), (1, t)]
    else:
        kernel = [
            (-1, ((-0.5 * t + 1) * t - 0.5) * t),
            (0, (1.5 * t - 2.5) * t * t + 1),
            (1, ((-1.5 * t + 2) * t + 0.5) * t),
            (2, (0.5 * t - 0.5) * t * t),
        ]
    whole = base.long()
    return [((whole + shift).clamp(0, size - 1), weight * inside) for shift, weight in kernel]


def interpolation_matrix(positions: Array, size: int, interpolation: Interpolation) -> Tensor:
    """Interpolation at some positions along an axis as a matrix, shape (positions, size), float64."""
    matrix = torch.zeros(len(positions), size, dtype=torch.float64)
    for index, weight in taps(torch.from_numpy(np.asarray(positions, dtype=np.float64)), size, interpolation):
        matrix.scatter_add_(1, index[:, None], weight[:, None])
    return matrix
