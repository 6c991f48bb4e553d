"""Grids in space: what goes to the world comes back, and every tool names the axes alike."""

from __future__ import annotations

import itertools

import nibabel
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from medidiff.errors import GeometryError
from medidiff.geometry import Geometry

sizes = st.integers(1, 40)
spacings = st.floats(0.1, 12.0)
positions = st.floats(-500.0, 500.0)


@st.composite
def rotations(draw: st.DrawFn) -> NDArray[np.float64]:
    """An orthonormal matrix, half of them mirrored."""
    values = np.random.default_rng(draw(st.integers(0, 2**32 - 1))).normal(size=(3, 3))
    return np.linalg.qr(values)[0]


@st.composite
def geometries(draw: st.DrawFn) -> Geometry:
    affine = np.eye(4)
    affine[:3, :3] = draw(rotations()) * np.array([draw(spacings) for _ in range(3)])
    affine[:3, 3] = [draw(positions) for _ in range(3)]
    return Geometry(affine, (draw(sizes), draw(sizes), draw(sizes)))


def signed_permutations() -> list[NDArray[np.float64]]:
    """The 48 ways in which voxel axes can lie along world axes."""
    every = []
    for order in itertools.permutations(range(3)):
        for signs in itertools.product((1.0, -1.0), repeat=3):
            matrix = np.zeros((3, 3))
            matrix[list(order), range(3)] = signs
            every.append(matrix)
    return every


def with_columns(matrix: NDArray[np.float64], shape: tuple[int, int, int] = (4, 5, 6)) -> Geometry:
    affine = np.eye(4)
    affine[:3, :3] = matrix
    affine[:3, 3] = (11.0, -7.0, 3.0)
    return Geometry(affine, shape)


@given(geometries(), st.lists(st.tuples(positions, positions, positions), min_size=1, max_size=5))
def test_world_and_index_are_inverse(geometry: Geometry, points: list[tuple[float, float, float]]) -> None:
    world = np.array(points)
    np.testing.assert_allclose(geometry.to_world(geometry.to_index(world)), world, atol=1e-8)


@given(geometries())
def test_spacing_direction_and_origin_make_the_affine(geometry: Geometry) -> None:
    rebuilt = np.eye(4)
    rebuilt[:3, :3] = geometry.direction * np.array(geometry.spacing)
    rebuilt[:3, 3] = geometry.origin
    np.testing.assert_allclose(rebuilt, geometry.affine, atol=1e-12)
    assert geometry.is_orthogonal


@pytest.mark.parametrize("matrix", signed_permutations())
def test_orientation_of_all_48_is_that_of_nibabel(matrix: NDArray[np.float64]) -> None:
    geometry = with_columns(matrix * np.array([0.7, 1.3, 5.0]))
    assert geometry.orientation == "".join(nibabel.aff2axcodes(geometry.affine))


@given(geometries())
def test_orientation_of_obliques_is_that_of_nibabel(geometry: Geometry) -> None:
    assert geometry.orientation == "".join(nibabel.aff2axcodes(geometry.affine))


