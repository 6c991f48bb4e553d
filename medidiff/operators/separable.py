"""Operators that are one small matrix along each of some axes: their Gram matrix is inverted exactly, axis by axis."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from medidiff.errors import GeometryError
from medidiff.operators.base import LinearOperator, per_item

# What an axis hardly passes on cannot be had back from it; this floor under the Gram eigenvalues bounds what noise can
# grow to.
RELATIVE_DAMPING = 1e-6


class SeparableOperator(LinearOperator):
    """A matrix along each of some axes, one after the other; their order does not matter.

    Args:
        in_shape: Image (c, i, j, k).
        matrices: For axes 0, 1 or 2 (i, j, k), a matrix of shape (measurements, voxels) along it, float64.
    Raises:
        GeometryError: a matrix does not fit its axis.
    """

    def __init__(self, in_shape: tuple[int, ...], matrices: Mapping[int, Tensor]) -> None:
        self.in_shape = tuple(in_shape)
        self.matrices = {axis: matrices[axis].to(torch.float64) for axis in sorted(matrices)}
        out = list(in_shape)
        for axis, matrix in self.matrices.items():
            if axis not in (0, 1, 2) or matrix.ndim != 2 or matrix.shape[1] != in_shape[axis + 1]:
                raise GeometryError(
                    f"a matrix of {tuple(matrix.shape)} does not go along axis {axis} of an image of {tuple(in_shape)}"
                )
            out[axis + 1] = matrix.shape[0]
        self.out_shape = tuple(out)
        self._eigen = {a: torch.linalg.eigh(m @ m.T) for a, m in self.matrices.items()}

    def _forward(self, x: Tensor) -> Tensor:
        for axis, matrix in self.matrices.items():
            x = along(x, matrix, axis)
        return x

    def _adjoint(self, y: Tensor) -> Tensor:
        for axis, matrix in self.matrices.items():
            y = along(y, matrix.T, axis)
        return y

    def solve_gram(self, r: Tensor, damping: float | Tensor = 0.0) -> Tensor:
        """Closed form: in the eigenvectors of every axis the Gram matrix is a product of their eigenvalues."""
        product = torch.ones((), dtype=torch.float64)
        for axis, (values, vectors) in self._eigen.items():
            r = along(r, vectors.T, axis)
            shape = [1, 1, 1, 1]
            shape[axis + 1] = -1
            product = product * values.clamp_min(0).view(shape)
        floor = float(product.max()) * RELATIVE_DAMPING
        wide = r.to(torch.float64) / (product.to(r.device) + per_item(damping, r).to(torch.float64).clamp_min(floor))
        r = wide.to(r.dtype)
        for axis, (_, vectors) in self._eigen.items():
            r = along(r, vectors, axis)
        return r


def along(x: Tensor, matrix: Tensor, axis: int) -> Tensor:
    """Apply a matrix along axis 0, 1 or 2 of images of shape (b, c, i, j, k)."""
    moved = x.movedim(axis + 2, -1)
    out: Tensor = (moved @ matrix.T.to(x)).movedim(-1, axis + 2)
    return out
