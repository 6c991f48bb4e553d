"""A measurement made of several steps, and what a network is told about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, fields
from functools import reduce

import torch
from torch import Tensor

from medidiff.errors import GeometryError
from medidiff.guidance import Restorable
from medidiff.operators.base import LinearOperator, toward_data
from medidiff.operators.task import Task

# Steps of conjugate gradients after which more of them would only chase the noise in the data.
DATA_STEPS = 20
# A classical answer that is this near to the data needs no correction.
AGREES = 1e-4


class Chain(LinearOperator):
    """Operators applied one after the other, each of which can say what it did: ``steps[0]`` first.

    The classical answer undoes them from the last to the first, and is then brought to agree with the data as a whole.

    Args:
        steps: Operators that are ``Restorable``.
        damping: Squared noise of the data over that of the classical answer, for that last correction; see
            ``Likelihood.prox``.
        cg_steps: Where there is no closed form, the most that is spent on agreement with the data.
    Raises:
        GeometryError: there are none, or they do not fit.
    """

    def __init__(self, steps: Sequence[LinearOperator], damping: float = 0.0, cg_steps: int | None = None) -> None:
        if not steps:
            raise GeometryError("a chain of operators needs at least one")
        self.steps, self.damping = tuple(steps), damping
        self.whole = reduce(lambda first, second: second @ first, steps)
        self.in_shape, self.out_shape = self.whole.in_shape, self.whole.out_shape
        self.cg_steps = cg_steps or self.whole.cg_steps

    def _forward(self, x: Tensor) -> Tensor:
        return self.whole._forward(x)

    def _adjoint(self, y: Tensor) -> Tensor:
        return self.whole._adjoint(y)

    def solve_gram(self, r: Tensor, damping: float | Tensor) -> Tensor:
        """Closed form where there is a single step, else a few steps of conjugate gradients."""
        if len(self.steps) == 1:
            return self.steps[0].solve_gram(r, damping)
        return super().solve_gram(r, damping)

    def reference(self, y: Tensor) -> Tensor:
        """The classical answer, shape (b, *in_shape)."""
        self._check(y, self.out_shape, "measurement")
        x = y
        for step in reversed(self.steps):
            x = restorable(step).reference(x)
        agrees = float((self.forward(x) - y).norm()) <= AGREES * float(y.norm())
        return x if agrees else toward_data(self, x, y, self.damping, steps=DATA_STEPS)

    def known(self, y: Tensor) -> Tensor:
        """How directly each voxel was measured, over all steps, shape (b, *in_shape)."""
        share = torch.ones_like(y.real if y.is_complex() else y)
        for step in reversed(self.steps):
            share = restorable(step).known(share) * spread(step, share)
        return share.clamp(0, 1)

    def task(self, noise_std: float = 0.0) -> Task:
        """The worst of what each step did."""
        return merged([restorable(step).task(noise_std) for step in self.steps])


class Turned(LinearOperator):
    """A chain of which the image is seen with one axis in the last place.

    A network that has met slices along its last axis alone sharpens the wrong direction if they lie along another.

    Args:
        inner: The chain on the image as it lies.
        axis: Which axis (0, 1 or 2) the image's last one is to be.
    """

    def __init__(self, inner: Chain, axis: int) -> None:
        self.inner, self.axis, self.cg_steps = inner, axis + 2, inner.cg_steps
        channels, *size = inner.in_shape
        size.append(size.pop(axis))
        self.in_shape, self.out_shape = (channels, *size), inner.out_shape

    def _forward(self, x: Tensor) -> Tensor:
        return self.inner._forward(self.back(x))

    def _adjoint(self, y: Tensor) -> Tensor:
        return self._turn(self.inner._adjoint(y))

    def solve_gram(self, r: Tensor, damping: float | Tensor) -> Tensor:
        """Measurements are not turned, and neither is their Gram matrix."""
        return self.inner.solve_gram(r, damping)

    def reference(self, y: Tensor) -> Tensor:
        """The classical answer, turned, shape (b, *in_shape)."""
        return self._turn(self.inner.reference(y))

    def known(self, y: Tensor) -> Tensor:
        """How directly each voxel was measured, turned, shape (b, *in_shape)."""
        return self._turn(self.inner.known(y))

    def task(self, noise_std: float = 0.0) -> Task:
        """What the chain did."""
        return self.inner.task(noise_std)

    def back(self, x: Tensor) -> Tensor:
        """An image as it lies, shape (b, *inner.in_shape)."""
        return x.movedim(-1, self.axis).contiguous()

    def _turn(self, x: Tensor) -> Tensor:
        return x.movedim(self.axis, -1).contiguous()


def spread(step: LinearOperator, share: Tensor) -> Tensor:
    """Shares of measurements laid back over the voxels that they came from, in [0, 1]."""
    ones = step.adjoint(torch.ones_like(share))
    return step.adjoint(share) / ones.clamp_min(1e-6) * (ones > 1e-6)


def restorable(step: LinearOperator) -> Restorable:
    """An operator that can tell a network what it did.

    Raises:
        GeometryError: this one cannot.
    """
    if not isinstance(step, Restorable):
        raise GeometryError(f"{type(step).__name__} cannot say what it did, so no network can be told")
    return step


def merged(tasks: Sequence[Task]) -> Task:
    """Damage on top of damage: the largest of each number; of slices, form and thickness where they are thickest."""
    thickest = max(tasks, key=lambda task: task.factor)
    worst = [max(values) for values in zip(*map(astuple, tasks), strict=True)]
    own = {field.name: value for field, value in zip(fields(Task), worst, strict=True)}
    return Task(**own | {"thickness": thickest.thickness, "gaussian": thickest.gaussian})
