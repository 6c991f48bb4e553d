"""Network and data in turn: where it ends is known in closed form for a network that is linear."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from medidiff.diffusion.denoiser import Condition, Preconditioned
from medidiff.operators import CartesianKSpace, MaskOperator
from medidiff.operators.base import toward_data
from medidiff.operators.sampling import random_mask
from medidiff.restoration.refine import MIRRORS, alternate, look, magnitude, with_phase

GRID = (1, 8, 8, 8)


class Halving(nn.Module):
    """Its answer is half of the reference: residual minus a half, at a scale of 1."""

    multiple = (1, 1, 1)

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Parameter(torch.ones(()))

    def forward(self, u: Tensor, side: Tensor, embedding: Tensor) -> Tensor:
        return -0.5 * self.one * side[:, :1]


class Leaning(nn.Module):
    """Adds a ramp that knows front from back: what mirroring must undo."""

    multiple = (1, 1, 1)

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Parameter(torch.ones(()))

    def forward(self, u: Tensor, side: Tensor, embedding: Tensor) -> Tensor:
        ramp = torch.linspace(-1, 1, u.shape[2])[:, None, None]
        return self.one * ramp.expand_as(u)


def condition(reference: Tensor) -> Condition:
    return Condition(reference, torch.ones_like(reference), torch.zeros(1, 8), torch.ones(1))


def image(seed: int = 0) -> Tensor:
    return torch.rand((1, *GRID), generator=torch.Generator().manual_seed(seed)) + 0.1


def test_it_ends_where_network_and_data_agree() -> None:
    """x = (y + p x / 2) / (1 + p) where measured, x = x / 2 elsewhere: y / (1 + p / 2), and 0."""
    known = torch.rand(GRID, generator=torch.Generator().manual_seed(1)) > 0.5
    operator, pull, truth = MaskOperator(GRID, known), 0.5, image()
    y = operator.forward(truth)
    found = alternate(
        Preconditioned(Halving()), y, [condition] * 60, lambda answer: toward_data(operator, answer, y, pull, steps=12)
    )
    expected = torch.where(known, truth / (1 + pull / 2), torch.zeros_like(truth))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_the_step_toward_the_data_is_the_least_of_its_sum_for_complex_data_too() -> None:
    mask = torch.from_numpy(random_mask((8, 8), 2, seed=0))
    operator = CartesianKSpace(GRID, mask)  # type: ignore[arg-type]
    truth, answer = (torch.polar(image(n), 2 * image(n + 1)) for n in (0, 2))
    found = toward_data(operator, answer, operator.forward(truth), 0.3, steps=12)
    # Sampled frequencies are weighed 1 to 0.3, the others are the answer's.
    k, a, t = (operator.forward(x) for x in (found, answer, truth))
    torch.testing.assert_close(k, (t + 0.3 * a) / 1.3, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found - operator.adjoint(k), answer - operator.adjoint(a), atol=1e-4, rtol=1e-4)


def test_mirrors_come_in_pairs_of_opposites_so_that_a_lean_is_undone() -> None:
    model, x = Preconditioned(Leaning()), image()
    answers = [look(model, condition(x), mirrored) for mirrored in MIRRORS]
    assert not torch.allclose(answers[0], x)
    for first, second in zip(answers[::2], answers[1::2], strict=True):
        torch.testing.assert_close((first + second) / 2, x)
    assert len({*MIRRORS}) == 8


def test_a_complex_image_keeps_its_phase_and_a_real_one_its_sign() -> None:
    x = torch.polar(image(), 3 * image(1))
    back = with_phase(magnitude(x), x)
    torch.testing.assert_close(back, x)
    real = image() - 0.6
    torch.testing.assert_close(with_phase(magnitude(real), real), real)


def test_every_evaluation_is_told() -> None:
    told: list[tuple[int, int]] = []
    alternate(
        Preconditioned(Halving()), image(), [condition] * 3, lambda answer: answer,
        on_evaluation=lambda done, total: told.append((done, total)),
    )  # fmt: skip
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert math.prod(GRID) == pytest.approx(512)
