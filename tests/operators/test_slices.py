"""Thick slices against hand-made goldens and scipy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.interpolate import CubicSpline

from medidiff.errors import ConfigError, GeometryError
from medidiff.operators import SliceOperator, SliceProfile
from medidiff.operators.slices import slice_centres, slice_weights, spline_matrix
from medidiff.volume import Volume


def line_operator(fine: int, profile: SliceProfile, count: int | None = None) -> SliceOperator:
    return SliceOperator((1, 1, 1, fine), 2, profile, count)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_touching_box_slices_are_the_mean_of_their_voxels(mni: Volume, axis: int) -> None:
    x = torch.from_numpy(mni.data[:, 60:84, 60:84, 60:84].copy())[None]
    measured = SliceOperator(tuple(x.shape[1:]), axis, SliceProfile(4, 4)).forward(x)  # type: ignore[arg-type]
    expected = x.unfold(axis + 2, 4, 4).mean(-1)
    torch.testing.assert_close(measured, expected, rtol=1e-5, atol=1e-5 * float(x.max()))


def test_gaps_skip_voxels() -> None:
    """Slices of 2 voxels every 4: the outer voxels of each four are never seen."""
    weights = line_operator(8, SliceProfile(4, 2)).weights
    expected = torch.tensor([[0, 0.5, 0.5, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0.5, 0.5, 0]], dtype=torch.float64)
    torch.testing.assert_close(weights, expected)


def test_overlap_shares_voxels() -> None:
    weights = line_operator(8, SliceProfile(4, 6)).weights
    # Each slice wants 6 voxels; one lies outside the grid and its weight goes to the others.
    assert weights[0, 3] > 0
    assert weights[1, 3] > 0
    torch.testing.assert_close(weights[0, :5], torch.full((5,), 0.2, dtype=torch.float64))


def test_fractional_edges_are_exact() -> None:
    """A slice of 1.5 voxels about the middle of 3 takes the middle one and a quarter of either side."""
    weights = line_operator(3, SliceProfile(3, 1.5), count=1).weights[0]
    torch.testing.assert_close(weights, torch.tensor([0.25, 1, 0.25], dtype=torch.float64) / 1.5)


def test_a_gaussian_profile_has_the_width_it_claims() -> None:
    weights = line_operator(401, SliceProfile(401, 80, "gaussian"), count=1).weights[0]
    half = torch.nonzero(weights >= weights.max() / 2).flatten()
    assert int(half[-1] - half[0]) + 1 == pytest.approx(80, abs=1.5)
    assert weights[200] == weights.max()


@given(
    fine=st.integers(8, 60),
    factor=st.floats(1, 9),
    ratio=st.floats(0.2, 1.5),
    kind=st.sampled_from(["box", "gaussian"]),
)
def test_every_slice_weighs_one_and_the_stack_is_centred(fine: int, factor: float, ratio: float, kind: str) -> None:
    operator = line_operator(fine, SliceProfile(factor, factor * ratio, kind))  # type: ignore[arg-type]
    torch.testing.assert_close(operator.weights.sum(1), torch.ones(len(operator.weights), dtype=torch.float64))
    assert (operator.weights >= 0).all()
    assert operator.centres.mean() == pytest.approx((fine - 1) / 2)
    np.testing.assert_allclose(np.diff(operator.centres), factor)
    # Turned upside down, the same stack.
    torch.testing.assert_close(operator.weights, operator.weights.flip(0, 1), atol=1e-9, rtol=1e-9)


@given(fine=st.integers(12, 60), factor=st.floats(1.5, 6), ratio=st.floats(0.5, 1.1))
def test_the_reference_reproduces_the_slices(fine: int, factor: float, ratio: float) -> None:
    operator = line_operator(fine, SliceProfile(factor, factor * ratio))
    y = torch.randn(2, *operator.out_shape, dtype=torch.float64, generator=torch.Generator().manual_seed(fine))
    again = operator.forward(operator.reference(y))
    # The floor under the Gram eigenvalues costs a little where slices overlap.
    assert float((again - y).norm() / y.norm()) < 1e-3


def test_the_reference_keeps_a_constant_and_beats_repetition(mni: Volume) -> None:
    operator = SliceOperator((1, 24, 24, 96), 2, SliceProfile(4, 4))
    constant = torch.full((1, *operator.out_shape), 3.0)
    torch.testing.assert_close(
        operator.reference(constant), torch.full((1, *operator.in_shape), 3.0), rtol=1e-4, atol=0
    )
    truth = torch.from_numpy(mni.data[:, 80:104, 100:124, 40:136].copy())[None]
    y = operator.forward(truth)
    error = (operator.reference(y) - truth).norm()
    assert error < 0.8 * (y.repeat_interleave(4, -1) - truth).norm()


@pytest.mark.parametrize(("count", "factor"), [(5, 4.0), (6, 2.7), (9, 1.5)])
def test_the_spline_matrix_is_scipys_spline(count: int, factor: float) -> None:
    fine = round(count * factor)
    centres = slice_centres(fine, count, factor)
    values = np.random.default_rng(0).normal(size=count)
    inside = (np.arange(fine) >= centres[0]) & (np.arange(fine) <= centres[-1])
    expected = CubicSpline(centres, values, bc_type="not-a-knot")(np.arange(fine))
    found = spline_matrix(centres, fine) @ values
    np.testing.assert_allclose(found[inside], expected[inside], atol=1e-10)
    assert found[0] == pytest.approx(values[0])
    assert found[-1] == pytest.approx(values[-1])


def test_closeness_is_one_at_a_slice_and_zero_between_two() -> None:
    closeness = line_operator(12, SliceProfile(4, 4), count=3).closeness()
    expected = torch.tensor([0.25, 0.75, 0.75, 0.25] * 3, dtype=torch.float64)
    torch.testing.assert_close(closeness, expected)
    odd = line_operator(9, SliceProfile(3, 3)).closeness()
    torch.testing.assert_close(odd, torch.tensor([1 / 3, 1, 1 / 3] * 3, dtype=torch.float64))


@pytest.mark.parametrize(
    ("factor", "thickness"), [(0.5, 1), (2, 0), (float("nan"), 1), (2, float("nan")), (float("inf"), 2)]
)
def test_an_impossible_profile_is_refused(factor: float, thickness: float) -> None:
    with pytest.raises(ConfigError):
        SliceProfile(factor, thickness)


def test_slices_outside_the_grid_and_a_fourth_axis_are_refused() -> None:
    with pytest.raises(GeometryError, match="outside"):
        line_operator(8, SliceProfile(4, 4), count=5)
    with pytest.raises(GeometryError, match="axis"):
        SliceOperator((1, 4, 4, 4), 3, SliceProfile(2, 2))
    with pytest.raises(GeometryError, match="outside"):
        slice_weights(4, np.array([10.0]), SliceProfile(2, 2))
