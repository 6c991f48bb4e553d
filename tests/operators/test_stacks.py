"""Resampled, stacked, blurred and moving slices against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter1d

from medidiff.errors import ConfigError, GeometryError
from medidiff.geometry import Geometry
from medidiff.operators import (
    BlurOperator,
    Identity,
    MeasuredProfile,
    MovedSlices,
    ResampleOperator,
    SliceOperator,
    SliceProfile,
    StackedOperator,
    stack_operator,
)
from medidiff.operators.motion import rigid_matrices
from medidiff.operators.resample import split
from medidiff.operators.slices import FWHM_TO_STD
from tests.operators.registry import random_batch, turned

IMAGE = Geometry(np.array([[1.2, 0, 0, -20], [0, 1.0, 0, 5], [0, 0, 1.1, 30], [0, 0, 0, 1]], dtype=float), (26, 28, 30))


def scene(geometry: Geometry) -> torch.Tensor:
    """A smooth function of world position on a grid, shape (1, 1, i, j, k)."""
    index = np.stack(np.meshgrid(*map(np.arange, geometry.shape), indexing="ij"), axis=-1)
    x, y, z = np.moveaxis(geometry.to_world(index), -1, 0)
    return torch.from_numpy(np.sin(x / 4) * np.cos(y / 5) + np.sin((z + x) / 6))[None, None]


@given(angles=st.tuples(*[st.floats(-35, 35)] * 3), shift=st.floats(-2, 2))
def test_a_turned_grid_sees_the_same_scene(angles: tuple[float, float, float], shift: float) -> None:
    inner = IMAGE.cropped((9, 10, 10), (8, 8, 9))
    target = turned(inner, angles, shift)
    seen = ResampleOperator(1, IMAGE, target).forward(scene(IMAGE))
    # The kernel is of third order: what is left at a wavelength of 25 voxels.
    assert float((seen - scene(target)).abs().max()) < 0.015


@pytest.mark.parametrize("order", [(2, 0, 1), (1, 0, 2), (0, 2, 1)])
def test_axes_in_another_order_and_direction_are_moved_not_interpolated(order: tuple[int, int, int]) -> None:
    matrix = np.eye(4)[:, [*order, 3]]
    matrix[:3, 0] *= -1
    matrix[order[0], 3] = IMAGE.shape[order[0]] - 1
    target = Geometry(IMAGE.affine @ matrix, tuple(IMAGE.shape[n] for n in order))  # type: ignore[arg-type]
    x = random_batch((1, *IMAGE.shape), 3, 1)
    found = ResampleOperator(1, IMAGE, target).forward(x)
    torch.testing.assert_close(found, x.permute(0, 1, *(n + 2 for n in order)).flip(2))


def test_beyond_the_image_there_is_nothing() -> None:
    away = IMAGE.cropped((-40, 0, 0), (20, 28, 30))
    assert ResampleOperator(1, IMAGE, away).forward(scene(IMAGE)).abs().max() == 0


def test_a_grid_that_no_passes_reach_is_refused() -> None:
    with pytest.raises(GeometryError, match="turned too far"):
        split(np.array([[0.0, 1, 0], [1, 0, 0], [0, 0, 0]]), np.zeros(3), (4, 4, 4))


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("profile", ["box", "gaussian"])
def test_a_straight_stack_is_a_slice_operator(axis: int, profile: str) -> None:
    fine = Geometry(np.eye(4), (12, 12, 12))
    operator = stack_operator(fine, fine.resampled(axis, 3, 4.0), axis, 4.0, profile=profile)  # type: ignore[arg-type]
    same = SliceOperator((1, 12, 12, 12), axis, SliceProfile(4, 4, profile))  # type: ignore[arg-type]
    x = random_batch((1, 12, 12, 12), 4)
    torch.testing.assert_close(operator.forward(x), same.forward(x))


def test_an_oblique_stack_averages_the_scene_across_its_slices() -> None:
    stack = turned(Geometry(np.diag([1, 1, 4.0, 1]), (9, 9, 3)).cropped((0, 0, 0), (9, 9, 3)), (12, -9, 5), 0)
    centre = IMAGE.to_world((np.asarray(IMAGE.shape) - 1) / 2)
    affine = stack.affine.copy()
    affine[:3, 3] += centre - stack.to_world((np.asarray(stack.shape) - 1) / 2)
    stack = Geometry(affine, stack.shape)
    found = stack_operator(IMAGE, stack, 2, 4.0).forward(scene(IMAGE))
    # The integral over a slice, by 64 planes.
    planes = stack.resampled(2, 3 * 64, 4.0 / 64)
    expected = scene(planes).unflatten(-1, (3, 64)).mean(-1)
    assert float((found - expected).abs().max()) < 0.015


def test_several_measurements_come_apart_as_they_went_together() -> None:
    one, other = SliceOperator((1, 4, 4, 8), 2, SliceProfile(2, 2)), Identity((1, 4, 4, 8))
    both = StackedOperator([one, other])
    x = random_batch(both.in_shape, 5)
    parts = both.split(both.forward(x))
    torch.testing.assert_close(parts[0], one.forward(x))
    torch.testing.assert_close(parts[1], x)
    torch.testing.assert_close(both.join(parts), both.forward(x))


def test_measurements_of_different_images_are_not_stacked() -> None:
    with pytest.raises(GeometryError, match="one image"):
        StackedOperator([Identity((1, 4, 4, 8)), Identity((1, 4, 4, 9))])
    with pytest.raises(GeometryError, match="one image"):
        StackedOperator([])


@pytest.mark.parametrize("fwhm", [1.8, 2.5, 4.0])
def test_blur_is_scipys_gaussian(fwhm: float) -> None:
    x = torch.zeros(1, 1, 41, 3, 3, dtype=torch.float64)
    x[0, 0, 20] = 1
    found = BlurOperator((1, 41, 3, 3), {0: fwhm}).forward(x)[0, 0, :, 1, 1].numpy()
    # Voxels are integrals, not samples, of the Gaussian: a box of one voxel wider.
    std = np.hypot(fwhm * FWHM_TO_STD, 1 / np.sqrt(12))
    assert np.abs(found - gaussian_filter1d(x[0, 0, :, 1, 1].numpy(), std, truncate=8)).max() < 0.012
    assert np.sqrt(np.sum(found * (np.arange(41) - 20.0) ** 2)) == pytest.approx(std, rel=0.01)


def test_blur_keeps_a_constant_up_to_the_edge() -> None:
    x = torch.full((1, 1, 9, 8, 7), 3.0, dtype=torch.float64)
    torch.testing.assert_close(BlurOperator((1, 9, 8, 7), {0: 3.0, 1: 2.0, 2: 1.0}).forward(x), x)


@pytest.mark.parametrize("fwhm", [{}, {3: 1.0}, {0: 0.0}, {0: float("inf")}])
def test_an_impossible_blur_is_refused(fwhm: dict[int, float]) -> None:
    with pytest.raises(ConfigError):
        BlurOperator((1, 4, 4, 4), fwhm)


# --- measured profiles ------------------------------------------------------------------------------------------------


def weights_of(profile: SliceProfile) -> torch.Tensor:
    return SliceOperator((1, 1, 1, 24), 2, profile).weights


def test_a_measured_box_is_a_box_and_a_measured_gaussian_a_gaussian() -> None:
    box = SliceProfile.of(4, 99, MeasuredProfile((-2.0, 0.0, 2.0), (7.0, 7.0, 7.0)), 1.0)
    assert box.thickness == pytest.approx(4, rel=1e-3)
    assert not box.looks_gaussian
    torch.testing.assert_close(weights_of(box), weights_of(SliceProfile(4, 4)), atol=2e-3, rtol=0)
    offsets = np.linspace(-6, 6, 121)
    bell = MeasuredProfile(tuple(offsets), tuple(np.exp(-0.5 * (offsets / (4 * FWHM_TO_STD)) ** 2)))
    measured = SliceProfile.of(4, 99, bell, 1.0)
    assert measured.thickness == pytest.approx(4, rel=2e-3)
    assert measured.looks_gaussian
    torch.testing.assert_close(weights_of(measured), weights_of(SliceProfile(4, 4, "gaussian")), atol=5e-3, rtol=0)


def test_a_measured_profile_is_scaled_from_mm_to_voxels() -> None:
    triangle = MeasuredProfile((-4.0, 0.0, 4.0), (0.0, 1.0, 0.0))
    profile = SliceProfile.of(4.0, 99, triangle, voxel=2.0)
    assert (profile.factor, profile.thickness) == (2.0, pytest.approx(2.0))
    # A triangle of half-width 2 voxels about a voxel's centre: 1/32 (outer half voxels), 8/32, 14/32, ...
    weights = SliceOperator((1, 1, 1, 5), 2, SliceProfile.of(10, 99, triangle, 2.0), count=1).weights[0]
    torch.testing.assert_close(weights * 32, torch.tensor([1.0, 8, 14, 8, 1], dtype=torch.float64), atol=0.02, rtol=0)


def test_a_lopsided_profile_leans_the_slices() -> None:
    ramp = SliceProfile.of(6, 99, MeasuredProfile((-3.0, 0.0, 3.0), (0.0, 0.5, 1.0)), 1.0)
    weights = SliceOperator((1, 1, 1, 6), 2, ramp, count=1).weights[0]
    assert (weights.diff() > 0).all()


@pytest.mark.parametrize(
    ("offsets", "weights"),
    [
        ((0.0, 1.0), (1.0, 1.0)),
        ((0.0, 1.0, 2.0), (1.0, 1.0)),
        ((0.0, 2.0, 1.0), (1.0, 1.0, 1.0)),
        ((0.0, 1.0, 2.0), (1.0, -1.0, 1.0)),
        ((0.0, 1.0, 2.0), (0.0, 0.0, 0.0)),
        ((0.0, 1.0, float("nan")), (1.0, 1.0, 1.0)),
    ],
)
def test_an_impossible_measured_profile_is_refused(offsets: tuple[float, ...], weights: tuple[float, ...]) -> None:
    with pytest.raises(ConfigError):
        MeasuredProfile(offsets, weights)


# --- motion -----------------------------------------------------------------------------------------------------------


def moving(motion: np.ndarray, axis: int = 2) -> MovedSlices:
    fine = Geometry(np.eye(4), (12, 12, 12))
    return MovedSlices(1, fine, fine.resampled(axis, 3, 4.0), axis, SliceProfile(4, 4), motion)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_without_motion_the_slices_are_the_ordinary_ones(axis: int) -> None:
    x = random_batch((1, 12, 12, 12), 6)
    same = SliceOperator((1, 12, 12, 12), axis, SliceProfile(4, 4))
    torch.testing.assert_close(moving(np.zeros((3, 6)), axis).forward(x), same.forward(x))


def test_a_head_that_moves_up_is_seen_lower_down_in_it() -> None:
    """While the middle slice was taken the head had moved by one voxel along +x and two along +z."""
    x = random_batch((1, 12, 12, 12), 7)
    motion = np.zeros((3, 6))
    motion[1, 3:] = (1, 0, 2)
    found = moving(motion).forward(x)[..., 1]
    torch.testing.assert_close(found[:, :, 1:], x[:, :, :-1, :, 2:6].mean(-1))
    assert found[:, :, 0].abs().max() == 0


def test_rotations_turn_about_the_centre_in_the_order_x_y_z() -> None:
    centre = np.array([3.0, -2, 5])
    motion = np.array([[np.pi / 2, 0, 0, 0, 0, 0], [np.pi / 2, np.pi / 2, 0, 1, 0, 0]])
    first, second = rigid_matrices(motion, centre)
    np.testing.assert_allclose(first[:3, :3] @ [0, 1, 0], [0, 0, 1], atol=1e-12)
    # y goes to z about x, then z to x about y.
    np.testing.assert_allclose(second[:3, :3] @ [0, 1, 0], [1, 0, 0], atol=1e-12)
    np.testing.assert_allclose(second @ [*centre, 1], [4, -2, 5, 1], atol=1e-12)


def test_motion_of_another_number_of_slices_is_refused() -> None:
    with pytest.raises(GeometryError, match="six numbers for each of 3"):
        moving(np.zeros((4, 6)))
