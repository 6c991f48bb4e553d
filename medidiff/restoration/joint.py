"""Stacks of one head in one place and one scale of intensities, and what a network and all of them say together."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medidiff.diffusion.denoiser import Preconditioned
from medidiff.diffusion.tiling import TiledDenoiser, Tiling
from medidiff.errors import InputError
from medidiff.geometry import Geometry
from medidiff.guidance import condition_of
from medidiff.operators import MaskOperator, ResampleOperator, SliceOperator, StackedOperator, stack_operator
from medidiff.operators.base import LinearOperator, toward_data
from medidiff.operators.motion import rigid_matrices
from medidiff.operators.slices import SliceProfile
from medidiff.operators.smooth import smooth_least_squares, spanned
from medidiff.operators.task import Task
from medidiff.restoration.motion import find_movements, groups_of, moved
from medidiff.restoration.register import Stack, displacement, find_motion

Array = NDArray[Any]

# A head that moved less than this between two stacks, mm, has not moved: nothing is interpolated for it.
STILL = 0.1
# Measurements of which less than this share lies on the result's grid are left out.
COVERED = 0.98
# Slices of one head in one contrast agree at least so well with what the first stack predicts of them.
SAME_CONTRAST = 0.8
# A movement beyond this, mm, is more likely a registration that went astray.
LARGE_MOVEMENT = 25.0
# Weight of the network's answer against the data in the last step, and its steps; flat over two decades on the training
# heads.
NETWORK_WEIGHT, JOIN_STEPS = 1e-3, 30
# What the network is told of the slice distance in the joined image; 0.5 and 1 are worse on the training heads.
TOLD_FACTOR = 0.75


@dataclass(frozen=True)
class Join:
    """Stacks in one place and one scale of intensities.

    Args:
        image: Grid of the result.
        stacks: The slices, each on the grid where they see the head of the first.
        operator: From an image to all measurements that lie on its grid.
        y: Those, shape (1, *operator.out_shape).
        found: Movement and gain of each stack.
        warnings: Doubts about them.
    """

    image: Geometry
    stacks: tuple[Stack, ...]
    operator: StackedOperator
    y: Tensor
    found: tuple[dict[str, Any], ...]
    warnings: tuple[str, ...]

    @classmethod
    def of(
        cls, stacks: Sequence[Stack], image: Geometry, names: Sequence[str], zero: float = 0.0, shots: int | None = None
    ) -> Join:
        """Find out how the head moved between the stacks, and how their intensities compare.

        Args:
            stacks: All in one intensity scale, of which ``zero`` is the value where there is no signal.
            image: Grid of the result.
            names: What to call each stack in an error.
            shots: Also find out how the head moved between the slices, see ``groups_of``; None if it did not.
        Raises:
            InputError: a stack shows something else, or another contrast.
        """
        placed, warnings = [stacks[0]], []
        found: list[dict[str, Any]] = [{"moved_mm": 0.0, "motion": [0.0] * 6, "gain": 1.0}]
        for number, stack in enumerate(stacks[1:], 1):
            # With more stacks in place, the image that the next one is compared with is better.
            reference, inside = _start(placed, image)
            motion, moved = _movement(reference, inside, image, stack)
            gain, correlation = _compare(reference - zero, inside, image, replace(moved, y=moved.y - zero))
            if correlation < SAME_CONTRAST:
                raise InputError(
                    f"{names[number]}: agrees too little with the stacks before it (correlation {correlation:.2f}): "
                    "it is of another head or contrast"
                )
            distance = stack.geometry.distance(moved.geometry)
            if distance > LARGE_MOVEMENT:
                warnings.append(f"Stack {number + 1} had to be moved by {distance:.0f} mm: look whether that is right.")
            placed.append(replace(moved, y=(moved.y - zero) / gain + zero))
            (degrees,) = in_degrees(motion[None])
            found.append({"moved_mm": round(distance, 3), "motion": degrees, "gain": round(gain, 4)})
        if shots is not None:
            groups = [groups_of(stack.geometry.shape[stack.axis], shots) for stack in placed]
            for number, motion in enumerate(find_movements(placed, image, groups)):
                placed[number] = replace(placed[number], motion=motion)
                found[number]["slice_motion"] = in_degrees(motion)
        operators, measured = zip(*(_measurement(stack, image) for stack in placed), strict=True)
        operator = StackedOperator(operators)
        return cls(image, tuple(placed), operator, operator.join(measured), tuple(found), tuple(warnings))

    def mean(self) -> Tensor:
        """Mean of the classical answers to each stack, where they see the head, shape (1, 1, *image.shape)."""
        if any(stack.motion is not None for stack in self.stacks):
            return spanned(self.operator, self.y)
        return _start(self.stacks, self.image)[0]

    def classical(self) -> Tensor:
        """Joint least squares with a little smoothness, shape (1, 1, *image.shape)."""
        return smooth_least_squares(self.operator, self.y, self.mean())

    def posterior(self, model: Preconditioned, tiling: Tiling) -> JointPosterior:
        """The network and all measurements as one denoiser."""
        reference = self.classical()
        looks = []
        for stack in self.stacks:
            own = Own.of(stack, min(self.image.spacing))
            known = ResampleOperator(1, own.grid, self.image, "linear").forward(own.operator.known(own.y).contiguous())
            told = TOLD_FACTOR if len(self.stacks) > 1 else 1.0
            task = replace(own.operator.task(), factor=max(1.0, told * own.operator.profile.factor))
            normal = np.abs(self.image.direction.T @ stack.geometry.direction[:, stack.axis])
            looks.append(Look.of(model, reference, known.clamp(0, 1), task, int(np.argmax(normal)), tiling))
        return JointPosterior(tuple(looks), self.operator, self.y)

    def misfit(self, x: Tensor) -> float:
        """Relative disagreement with all measurements."""
        return float((self.operator.forward(x) - self.y).norm() / self.y.norm().clamp_min(1e-30))


@dataclass(frozen=True)
class Look:
    """The network as it sees the joined image, with the slices of one stack along its last axis."""

    denoiser: TiledDenoiser
    axis: int
    reference: Tensor

    @classmethod
    def of(cls, model: Preconditioned, reference: Tensor, known: Tensor, task: Task, axis: int, tiling: Tiling) -> Look:
        seen, share = (x.movedim(axis + 2, -1).contiguous() for x in (reference, known))
        turned = condition_of(seen, share, task)
        return cls(TiledDenoiser(model, turned, tiling), axis, reference)

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        return self.denoiser(x.movedim(self.axis + 2, -1).contiguous(), sigma).movedim(-1, self.axis + 2)


@dataclass(frozen=True)
class JointPosterior:
    """A ``Denoiser`` that knows all stacks: the mean of the network's looks, brought to agree with the measurements.

    The shipped network was trained on single stacks. It is shown the joined image once along each stack's direction, as
    slices somewhat thinner than they were: what is missing from the joined image is less than from one stack. On
    the training heads this gains 1.0 to 1.2 dB over joint least squares with two stacks and 1.0 with three; restoring
    each stack alone and joining the results gains 0.1 to 0.3 dB less, and a second look nothing.
    """

    looks: tuple[Look, ...]
    operator: StackedOperator
    y: Tensor

    @property
    def sigma_min(self) -> float:
        return max(look.denoiser.sigma_min for look in self.looks)

    @property
    def sigma_max(self) -> float:
        return max(look.denoiser.sigma_max for look in self.looks)

    @property
    def spread(self) -> float:
        return max(look.denoiser.spread for look in self.looks)

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        estimate = sum((look(x, sigma) for look in self.looks[1:]), self.looks[0](x, sigma)) / len(self.looks)
        return toward_data(self.operator, estimate, self.y, NETWORK_WEIGHT, steps=JOIN_STEPS)


@dataclass(frozen=True)
class Own:
    """One stack by itself, on a fine grid along its own axes."""

    operator: SliceOperator
    grid: Geometry
    y: Tensor

    @classmethod
    def of(cls, stack: Stack, step: float) -> Own:
        distance = stack.geometry.spacing[stack.axis]
        # The network knows voxels of equal sides.
        step = max(min(step, distance), min(stack.geometry.spacing))
        count = max(1, math.ceil(stack.geometry.shape[stack.axis] * distance / step - 1e-6))
        fine = stack.geometry.resampled(stack.axis, count, step)
        profile = SliceProfile.of(distance, stack.thickness, stack.form, step)
        operator = SliceOperator((1, *fine.shape), stack.axis, profile, count=stack.geometry.shape[stack.axis])
        return cls(operator, fine, stack.y)


def in_degrees(motion: Array) -> list[list[float]]:
    """Rigid positions for a record: degrees and mm, a list of six for each."""
    return [[round(float(v), 3) for v in (*np.degrees(row[:3]), *row[3:])] for row in motion]


def mean_on(image: Geometry, parts: Sequence[tuple[Tensor, Geometry]]) -> tuple[Tensor, Tensor]:
    """Mean of images on grids of their own, where each of them reaches; 1 where one does; (1, 1, *image.shape) each."""
    total = weight = torch.zeros(1, 1, *image.shape, device=parts[0][0].device)
    for x, grid in parts:
        operator = ResampleOperator(1, grid, image)
        inside = operator.forward(torch.ones_like(x)) > 0.5
        total = total + operator.forward(x) * inside
        weight = weight + inside
    return total / weight.clamp_min(1), (weight > 0).to(total)


def union(grids: Sequence[Geometry], step: float) -> Geometry:
    """A grid of equal sides along the axes of the first one that holds them all, edge to edge."""
    direction = grids[0].direction
    corners = [
        grid.to_world(np.array(list(itertools.product(*((-0.5, n - 0.5) for n in grid.shape))))) for grid in grids
    ]
    along = np.concatenate(corners) @ direction
    low, high = along.min(axis=0), along.max(axis=0)
    shape = np.maximum(np.ceil((high - low) / step - 1e-3), 1).astype(int)
    centre = (low + high) / 2
    affine = np.eye(4)
    affine[:3, :3] = direction * step
    affine[:3, 3] = direction @ (centre - (shape - 1) / 2 * step)
    return Geometry(affine, (int(shape[0]), int(shape[1]), int(shape[2])))


def _start(stacks: Sequence[Stack], image: Geometry) -> tuple[Tensor, Tensor]:
    """Mean of the classical answers to each stack, and 1 where one of them reaches."""
    own = [Own.of(stack, min(image.spacing)) for stack in stacks]
    return mean_on(image, [(part.operator.reference(part.y), part.grid) for part in own])


def _movement(reference: Tensor, inside: Tensor, image: Geometry, stack: Stack) -> tuple[Array, Stack]:
    """Rigid movement of the head since the image was taken, and the stack where it sees that image."""
    count = stack.geometry.shape[stack.axis]
    motion = find_motion(reference, image, stack, np.zeros((count, 6)), np.zeros(count, dtype=int), inside=inside)[0]
    centre = stack.geometry.to_world((np.asarray(stack.geometry.shape) - 1) / 2)
    matrix = np.linalg.inv(rigid_matrices(motion[None], centre)[0])
    if displacement(matrix, stack.geometry) < STILL:
        return np.zeros(6), stack
    return motion, replace(stack, geometry=Geometry(matrix @ stack.geometry.affine, stack.geometry.shape))


def _compare(reference: Tensor, inside: Tensor, image: Geometry, stack: Stack) -> tuple[float, float]:
    """Gain of a stack over what an image predicts of it, and the correlation of the two."""
    operator, y = _measurement(stack, image)
    seen = operator.forward(inside) > COVERED
    predicted, measured = operator.forward(reference)[seen].double(), y[seen].double()
    gain = float((predicted * measured).sum() / predicted.square().sum().clamp_min(1e-30))
    correlation = float(torch.corrcoef(torch.stack([predicted, measured]))[0, 1])
    return max(gain, 1e-6), correlation


def _measurement(stack: Stack, image: Geometry) -> tuple[LinearOperator, Tensor]:
    """Operator and data of a stack, without what lies off the image's grid."""
    operator: LinearOperator
    if stack.motion is None:
        operator = stack_operator(image, stack.geometry, stack.axis, stack.thickness, profile=stack.form)
    else:
        operator = moved(stack, image, stack.motion)
    covered = operator.forward(torch.ones(1, *operator.in_shape, device=stack.y.device))[0] > COVERED
    if bool(covered.all()):
        return operator, stack.y
    mask = MaskOperator(operator.out_shape, covered)
    return mask @ operator, mask.forward(stack.y)