@given(geometries())
def test_reoriented_is_ras_and_moves_no_voxel(geometry: Geometry) -> None:
    reoriented, order, flips = geometry.reoriented()
    assert reoriented.orientation == "RAS"
    index = np.array([n // 3 for n in reoriented.shape])
    old = np.zeros(3)
    for new, (axis, flip) in enumerate(zip(order, flips, strict=True)):
        old[axis] = geometry.shape[axis] - 1 - index[new] if flip else index[new]
    np.testing.assert_allclose(reoriented.to_world(index), geometry.to_world(old), atol=1e-9)


@given(geometries())
def test_reoriented_twice_changes_nothing_more(geometry: Geometry) -> None:
    once, _, _ = geometry.reoriented()
    twice, order, flips = once.reoriented()
    assert order == (0, 1, 2)
    assert flips == (False, False, False)
    assert twice == once


@given(geometries(), st.integers(0, 2), st.integers(1, 60), spacings)
def test_resampled_keeps_the_centre_and_the_other_axes(
    geometry: Geometry, axis: int, count: int, spacing: float
) -> None:
    resampled = geometry.resampled(axis, count, spacing)
    centres = [g.to_world((np.array(g.shape) - 1) / 2) for g in (geometry, resampled)]
    np.testing.assert_allclose(centres[0], centres[1], atol=1e-9)
    np.testing.assert_allclose(resampled.direction, geometry.direction, atol=1e-9)
    assert resampled.shape[axis] == count
    assert resampled.spacing[axis] == pytest.approx(spacing)
    for other in {0, 1, 2} - {axis}:
        assert resampled.spacing[other] == pytest.approx(geometry.spacing[other])
        assert resampled.shape[other] == geometry.shape[other]


@given(geometries(), st.tuples(*[st.integers(-9, 9)] * 3))
def test_cropped_begins_where_it_says(geometry: Geometry, start: tuple[int, int, int]) -> None:
    cropped = geometry.cropped(start, (2, 3, 4))
    np.testing.assert_allclose(cropped.to_world(np.zeros(3)), geometry.to_world(np.array(start)), atol=1e-9)
    assert cropped.shape == (2, 3, 4)


@given(geometries(), st.tuples(positions, positions, positions))
def test_distance_of_a_shifted_grid_is_the_shift(geometry: Geometry, shift: tuple[float, float, float]) -> None:
    affine = geometry.affine.copy()
    affine[:3, 3] += shift
    assert geometry.distance(Geometry(affine, geometry.shape)) == pytest.approx(np.linalg.norm(shift), abs=1e-9)


def test_distance_sees_a_rotation_about_the_origin_voxel() -> None:
    turned = with_columns(np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]))
    # The far corner (3, 4, .) goes from (3, 4) to (-4, 3): sqrt(50) mm.
    assert with_columns(np.eye(3)).distance(turned) == pytest.approx(np.sqrt(50))


def test_distance_of_other_shapes_is_infinite() -> None:
    assert with_columns(np.eye(3)).distance(with_columns(np.eye(3), (4, 5, 7))) == float("inf")


def test_shear_is_the_cosine_between_the_axes() -> None:
    tilt = np.deg2rad(20)
    sheared = with_columns(np.array([[1.0, 0.0, 0.0], [0.0, 1.0, np.sin(tilt)], [0.0, 0.0, np.cos(tilt)]]))
    assert sheared.shear == pytest.approx(np.sin(tilt))
    assert not sheared.is_orthogonal


@pytest.mark.parametrize(
    ("affine", "shape", "words"),
    [
        (np.eye(3), (2, 2, 2), "4x4"),
        (np.diag([1.0, np.nan, 1.0, 1.0]), (2, 2, 2), "not finite"),
        (np.diag([1.0, 0.0, 1.0, 1.0]), (2, 2, 2), "singular"),
        (np.diag([1.0, 1.0, 1.0, 2.0]), (2, 2, 2), "last row"),
        (np.eye(4), (2, 0, 2), "positive"),
        (np.eye(4), (2, 2), "three"),
    ],
)
def test_impossible_grids_are_refused(affine: NDArray[np.float64], shape: tuple[int, ...], words: str) -> None:
    with pytest.raises(GeometryError, match=words):
        Geometry(affine, shape)  # type: ignore[arg-type]


def test_the_affine_of_the_caller_stays_the_callers() -> None:
    affine = np.eye(4)
    geometry = Geometry(affine, (2, 2, 2))
    affine[0, 3] = 99.0
    assert geometry.origin[0] == 0.0
    with pytest.raises(ValueError, match="read-only"):
        geometry.affine[0, 3] = 99.0


def test_equal_grids_have_equal_hashes() -> None:
    assert len({with_columns(np.eye(3)), with_columns(np.eye(3)), with_columns(-np.eye(3))}) == 2
