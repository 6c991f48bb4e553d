"""The algebra of operators, conjugate gradients, likelihoods of complex data, and the task vector."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from medidiff.errors import GeometryError
from medidiff.operators import Identity, Likelihood, LinearOperator, SliceOperator, SliceProfile, conjugate_gradients
from medidiff.operators.task import NOTHING_KNOWN, Task


class Fourier(LinearOperator):
    """A complex operator on real images, as k-space is."""

    def __init__(self) -> None:
        self.in_shape = self.out_shape = (1, 4, 4, 4)

    def _forward(self, x: Tensor) -> Tensor:
        return torch.fft.fftn(x, dim=(-3, -2, -1), norm="ortho")

    def _adjoint(self, y: Tensor) -> Tensor:
        return torch.fft.ifftn(y, dim=(-3, -2, -1), norm="ortho")


def test_operators_that_do_not_fit_cannot_be_composed() -> None:
    coarse = SliceOperator((1, 4, 4, 8), 2, SliceProfile(2, 2))
    with pytest.raises(GeometryError, match="cannot compose"):
        coarse @ coarse


def test_composition_applies_the_right_hand_operator_first() -> None:
    first = SliceOperator((1, 4, 4, 8), 2, SliceProfile(2, 2))
    second = SliceOperator((1, 4, 4, 4), 0, SliceProfile(4, 4))
    x = torch.randn(1, 1, 4, 4, 8)
    assert torch.equal((second @ first).forward(x), second.forward(first.forward(x)))


def test_conjugate_gradients_solve_what_a_dense_solver_solves() -> None:
    g = torch.Generator().manual_seed(0)
    root = torch.randn(20, 20, generator=g, dtype=torch.float64)
    matrix = root @ root.T + torch.eye(20, dtype=torch.float64)
    rhs = torch.randn(3, 20, generator=g, dtype=torch.float64)
    found = conjugate_gradients(lambda v: v @ matrix, rhs, tolerance=1e-12)
    torch.testing.assert_close(found, torch.linalg.solve(matrix, rhs.T).T, rtol=1e-8, atol=1e-8)


def test_conjugate_gradients_leave_a_solved_item_alone_while_another_goes_on() -> None:
    matrix = torch.diag(torch.linspace(1, 100, 30, dtype=torch.float64))
    rhs = torch.stack([torch.eye(30, dtype=torch.float64)[0], torch.ones(30, dtype=torch.float64)])
    found = conjugate_gradients(lambda v: v @ matrix, torch.cat([rhs, torch.zeros(1, 30, dtype=torch.float64)]))
    assert torch.isfinite(found).all()
    torch.testing.assert_close(found[:2] @ matrix, rhs, rtol=1e-5, atol=1e-5)
    assert found[2].abs().max() == 0


def test_conjugate_gradients_stay_finite_on_a_matrix_that_is_not_positive() -> None:
    found = conjugate_gradients(lambda v: -v, torch.ones(1, 5))
    assert torch.isfinite(found).all()


def test_complex_measurements_correct_the_real_part_of_a_real_image() -> None:
    truth, start = torch.randn(1, 1, 4, 4, 4), torch.randn(1, 1, 4, 4, 4)
    likelihood = Likelihood(Fourier(), Fourier().forward(truth), noise_std=0.1)
    for estimate in (likelihood.project(start), likelihood.prox(start, 100.0)):
        assert not estimate.is_complex()
        torch.testing.assert_close(estimate, truth, rtol=1e-4, atol=1e-4)
    assert likelihood.project(start.to(torch.complex64)).is_complex()


def test_misfit_is_relative_and_counted_for_each_item() -> None:
    y = torch.stack([torch.full((1, 2, 2, 2), 2.0), torch.full((1, 2, 2, 2), 10.0)])
    misfit = Likelihood(Identity((1, 2, 2, 2)), y).misfit(y * torch.tensor([1.1, 0.5]).view(2, 1, 1, 1, 1))
    torch.testing.assert_close(misfit.float(), torch.tensor([0.1, 0.5]))


def test_the_task_vector_has_its_order_for_ever() -> None:
    """Trained weights read these numbers by position."""
    task = Task(8, 0.5, 1, 4, 0.02, 0.3, 0.6, 1)
    torch.testing.assert_close(task.vector(), torch.tensor([1, 0.5, 1, 2 / 3, 0.2, 0.3, 0.6, 1]))
    assert NOTHING_KNOWN.vector().abs().max() == 0


def test_more_damage_means_more_residual() -> None:
    assert Task(factor=4).scale > Task(factor=2).scale > Task().scale > 0
    assert Task(noise=0.1).scale > Task(noise=0.01).scale
    assert math.isclose(Task(factor=2).scale, math.hypot(0.032, 0.008))
    assert NOTHING_KNOWN.scale == 0.35
