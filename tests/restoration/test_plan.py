"""What a header says was lost: in words, in numbers, and on which grid it will be given back."""

from __future__ import annotations

import math

import nibabel
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from medidiff.errors import ConfigError, GeometryError
from medidiff.geometry import Geometry
from medidiff.restoration.plan import Plan, make_plan


def grid(spacing: tuple[float, float, float], shape: tuple[int, int, int], codes: str = "RAS") -> Geometry:
    """A grid whose voxel axes point along ``codes``."""
    orientation = nibabel.orientations.axcodes2ornt(codes)
    affine = np.zeros((4, 4))
    affine[3, 3] = 1
    for voxel, (world, sign) in enumerate(orientation):
        affine[int(world), voxel] = sign * spacing[voxel]
    affine[:3, 3] = (-11.0, 7.0, 30.5)
    return Geometry(affine, shape)


def turned(geometry: Geometry, degrees: float) -> Geometry:
    """The same grid, oblique about a skew axis."""
    axis = np.array([0.3, 0.8, 0.5]) / np.linalg.norm([0.3, 0.8, 0.5])
    k = np.array([[0, -axis[2], axis[1]], [axis[2], 0, -axis[0]], [-axis[1], axis[0], 0]])
    angle = math.radians(degrees)
    rotation = np.eye(4)
    rotation[:3, :3] += math.sin(angle) * k + (1 - math.cos(angle)) * k @ k
    return Geometry(rotation @ geometry.affine, geometry.shape)


def centre(geometry: Geometry) -> NDArray[np.float64]:
    return geometry.to_world((np.array(geometry.shape) - 1) / 2)


@pytest.mark.parametrize(
    ("codes", "spacing", "shape", "words"),
    [
        ("RAS", (1.0, 1.0, 5.0), (200, 220, 24), "24 slices from foot to head, 5 mm apart"),
        ("LPS", (1.0, 1.0, 5.0), (200, 220, 24), "24 slices from foot to head, 5 mm apart"),
        ("LAI", (0.9, 0.9, 4.5), (200, 220, 30), "30 slices from foot to head, 4.5 mm apart"),
        ("PIR", (1.0, 1.0, 6.0), (200, 220, 20), "20 slices from left to right, 6 mm apart"),
        ("LSA", (1.0, 1.0, 4.0), (200, 220, 40), "40 slices from back to front, 4 mm apart"),
    ],
)
def test_the_words_name_what_was_lost(
    codes: str, spacing: tuple[float, float, float], shape: tuple[int, int, int], words: str
) -> None:
    for geometry in (grid(spacing, shape, codes), turned(grid(spacing, shape, codes), 17)):
        plan = make_plan(geometry)
        assert len(plan.stages) == len(plan.words) == 1
        assert plan.words[0].startswith(words)
        assert "touching (assumed: the header does not say)" in plan.words[0]
        assert not plan.doubts
        factor = max(spacing) / min(spacing)
        assert plan.stages[0].profile.factor == pytest.approx(factor)
        assert plan.stages[0].axis == "RAS".index({"L": "R", "P": "A", "I": "S"}.get(codes[2], codes[2]))


def test_a_factor_need_not_be_whole() -> None:
    plan = make_plan(grid((0.93, 0.93, 6.5), (256, 256, 24)))
    assert plan.stages[0].profile.factor == pytest.approx(6.5 / 0.93)
    assert plan.stages[0].fine.shape == (256, 256, math.ceil(24 * 6.5 / 0.93))
    assert "factor 6.99" in plan.words[0]


def test_rounded_spacings_make_no_further_slice() -> None:
    # 1 mm and 4 mm, as a header in single precision had them.
    plan = make_plan(grid((0.9999948642638551, 1.0, 3.9999998793913396), (160, 217, 58)))
    assert plan.stages[0].fine.shape == (160, 217, 232)
    assert make_plan(grid((1, 1, 4.01), (64, 64, 20))).stages[0].fine.shape[2] == 81


@pytest.mark.parametrize(
    ("thickness", "words"),
    [(5.0, "apart, touching;"), (4.0, "4 mm thick, with gaps"), (6.0, "6 mm thick, overlapping"), (None, "assumed")],
)
def test_the_thickness_is_told(thickness: float | None, words: str) -> None:
    plan = make_plan(grid((1, 1, 5), (64, 64, 20)), thickness=thickness)
    assert words in plan.words[0]
    assert plan.stages[0].profile.thickness == pytest.approx(thickness or 5.0)


@pytest.mark.parametrize("spacing", [(1, 1, 1), (0.9, 1, 1.05), (1, 1, 1.19)])
def test_an_isotropic_scan_is_left_alone(spacing: tuple[float, float, float]) -> None:
    geometry = grid(spacing, (64, 64, 64))
    plan = make_plan(geometry)
    assert plan.stages == ()
    assert "nothing to restore" in plan.words[0]
    assert plan.fine_geometry(geometry) == geometry


