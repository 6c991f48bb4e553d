"""Holes in a real head: what is kept, how they are filled, and what the network is told about them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from medidiff.data.intensity import IntensityCodec
from medidiff.errors import GeometryError
from medidiff.operators import Likelihood, MaskOperator
from medidiff.operators.mask import PATCH, harmonic_fill, smooth_fill
from medidiff.training.degrade import degrade_inpaint
from medidiff.volume import Volume


@pytest.fixture(scope="module")
def head(mni: Volume) -> Tensor:
    """The middle of a head, model units, shape (1, 1, 48, 48, 48)."""
    data = IntensityCodec.fit(mni.data).encode(mni.data[:, 70:118, 90:138, 70:118])
    return torch.from_numpy(data.copy())[None]


def ball(shape: tuple[int, ...], centre: tuple[int, int, int], radius: float) -> Tensor:
    """False inside a ball, True outside."""
    grids = torch.meshgrid(*(torch.arange(float(n)) for n in shape), indexing="ij")
    return sum((g - c) ** 2 for g, c in zip(grids, centre, strict=True)) > radius**2  # type: ignore[return-value]


def test_what_is_missing_may_hold_anything(head: Tensor) -> None:
    known = ball((48, 48, 48), (20, 24, 30), 6)
    operator = MaskOperator((1, 48, 48, 48), known)
    spoilt = torch.where(known, head, torch.tensor(float("nan")))
    assert torch.equal(operator.forward(spoilt), operator.forward(head))
    filled = operator.reference(operator.forward(spoilt))
    assert torch.isfinite(filled).all()
    assert torch.equal(filled[..., known], head[..., known]), "what was measured is not touched"


def test_projection_restores_what_was_measured_to_the_last_bit(head: Tensor) -> None:
    known = ball((48, 48, 48), (20, 24, 30), 6)
    operator = MaskOperator((1, 48, 48, 48), known)
    estimate = Likelihood(operator, operator.forward(head)).project(torch.full_like(head, 0.25))
    torch.testing.assert_close(estimate[..., known], head[..., known], rtol=0, atol=1e-7)
    assert (estimate[..., ~known] == 0.25).all()


def test_the_fill_is_nearer_than_the_mean_of_the_head(head: Tensor) -> None:
    known = ball((48, 48, 48), (20, 24, 30), 6)
    operator = MaskOperator((1, 48, 48, 48), known)
    filled = operator.reference(operator.forward(head))
    error = (filled - head)[..., ~known].norm()
    assert error < 0.9 * (head[..., known].mean() - head)[..., ~known].norm()


def test_lost_slices_are_spanned_more_exactly_than_in_training(head: Tensor) -> None:
    known = torch.ones(48, 48, 48, dtype=torch.bool)
    known[:, :, 22:26] = False
    operator = MaskOperator((1, 48, 48, 48), known)
    filled = operator.reference(operator.forward(head))
    pyramid = smooth_fill(operator.forward(head)[0, 0], known.float())
    assert (filled - head).norm() < 0.9 * (pyramid - head[0, 0]).norm()


def test_a_membrane_through_a_plane_is_that_plane() -> None:
    """A linear image is harmonic: any hole inside it is filled exactly."""
    i, j, k = torch.meshgrid(*(torch.arange(12.0, dtype=torch.float64),) * 3, indexing="ij")
    plane = (0.5 * i - 0.2 * j + 0.1 * k + 1)[None, None]
    known = ball((12, 12, 12), (5, 6, 6), 4)[None]
    torch.testing.assert_close(harmonic_fill(plane * known, known), plane, rtol=0, atol=1e-3)


def test_what_training_told_the_network_is_told_at_use(head: Tensor) -> None:
    """One patch with a hole: map and task are those of the training pair."""
    patch = head[0, 0]
    for seed in range(4):
        pair = degrade_inpaint(patch, np.random.default_rng(seed))
        operator = MaskOperator((1, *patch.shape), pair.known > 0.5)
        y = operator.forward(patch[None, None])
        torch.testing.assert_close(operator.known(y)[0, 0], pair.known)
        assert operator.task().missing == pytest.approx(pair.task.missing, abs=1e-6)


@pytest.mark.parametrize("size", [64, 96, 131])
def test_a_hole_is_as_large_a_loss_in_a_head_as_in_a_patch(size: int) -> None:
    """Where the scan ends does not matter: the network sees patches."""
    known = torch.ones(size, size, 70, dtype=torch.bool)
    known[size - 8 :, size - 9 : size - 1, 60:] = False
    share = MaskOperator((1, size, size, 70), known).missing_share()
    assert share == pytest.approx(8 * 8 * 10 / PATCH**3)
    lost = MaskOperator((1, size, size, 70), torch.arange(70) // 4 != 9).missing_share()
    assert lost == pytest.approx(4 / PATCH)


def test_nothing_known_is_filled_with_nothing() -> None:
    assert smooth_fill(torch.ones(8, 8, 8), torch.zeros(8, 8, 8)).abs().max() == 0
    assert harmonic_fill(torch.ones(1, 1, 8, 8, 8), torch.zeros(1, 8, 8, 8, dtype=torch.bool)).abs().max() == 0
    whole = torch.rand(8, 9, 7)
    assert torch.equal(smooth_fill(whole, torch.ones(8, 9, 7)), whole)


def test_a_mask_that_does_not_fit_is_refused() -> None:
    with pytest.raises(GeometryError, match="mask"):
        MaskOperator((1, 4, 4, 4), torch.ones(4, 4, 5, dtype=torch.bool))


def test_a_single_lost_slice_is_spanned_by_a_cubic(mni: Volume) -> None:
    """A cubic through the slices comes back exactly; a membrane would flatten it."""
    k = torch.arange(12, dtype=torch.float64)
    plane = torch.rand(1, 1, 5, 6, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    x = plane * (0.01 * (k - 5) ** 3 - 0.1 * k**2 + k)
    operator = MaskOperator((1, 5, 6, 12), (k != 4) & (k != 7))
    torch.testing.assert_close(operator.reference(operator.forward(x)), x)
    truth = torch.from_numpy(mni.data[:, 60:100, 80:120, 60:100].copy())[None]
    known = torch.ones(1, 40, 40, 40, dtype=torch.bool)
    known[:, :, 20] = False
    lost = MaskOperator((1, 40, 40, 40), known)
    y = lost.forward(truth)
    found, membrane = lost.reference(y), harmonic_fill(y, lost.mask)
    assert float((found - truth).norm()) < 0.9 * float((membrane - truth).norm())


def test_two_lost_slices_in_a_row_and_the_outermost_stay_a_membrane() -> None:
    x = torch.rand(1, 1, 5, 6, 12, generator=torch.Generator().manual_seed(2))
    for lost in ((4, 5), (0,), (11,)):
        known = torch.ones(1, 5, 6, 12, dtype=torch.bool)
        known[..., list(lost)] = False
        operator = MaskOperator((1, 5, 6, 12), known)
        y = operator.forward(x)
        torch.testing.assert_close(operator.reference(y), harmonic_fill(y, known))
