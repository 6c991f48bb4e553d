"""Total variation: the classical answer for few views of things that are made of homogeneous parts.

Source: Sidky, Jorgensen & Pan (2012), Convex optimization problem prototyping for image reconstruction in computed
tomography with the Chambolle-Pock algorithm, Phys. Med. Biol. 57, 3065, algorithm 4.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from medidiff.operators.base import LinearOperator

# The gradient is scaled down to the size of the projections, so that one step length suits both.
GRADIENT_SHARE = 0.35
POWER_STEPS = 20


def total_variation(
    operator: LinearOperator, y: Tensor, weight: float, iterations: int, start: Tensor | None = None
) -> Tensor:
    """``min |A x - y|^2 / (2 |A|^2) + weight TV(x)`` over x >= 0, isotropic in the planes (i, j).

    Args:
        operator: Real, from images (c, i, j, k).
        y: Measurements, shape (b, *operator.out_shape).
        weight: Of the variation, in units of the image.
        start: Where to begin, shape (b, *operator.in_shape); nothing if None.
    Returns:
        Shape (b, *operator.in_shape).
    """
    size = norm(operator, y)
    step = 0.99 / math.sqrt(1 + 8 * GRADIENT_SHARE**2)
    x = y.new_zeros(len(y), *operator.in_shape) if start is None else start.clamp_min(0)
    ahead, rays, edges = x, torch.zeros_like(y), y.new_zeros(2, *x.shape)
    for _ in range(iterations):
        rays = (rays + step / size * (operator.forward(ahead) - y)) / (1 + step)
        edges = edges + step * GRADIENT_SHARE * gradient(ahead)
        edges = edges / (edges.square().sum(0, keepdim=True).sqrt() * (GRADIENT_SHARE / weight)).clamp_min(1)
        downhill = operator.adjoint(rays) / size + GRADIENT_SHARE * gradient_adjoint(edges)
        new = (x - step * downhill).clamp_min(0)
        ahead, x = 2 * new - x, new
    return x


def norm(operator: LinearOperator, like: Tensor) -> float:
    """Largest singular value, by power iteration."""
    x, value = like.new_ones(1, *operator.in_shape), 1.0
    for _ in range(POWER_STEPS):
        x = operator.adjoint(operator.forward(x))
        value = float(x.norm())
        x = x / value
    return math.sqrt(value)


def gradient(x: Tensor) -> Tensor:
    """Forward differences along i and j, zero at the end; shape (2, *x.shape)."""
    out = x.new_zeros(2, *x.shape)
    out[0, :, :, :-1] = x[:, :, 1:] - x[:, :, :-1]
    out[1, :, :, :, :-1] = x[:, :, :, 1:] - x[:, :, :, :-1]
    return out


def gradient_adjoint(edges: Tensor) -> Tensor:
    """The exact adjoint of ``gradient``."""
    out = torch.zeros_like(edges[0])
    out[:, :, 1:] += edges[0, :, :, :-1]
    out[:, :, :-1] -= edges[0, :, :, :-1]
    out[:, :, :, 1:] += edges[1, :, :, :, :-1]
    out[:, :, :, :-1] -= edges[1, :, :, :, :-1]
    return out