def test_a_wished_spacing_restores_every_axis_the_coarsest_first() -> None:
    plan = make_plan(grid((2, 1, 3), (40, 90, 30)), spacing=1.0, thickness=2.5)
    assert [stage.axis for stage in plan.stages] == [2, 0]
    assert [stage.fine.shape for stage in plan.stages] == [(40, 90, 90), (80, 90, 90)]
    # The thickness that the user gives is that of the slices; the other axis is only coarse.
    assert [stage.profile.thickness for stage in plan.stages] == pytest.approx([2.5, 2.0])
    assert plan.stages[1].coarse == plan.stages[0].fine
    assert make_plan(grid((1, 1, 5), (64, 64, 20)), spacing=2.0).stages[0].profile.factor == pytest.approx(2.5)


spacings = st.floats(0.4, 8)


@given(
    spacing=st.tuples(spacings, spacings, spacings),
    shape=st.tuples(*[st.integers(8, 40)] * 3),
    codes=st.sampled_from(["RAS", "LPI", "ASL", "SRP", "PIR", "IAL"]),
    degrees=st.floats(-40, 40),
)
def test_the_fine_grid_encloses_the_coarse_one_about_the_same_centre(
    spacing: tuple[float, float, float], shape: tuple[int, int, int], codes: str, degrees: float
) -> None:
    original = turned(grid(spacing, shape, codes), degrees)
    plan = make_plan(original)
    fine = plan.fine_geometry(original)
    np.testing.assert_allclose(centre(fine), centre(original), atol=1e-6)
    np.testing.assert_allclose(fine.direction, original.direction, atol=1e-9)
    for before, after, step in zip(original.extent, fine.extent, fine.spacing, strict=True):
        assert before - 1e-5 <= after < before + step + 1e-5
    restored = {stage.axis for stage in plan.stages}
    assert all(step < 1.2 * plan.spacing for step in fine.spacing)
    # What the stages call fine, in conformed axes, is this very grid.
    if restored:
        assert plan.stages[-1].fine.distance(fine.reoriented()[0]) < 1e-5
    for stage in plan.stages:
        operator = stage.operator()
        assert operator.in_shape == (1, *stage.fine.shape)
        assert operator.out_shape == (1, *stage.coarse.shape)


def test_slices_lie_where_the_operator_thinks_they_lie() -> None:
    """The centre of slice n in the world is the same by the header and by the operator on the fine grid."""
    original = turned(grid((1, 1, 3.7), (32, 32, 9), "LPS"), 23)
    plan = make_plan(original)
    (stage,) = plan.stages
    for number, position in enumerate(stage.operator().centres):
        by_operator = stage.fine.to_world(np.array([0.0, 0.0, position]))
        by_header = stage.coarse.to_world(np.array([0.0, 0.0, number]))
        np.testing.assert_allclose(by_operator, by_header, atol=1e-6)


def warnings(plan: Plan) -> str:
    return " ".join(plan.doubts)


def test_doubts_are_said_beforehand() -> None:
    assert "factor of 12" in warnings(make_plan(grid((0.5, 0.5, 6), (64, 64, 20))))
    assert "Only 3 slices" in warnings(make_plan(grid((1, 1, 5), (64, 64, 3))))
    assert "thick" in warnings(make_plan(grid((1, 1, 5), (64, 64, 20)), thickness=0.5))
    assert "thick" in warnings(make_plan(grid((1, 1, 5), (64, 64, 20)), thickness=50))
    assert warnings(make_plan(grid((1, 1, 5), (64, 64, 20)), thickness=4)) == ""


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_a_spacing_or_thickness_that_cannot_be_is_refused(value: float) -> None:
    geometry = grid((1, 1, 5), (64, 64, 20))
    with pytest.raises(ConfigError, match="--spacing"):
        make_plan(geometry, spacing=value)
    with pytest.raises(ConfigError, match="--thickness"):
        make_plan(geometry, thickness=value)


def test_what_is_no_volume_is_refused() -> None:
    with pytest.raises(GeometryError, match="no volume"):
        make_plan(grid((1, 1, 5), (64, 1, 5)))
    sheared = np.diag([1.0, 1, 5, 1])
    sheared[1, 2] = 1.0
    with pytest.raises(GeometryError, match="right angles"):
        make_plan(Geometry(sheared, (64, 64, 20)))
    with pytest.raises(GeometryError, match="coarser --spacing"):
        make_plan(grid((1, 1, 5), (512, 512, 100)), spacing=0.05)
