"""Every stored voxel lies where PS3.3 says, whatever the orientation, tilt, order of files or gap."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset

from medidiff.io.dicom import ReadPolicy, Reason, SeriesRefused, find_series, load, probe_series, read_series
from medidiff.volume import Volume
from tests.io.dicom_series import Array, phantom, world_ras, write_enhanced, write_series

angles = st.floats(-np.pi, np.pi)


def turned(a: float, b: float, c: float) -> tuple[list[float], list[float]]:
    """Row and column directions of a plane turned about three axes."""
    x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    matrix = z @ y @ x
    return matrix[:, 0].tolist(), matrix[:, 1].tolist()


def assert_voxels_lie_right(
    volume: Volume, stored: Array, positions: Array, directions: tuple[list[float], list[float]]
) -> None:
    """Look up each stored number by its world position."""
    assert volume.data.shape[1:] == (stored.shape[2], stored.shape[1], stored.shape[0])
    for k, row, column in [(0, 0, 0), (1, 3, 2), (len(stored) - 1, stored.shape[1] - 1, stored.shape[2] - 1)]:
        world = world_ras(k, row, column, directions=directions, positions=positions, spacing=(1.5, 1.25))
        index = volume.geometry.to_index(world)
        np.testing.assert_allclose(index, np.round(index), atol=1e-3)
        i, j, z = np.round(index).astype(int)
        assert volume.data[0, i, j, z] == stored[k, row, column]


@given(angles, angles, angles)
def test_any_orientation(tmp_path_factory: pytest.TempPathFactory, a: float, b: float, c: float) -> None:
    folder = tmp_path_factory.mktemp("series")
    directions, stored = turned(a, b, c), phantom(4)
    normal = np.cross(*directions)
    origin = np.array([-10.0, -20.0, 30.0])
    write_series(folder, stored, directions=directions, origin=origin)
    positions = origin + np.arange(4)[:, None] * 3.0 * normal
    volume = read_series(folder)
    assert_voxels_lie_right(volume, stored, positions, directions)
    np.testing.assert_allclose(volume.geometry.spacing, (1.25, 1.5, 3.0), rtol=1e-6)
    assert np.linalg.det(volume.geometry.affine[:3, :3]) > 0


@given(angles, angles, angles, st.permutations(range(5)))
def test_enhanced_frames_in_any_order(
    tmp_path_factory: pytest.TempPathFactory, a: float, b: float, c: float, order: list[int]
) -> None:
    directions, stored = turned(a, b, c), phantom(5)
    normal = np.cross(*directions)
    positions = np.array([5.0, 6.0, 7.0]) + np.array(order)[:, None] * 3.0 * normal
    path = tmp_path_factory.mktemp("enhanced") / "e.dcm"
    write_enhanced(path, stored, positions.round(6).tolist(), directions=directions)
    assert_voxels_lie_right(read_series(path), stored, positions, directions)


def test_slices_stacked_against_their_normal(tmp_path: Path) -> None:
    """Instance numbers that go down the normal: place decides, not number."""
    stored = phantom(5)
    positions = np.array([[0.0, 0.0, -3.0 * k] for k in range(5)])
    write_series(tmp_path, stored, positions=positions.tolist())
    volume = read_series(tmp_path)
    np.testing.assert_array_equal(volume.data[0, :, :, 0], stored[4].T)
    assert volume.geometry.origin[2] == pytest.approx(-12.0)


def test_lps_becomes_ras(tmp_path: Path) -> None:
    write_series(tmp_path, phantom(3), origin=(11.0, 22.0, 33.0))
    geometry = read_series(tmp_path).geometry
    np.testing.assert_allclose(geometry.origin, (-11.0, -22.0, 33.0))
    assert geometry.orientation == "LPS"


@given(st.floats(-0.5, 0.5), st.floats(-0.5, 0.5))
def test_tilt_is_undone_exactly_for_a_linear_image(
    tmp_path_factory: pytest.TempPathFactory, shift_row: float, shift_column: float
) -> None:
    """An image that is linear in space is interpolated without error: a golden for the shear, both ways."""
    folder = tmp_path_factory.mktemp("tilt")
    step = np.array([shift_row, shift_column, 3.0])
    rows, columns, count = 24, 20, 5
    k, r, c = np.meshgrid(np.arange(count), np.arange(rows), np.arange(columns), indexing="ij")
    x, y, z = c * 1.25 + k * step[0], r * 1.5 + k * step[1], k * 3.0
    truth = 1000 + 12 * x - 9 * y + 20 * z
    stored = np.round(truth * 16).astype(np.uint16)

    def scale(dataset: Dataset, k: int) -> None:
        del k
        dataset.RescaleSlope, dataset.RescaleIntercept = "0.0625", "0"

    write_series(folder, stored, origin=(0.0, 0.0, 0.0), step=step, change=scale)
    volume = read_series(folder)
    assert volume.geometry.is_orthogonal
    index = np.stack(np.meshgrid(*map(np.arange, volume.geometry.shape), indexing="ij"), axis=-1)
    world = volume.geometry.to_world(index)
    expected = 1000 - 12 * world[..., 0] + 9 * world[..., 1] + 20 * world[..., 2]
    margin = 2 + int(np.ceil(4 * max(abs(shift_row) / 1.25, abs(shift_column) / 1.5)))
    inner = (slice(margin, -margin), slice(margin, -margin))
    np.testing.assert_allclose(volume.data[0][inner], expected[inner], atol=0.08)


def test_tilt_can_be_refused_and_is_never_missed(tmp_path: Path) -> None:
    write_series(tmp_path, phantom(5), step=(0.0, 0.4, 3.0))
    with pytest.raises(SeriesRefused, match=r"7\.6 degrees") as caught:
        read_series(tmp_path, policy=ReadPolicy(tilt="refuse"))
    assert caught.value.reason is Reason.TILTED
    (plan,) = find_series(tmp_path).series
    assert any("gantry tilt" in note for note in plan.notes)


def test_a_stack_at_an_absurd_angle_is_refused(tmp_path: Path) -> None:
    write_series(tmp_path, phantom(5), step=(0.0, 3.0, 3.0))
    assert find_series(tmp_path).reasons()[Reason.TILTED] == 5


def test_positions_off_a_line_are_no_stack(tmp_path: Path) -> None:
    positions = [[0.0, 0.0, 0.0], [0.0, 4.0, 3.0], [0.0, 0.0, 6.0], [0.0, 4.0, 9.0]]
    write_series(tmp_path, phantom(4), positions=positions)
    report = find_series(tmp_path)
    assert report.reasons()[Reason.UNEVEN_SLICES] == 4
    assert "straight line" in report.set_aside[0].text


@pytest.mark.parametrize("lost", [1, 4, 8])
def test_missing_slice_is_named_or_filled_by_choice(lost: int, tmp_path: Path) -> None:
    k = np.arange(10)
    stored = np.broadcast_to((100 + 10 * k)[:, None, None], (10, 6, 5)).astype(np.uint16)
    write_series(tmp_path, stored)[lost].unlink()
    with pytest.raises(SeriesRefused, match="1 of 10 slices missing"):
        read_series(tmp_path)
    volume = read_series(tmp_path, policy=ReadPolicy(uneven="resample"))
    assert volume.geometry.spacing[2] == pytest.approx(3.0)
    np.testing.assert_allclose(volume.data[0, 2, 2], 100 + 10 * k, atol=1e-3)


def test_uneven_slices_are_interpolated_by_choice(tmp_path: Path) -> None:
    """Skull base at 2.5 mm, vertex at 5 mm: an image linear in z keeps its value at every place."""
    depths = np.array([0, 2.5, 5, 7.5, 10, 15, 20, 25, 30.0])
    stored = np.broadcast_to((100 + 8 * depths)[:, None, None], (9, 6, 5)).astype(np.uint16)
    write_series(tmp_path, stored, positions=[[0.0, 0.0, float(z)] for z in depths])
    report = find_series(tmp_path)
    assert report.reasons()[Reason.MISSING_SLICES] + report.reasons()[Reason.UNEVEN_SLICES] == 9
    volume = read_series(tmp_path, policy=ReadPolicy(uneven="resample"))
    z = volume.geometry.to_world(np.array([[0, 0, n] for n in range(volume.geometry.shape[2])]))[:, 2]
    np.testing.assert_allclose(z, np.arange(0, 30.1, 2.5), atol=1e-6)
    np.testing.assert_allclose(volume.data[0, 2, 2], 100 + 8 * z, atol=0.6)


def test_coarsely_rounded_positions_are_no_gap(tmp_path: Path) -> None:
    """0.625 mm slices with positions to one decimal: nothing is missing."""
    positions = [[0.0, 0.0, round(0.625 * k, 1)] for k in range(40)]
    write_series(tmp_path, phantom(40, 4, 4), positions=positions, gap=0.625)
    assert read_series(tmp_path).geometry.spacing[2] == pytest.approx(0.625, abs=2e-3)


def test_thickness_and_spacing_are_not_mixed_up(tmp_path: Path) -> None:
    def thin(dataset: Dataset, k: int) -> None:
        del k
        dataset.SliceThickness = 2.0
        dataset.SpacingBetweenSlices = 99.0  # positions go first

    write_series(tmp_path, phantom(4), change=thin)
    (plan,) = find_series(tmp_path).series
    assert plan.thickness == 2.0
    assert plan.spacing_between_slices == pytest.approx(3.0)
    info = probe_series(tmp_path)
    assert (info.slice_thickness, info.geometry.spacing[2]) == (2.0, pytest.approx(3.0))


def test_a_stated_tilt_that_positions_do_not_show_is_noted(tmp_path: Path) -> None:
    def tilt(dataset: Dataset, k: int) -> None:
        del k
        dataset.GantryDetectorTilt = "12"

    write_series(tmp_path, phantom(4), change=tilt)
    (plan,) = find_series(tmp_path).series
    assert any("12 degrees" in note for note in plan.notes)


def test_two_sizes_in_one_series(tmp_path: Path) -> None:
    from pydicom.uid import generate_uid

    uid = generate_uid()
    write_series(tmp_path / "a", phantom(5), series_uid=uid)
    write_series(tmp_path / "b", phantom(1, rows=16, columns=16), series_uid=uid)
    report = find_series(tmp_path)
    assert report.reasons()[Reason.MIXED_GRIDS] == 1
    assert load(report.series[0]).data.shape == (1, 8, 10, 5)


def test_planes_of_a_planning_series_are_no_volumes(tmp_path: Path) -> None:
    """Three planes across each other, with no word that they are a localizer."""
    from pydicom.uid import generate_uid

    uid = generate_uid()
    for name, directions in {
        "tra": ((1.0, 0, 0), (0, 1.0, 0)),
        "sag": ((0, 1.0, 0), (0, 0, -1.0)),
        "cor": ((1.0, 0, 0), (0, 0, -1.0)),
    }.items():
        write_series(tmp_path / name, phantom(2), directions=directions, series_uid=uid)
    report = find_series(tmp_path)
    assert not report.series
    assert report.reasons()[Reason.MIXED_ORIENTATION] == 6


def test_localizers_can_be_kept(tmp_path: Path) -> None:
    def scout(dataset: Dataset, k: int) -> None:
        del k
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]

    write_series(tmp_path, phantom(4), change=scout)
    assert find_series(tmp_path).reasons()[Reason.LOCALIZER] == 4
    assert len(find_series(tmp_path, policy=ReadPolicy(localizers=True)).series) == 1


@pytest.mark.parametrize(
    ("name", "is_scout"),
    [
        ("AAHead_Scout_MPR_sag", True),
        ("3-plane loc", True),
        ("LOCALIZER", True),
        ("Survey_SHC", True),
        ("t1_mprage_local_shim", False),
        ("velocity map", False),
        ("Allocated T2", False),
    ],
)
def test_names_of_localizers(name: str, is_scout: bool, tmp_path: Path) -> None:
    def rename(dataset: Dataset, k: int) -> None:
        del k
        dataset.SeriesDescription = name

    write_series(tmp_path, phantom(3), change=rename)
    assert bool(find_series(tmp_path).reasons()[Reason.LOCALIZER]) is is_scout
