"""What every operator can do, and how operators combine.

An operator is the known, linear part of a measurement: ``y = A x + noise``. It never learns about diffusion.
Composition is written ``A @ B`` (first B), the adjoint ``A.H`` and the normal operator ``A.N``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from jaxtyping import Shaped
from torch import Tensor

from medidiff.errors import GeometryError
from medidiff.operators.task import Task

Batch = Shaped[Tensor, "b ..."]

# Iterations after which conjugate gradients are given up: the operators here are well conditioned, and what is
# left of the residual by then is below measurement noise.
MAX_CG_STEPS = 50
# Relative residual at which a step toward noisy data is good enough.
DATA_TOLERANCE = 1e-4


class LinearOperator(ABC):
    """A linear map between image space and measurement space, batch first.

    ``in_shape`` and ``out_shape`` leave out the batch dimension. Shapes are checked here, once, so that a
    subclass only says what happens in ``_forward`` and ``_adjoint``.
    """

    in_shape: tuple[int, ...]
    out_shape: tuple[int, ...]
    cg_steps: int = MAX_CG_STEPS

    def forward(self, x: Batch) -> Batch:
        """Measure: images of shape (b, *in_shape) to measurements of shape (b, *out_shape)."""
        self._check(x, self.in_shape, "input")
        return self._forward(x)

    def adjoint(self, y: Batch) -> Batch:
        """The exact adjoint: <A x, y> = <x, A^H y>."""
        self._check(y, self.out_shape, "measurement")
        return self._adjoint(y)

    @abstractmethod
    def _forward(self, x: Tensor) -> Tensor: ...

    @abstractmethod
    def _adjoint(self, y: Tensor) -> Tensor: ...

    def solve_gram(self, r: Batch, damping: float | Tensor) -> Batch:
        """Solve ``(A A^H + damping I) z = r``; conjugate gradients unless a subclass knows better.

        Args:
            r: Right-hand side in measurement space, shape (b, *out_shape).
            damping: Not negative; one number or one per item of the batch.
        """
        shift = per_item(damping, r)
        return conjugate_gradients(lambda z: self._forward(self._adjoint(z)) + shift * z, r, steps=self.cg_steps)

    @property
    def H(self) -> LinearOperator:
        return Adjoint(self)

    @property
    def N(self) -> LinearOperator:
        return self.H @ self

    def __matmul__(self, other: LinearOperator) -> LinearOperator:
        return Composition(self, other)

    def _check(self, x: Tensor, shape: tuple[int, ...], what: str) -> None:
        if tuple(x.shape[1:]) != tuple(shape):
            raise GeometryError(f"{type(self).__name__}: {what} must be (b, {shape}), got {tuple(x.shape)}")


class Adjoint(LinearOperator):
    """``A.H`` as an operator of its own."""

    def __init__(self, operator: LinearOperator) -> None:
        self.operator = operator
        self.cg_steps = operator.cg_steps
        self.in_shape, self.out_shape = operator.out_shape, operator.in_shape

    def _forward(self, x: Tensor) -> Tensor:
        return self.operator._adjoint(x)

    def _adjoint(self, y: Tensor) -> Tensor:
        return self.operator._forward(y)

    @property
    def H(self) -> LinearOperator:
        return self.operator


class Composition(LinearOperator):
    """``first``, then ``second``: written ``second @ first``."""

    def __init__(self, second: LinearOperator, first: LinearOperator) -> None:
        if first.out_shape != second.in_shape:
            raise GeometryError(
                f"cannot compose: {type(first).__name__} gives {first.out_shape}, "
                f"{type(second).__name__} takes {second.in_shape}"
            )
        self.first, self.second = first, second
        self.cg_steps = max(first.cg_steps, second.cg_steps)
        self.in_shape, self.out_shape = first.in_shape, second.out_shape

    def _forward(self, x: Tensor) -> Tensor:
        return self.second._forward(self.first._forward(x))

    def _adjoint(self, y: Tensor) -> Tensor:
        return self.first._adjoint(self.second._adjoint(y))


class OnGrid(LinearOperator):
    """Measurements that are an image on its own grid: whoever restores it is shown it as it is."""

    def reference(self, y: Tensor) -> Tensor:
        """The measurement is an image already, shape (b, *in_shape)."""
        self._check(y, self.out_shape, "measurement")
        return y

    def known(self, y: Tensor) -> Tensor:
        """Every voxel was measured, shape (b, *in_shape)."""
        return torch.ones_like(y)

    def task(self, noise_std: float = 0.0) -> Task:
        """Noise is what a network knows of an image on its own grid."""
        return Task(noise=noise_std)


class Identity(OnGrid):
    """Measures everything: with noise it makes reconstruction a denoising."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.in_shape = self.out_shape = tuple(shape)

    def _forward(self, x: Tensor) -> Tensor:
        return x

    def _adjoint(self, y: Tensor) -> Tensor:
        return y

    def solve_gram(self, r: Tensor, damping: float | Tensor) -> Tensor:
        return r / (1 + per_item(damping, r))


