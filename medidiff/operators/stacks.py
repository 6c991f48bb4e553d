"""Several measurements of one head, and a stack of thick slices that lies anywhere in space."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from medidiff.errors import GeometryError
from medidiff.geometry import Geometry
from medidiff.operators.base import Composition, LinearOperator
from medidiff.operators.resample import Interpolation, ResampleOperator
from medidiff.operators.slices import MeasuredProfile, Profile, SliceOperator, SliceProfile

# Slices this little coarser than the wanted grid are sampled, not averaged.
NOT_AVERAGED = 1.05


class StackedOperator(LinearOperator):
    """All measurements of one image, one below the other: ``y = (A x, B x, ...)``, flat.

    Args:
        parts: Operators on images of one shape.
    Raises:
        GeometryError: there are none, or their images differ.
    """

    # Neighbouring measurements share voxels in ways that no closed form undoes; see ``solve_gram``.
    cg_steps = 400

    def __init__(self, parts: Sequence[LinearOperator]) -> None:
        if not parts or any(part.in_shape != parts[0].in_shape for part in parts):
            raise GeometryError(f"one image is wanted for all measurements, got {[part.in_shape for part in parts]}")
        self.parts = tuple(parts)
        self.in_shape = parts[0].in_shape
        self._sizes = [math.prod(part.out_shape) for part in parts]
        self.out_shape = (sum(self._sizes),)

    def _forward(self, x: Tensor) -> Tensor:
        return torch.cat([part._forward(x).flatten(1) for part in self.parts], dim=1)

    def _adjoint(self, y: Tensor) -> Tensor:
        total = self.parts[0]._adjoint(self.split(y)[0])
        for part, own in zip(self.parts[1:], self.split(y)[1:], strict=True):
            total = total + part._adjoint(own)
        return total

    def split(self, y: Tensor) -> list[Tensor]:
        """Flat measurements as each part has them, shapes (b, *part.out_shape)."""
        pieces = y.split(self._sizes, dim=1)
        return [own.reshape(len(y), *part.out_shape) for own, part in zip(pieces, self.parts, strict=True)]

    def join(self, measured: Sequence[Tensor]) -> Tensor:
        """Undo ``split``: shape (b, *out_shape)."""
        return torch.cat([y.flatten(1) for y in measured], dim=1)


def stack_operator(
    image: Geometry,
    stack: Geometry,
    axis: int,
    thickness: float,
    *,
    profile: Profile | MeasuredProfile = "box",
    channels: int = 1,
    interpolation: Interpolation = "cubic",
) -> LinearOperator:
    """Thick slices that lie anywhere: the image is sampled on a fine grid along the stack, and sliced there.

    Args:
        image: Grid of the image, orthogonal.
        stack: Grid of the slices, orthogonal, in any position and direction.
        axis: Axis of ``stack`` across its slices.
        thickness: Of the slices, mm.
        profile: Form of the slice profile.
    Returns:
        From (channels, *image.shape) to (channels, *stack.shape).
    Raises:
        GeometryError: the grids do not suit.
    """
    step = min(image.spacing)
    fine = stack
    slicing: list[tuple[int, SliceProfile, int]] = []
    for own in range(3):
        distance = stack.spacing[own]
        if own != axis and distance < NOT_AVERAGED * step:
            continue
        width = thickness if own == axis else distance
        factor = max(1.0, distance / step)
        cell = distance / factor
        # Profiles of the outermost slices may reach beyond half a slice distance.
        count = max(1, math.ceil(stack.shape[own] * factor + max(0.0, width - distance) / cell - 1e-6))
        fine = fine.resampled(own, count, cell)
        form = SliceProfile.of(distance, width, profile if own == axis else "box", cell)
        slicing.append((own, form, stack.shape[own]))
    operator: LinearOperator = ResampleOperator(channels, image, fine, interpolation)
    for own, form, count in slicing:
        shape = operator.out_shape
        operator = Composition(
            SliceOperator((shape[0], shape[1], shape[2], shape[3]), own, form, count=count), operator
        )
    return operator


def slice_axis(stack: Geometry) -> int:
    """The axis across the slices: the one with the largest distance of voxels."""
    return int(np.argmax(stack.spacing))
