"""Total variation: an exact adjoint, and a minimiser that is one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from medidiff.operators import Identity, ParallelBeam
from medidiff.operators.projection import views
from medidiff.operators.variation import gradient, gradient_adjoint, norm, total_variation

SHAPE = (1, 18, 15, 2)


def blocks() -> Tensor:
    """Two squares, one in the other, shape (1, *SHAPE)."""
    x = torch.zeros(1, *SHAPE, dtype=torch.float64)
    x[:, :, 4:14, 3:12] = 0.5
    x[:, :, 7:10, 6:9] = 1.0
    return x


def test_the_adjoint_of_the_gradient_is_exact() -> None:
    x, edges = torch.randn(2, *SHAPE, dtype=torch.float64), torch.randn(2, 2, *SHAPE, dtype=torch.float64)
    left, right = (gradient(x) * edges).sum(), (x * gradient_adjoint(edges)).sum()
    assert abs(left - right) < 1e-12 * gradient(x).norm() * edges.norm()


def test_the_norm_is_the_largest_singular_value() -> None:
    operator = ParallelBeam((1, 7, 6, 1), views(4))
    basis = torch.eye(42, dtype=torch.float64).reshape(42, 1, 7, 6, 1)
    exact = torch.linalg.matrix_norm(operator.forward(basis).reshape(42, -1), 2)
    assert norm(operator, basis) == pytest.approx(float(exact), rel=1e-3)


def test_it_ends_where_its_objective_is_least() -> None:
    operator, truth = ParallelBeam(SHAPE, views(9)), blocks()
    generator = torch.Generator().manual_seed(0)
    y = operator.forward(truth)
    y = y + 0.05 * torch.randn(y.shape, generator=generator, dtype=y.dtype)
    weight, size = 1e-3, norm(operator, y)

    def objective(x: Tensor) -> float:
        variation = gradient(x).square().sum(0).sqrt().sum()
        return float((operator.forward(x) - y).square().sum() / 2 / size**2 + weight * variation)

    found = total_variation(operator, y, weight, 3000)
    least = objective(found)
    assert least < objective(truth)
    for step in (1e-3, 1e-2):
        for _ in range(5):
            away = found + step * torch.randn(found.shape, generator=generator, dtype=y.dtype)
            assert objective(away.clamp_min(0)) > least


def test_few_views_of_blocks_come_back_far_better_than_by_least_squares() -> None:
    operator, truth = ParallelBeam(SHAPE, views(9)), blocks()
    y = operator.forward(truth)
    classical = operator.classical(y)
    found = total_variation(operator, y, 1e-5, 1500, classical)
    assert (found - truth).norm() < 0.4 * (classical - truth).norm()


def test_a_heavy_weight_leaves_the_mean_of_a_plane_alone() -> None:
    y = 1 + 0.1 * torch.randn(1, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found = total_variation(Identity(SHAPE), y, 10.0, 3000)
    torch.testing.assert_close(found, y.mean((2, 3), keepdim=True).expand_as(y), rtol=0, atol=2e-3)