def per_item(value: float | Tensor, like: Tensor) -> Tensor:
    """A number, or one number per item, shaped to multiply a batch."""
    real = like.real.dtype if like.is_complex() else like.dtype
    tensor = torch.as_tensor(value, dtype=real, device=like.device)
    return tensor.reshape(-1, *([1] * (like.ndim - 1))) if tensor.ndim else tensor


def inner(a: Tensor, b: Tensor) -> Tensor:
    """Hermitian inner product of each item, shape (b,); accumulated in double precision where it matters."""
    product = (a.conj() * b).flatten(1)
    wide = torch.complex128 if product.is_complex() else torch.float64
    return product.sum(1, dtype=wide if product.device.type == "cpu" else None)


def conjugate_gradients(
    matrix: Callable[[Tensor], Tensor], rhs: Tensor, *, steps: int = MAX_CG_STEPS, tolerance: float = 1e-6
) -> Tensor:
    """Solve a Hermitian positive definite system for each item of a batch.

    Args:
        matrix: Function that applies the matrix to a batch.
        rhs: Right-hand sides, shape (b, ...).
        tolerance: Relative residual at which to stop.
    Source: Hestenes & Stiefel (1952), J. Res. NBS 49, 409.
    """
    x = torch.zeros_like(rhs)
    residual = rhs.clone()
    direction = residual
    energy = inner(residual, residual).real
    goal = energy * tolerance**2
    for _ in range(steps):
        # Asking the device costs a wait; without a tolerance the number of steps is simply fixed.
        if tolerance and bool((energy <= goal).all()):
            break
        image = matrix(direction)
        curvature = inner(direction, image).real
        # An item that has converged stands still instead of dividing zero by zero; so does one whose matrix turns out
        # not to be positive (a network's Jacobian need not be), instead of being thrown to infinity.
        moving = (energy > goal) & (curvature > 0)
        alpha = torch.where(moving, energy / curvature.clamp_min(torch.finfo(curvature.dtype).tiny), 0.0)
        x = x + per_item(alpha, x) * direction
        residual = residual - per_item(alpha, x) * image
        previous, energy = energy, inner(residual, residual).real
        beta = torch.where(previous > goal, energy / previous.clamp_min(torch.finfo(energy.dtype).tiny), 0.0)
        direction = residual + per_item(beta, x) * direction
    return x


def toward_data(operator: LinearOperator, x0: Tensor, y: Tensor, damping: float, *, steps: int) -> Tensor:
    """Minimise ``|A x - y|^2 + damping |x - x0|^2`` by conjugate gradients on the image.

    Args:
        operator: ``A``; of a real image only the real part is moved.
        x0: Where to begin, and to stay near, shape (b, *operator.in_shape).
        y: Measurements, shape (b, *operator.out_shape).
        damping: Not negative.
        steps: At most; few of them regularise as well (Hanke 1995).
    Source: Hestenes & Stiefel (1952) on the normal equations.
    """

    def back(r: Tensor) -> Tensor:
        image = operator.adjoint(r)
        return image.real if image.is_complex() and not x0.is_complex() else image

    def normal(v: Tensor) -> Tensor:
        return back(operator.forward(v)) + damping * v

    right = back(y - operator.forward(x0))
    return x0 + conjugate_gradients(normal, right, steps=steps, tolerance=DATA_TOLERANCE)
