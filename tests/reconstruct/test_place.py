"""The result lies where the scan lay, in its units, and agrees with it: for any grid, format and network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from medidiff.geometry import Geometry
from medidiff.io import probe, read_volume, write_volume
from medidiff.reconstruct import ReconstructOptions, reconstruct
from medidiff.volume import Volume
from tests.io.dicom_series import write_series
from tests.reconstruct.scans import (
    CASES,
    CONSISTENCY,
    OBLIQUE,
    Array,
    Case,
    affine,
    grouped,
    nrmse,
    read_again,
    rotation,
    scan,
)


@pytest.mark.parametrize("name", CASES)
def test_a_second_reader_finds_every_slice_where_it_was(name: str, model: str, tmp_path: Path) -> None:
    case = CASES[name]
    source, target = tmp_path / f"scan{case.suffix}", tmp_path / f"out{case.suffix}"
    write_volume(scan(case.geometry), source)
    result = reconstruct(source, target, ReconstructOptions(model=model))
    before, place_before = read_again(source)
    after, place_after = read_again(target)
    factor = round(case.thick / case.fine)

    # The centre of slice n is the middle of its fine planes, in the order and direction of the file's own axes.
    corners = np.stack(np.meshgrid(*[(0, n - 1) for n in before.shape], indexing="ij"), -1).reshape(-1, 3)
    fine = corners.astype(float)
    fine[:, case.axis] = corners[:, case.axis] * factor + (factor - 1) / 2
    world_before = corners @ place_before[:3, :3].T + place_before[:3, 3]
    world_after = fine @ place_after[:3, :3].T + place_after[:3, 3]
    np.testing.assert_allclose(world_after, world_before, atol=1e-3)
    assert np.linalg.norm(place_after[:3, :3], axis=0) == pytest.approx([case.fine] * 3, rel=1e-5)

    assert nrmse(grouped(after, case.axis, factor), before) < CONSISTENCY
    assert nrmse(np.repeat(before, factor, case.axis), after) > 2 * CONSISTENCY, "the network did nothing"
    assert result.record["data_consistency_nrmse"] < CONSISTENCY


def centre_of_mass(path: Path) -> Array:
    data, place = read_again(path)
    weights = np.clip(data - 0.5 * data.max(), 0, None)
    index = np.stack([(weights * grid).sum() / weights.sum() for grid in np.indices(data.shape)])
    return np.asarray(place[:3, :3] @ index + place[:3, 3])


def test_a_planted_blob_stays_where_it_is_in_space(model: str, tmp_path: Path) -> None:
    geometry = CASES["oblique sagittal"].geometry
    write_volume(scan(geometry), tmp_path / "scan.nii")
    reconstruct(tmp_path / "scan.nii", tmp_path / "out.nii", ReconstructOptions(model=model))
    moved = np.linalg.norm(centre_of_mass(tmp_path / "out.nii") - centre_of_mass(tmp_path / "scan.nii"))
    assert moved < 0.5, "half a fine voxel"


def box_weights(slices: int, fine: int, factor: float, thickness: float) -> Array:
    """Overlap of slices with fine voxels, computed interval by interval."""
    weights = np.zeros((slices, fine))
    for n in range(slices):
        centre = (fine - 1) / 2 + (n - (slices - 1) / 2) * factor
        for voxel in range(fine):
            low, high = max(voxel - 0.5, centre - thickness / 2), min(voxel + 0.5, centre + thickness / 2)
            weights[n, voxel] = max(0.0, high - low)
    return weights / weights.sum(1, keepdims=True)


@pytest.mark.parametrize(("thick", "thickness"), [(6.5, None), (3.3, 2.6), (5.0, 6.0)])
def test_slices_with_gaps_or_overlap_at_any_distance_come_back(
    thick: float, thickness: float | None, model: str, tmp_path: Path
) -> None:
    case = Case(OBLIQUE, thick=thick, fine=0.9)
    write_volume(scan(case.geometry), tmp_path / "scan.nii.gz")
    options = ReconstructOptions(model=model, thickness=thickness)
    reconstruct(tmp_path / "scan.nii.gz", tmp_path / "out.nii.gz", options)
    before, _ = read_again(tmp_path / "scan.nii.gz")
    after, _ = read_again(tmp_path / "out.nii.gz")
    weights = box_weights(before.shape[2], after.shape[2], thick / 0.9, (thickness or thick) / 0.9)
    assert nrmse(after @ weights.T, before) < CONSISTENCY


def test_two_lost_axes_are_restored_one_after_the_other(model: str, tmp_path: Path) -> None:
    geometry = Geometry(affine(OBLIQUE, (1.0, 2.0, 4.0)), (24, 14, 9))
    write_volume(scan(geometry), tmp_path / "scan.nii")
    result = reconstruct(
        tmp_path / "scan.nii", tmp_path / "out.nii", ReconstructOptions(model=model, samples=2, steps=2)
    )
    before, _ = read_again(tmp_path / "scan.nii")
    assert [stage["factor"] for stage in result.record["operators"]] == pytest.approx([4, 2])
    for path in (result.output, *result.samples):
        after, _ = read_again(path)
        assert after.shape == (24, 28, 36)
        assert nrmse(grouped(grouped(after, 1, 2), 2, 4), before) < CONSISTENCY


def test_units_are_the_scan_s_own(model: str, tmp_path: Path) -> None:
    geometry = CASES["axial"].geometry
    for scale in (1.0, 4096.0):
        write_volume(scan(geometry, scale=scale), tmp_path / f"{scale:g}.nii")
        reconstruct(tmp_path / f"{scale:g}.nii", tmp_path / f"out{scale:g}.nii", ReconstructOptions(model=model))
    small, _ = read_again(tmp_path / "out1.nii")
    large, _ = read_again(tmp_path / "out4096.nii")
    assert nrmse(large / 4096, small) < 1e-4
    assert small.min() >= 0, "a magnitude image has no negative values"


def test_every_frame_is_restored_in_its_turn(model: str, tmp_path: Path) -> None:
    geometry = CASES["negative pixdim"].geometry
    frames = [scan(geometry, seed, scale).data[0] for seed, scale in ((0, 1000.0), (1, 10.0), (2, 300.0))]
    write_volume(Volume(np.stack(frames), geometry), tmp_path / "all.nii", frame_step=2.5)
    steps: list[tuple[int, int]] = []
    reconstruct(
        tmp_path / "all.nii",
        tmp_path / "out.nii",
        ReconstructOptions(model=model),
        lambda done, total, what: steps.append((done, total)),
    )
    together = read_volume(tmp_path / "out.nii")
    assert together.data.shape == (3, 24, 28, 36)
    assert probe(tmp_path / "out.nii").frame_step == pytest.approx(2.5)
    for number, frame in enumerate(frames):
        write_volume(Volume(frame[None], geometry), tmp_path / "one.nii")
        reconstruct(tmp_path / "one.nii", tmp_path / "alone.nii", ReconstructOptions(model=model))
        np.testing.assert_array_equal(together.data[number], read_volume(tmp_path / "alone.nii").data[0])
    done = [step for step, _ in steps]
    assert done == sorted(done)
    assert steps[-1] == (3, 3)
    assert {total for _, total in steps} == {3}


def test_a_dicom_folder_is_restored_where_the_scanner_saw_it(model: str, tmp_path: Path) -> None:
    directions = (tuple(rotation((1, 0, 0), 12) @ (1, 0, 0)), tuple(rotation((1, 0, 0), 12) @ (0, 0.6, -0.8)))
    data = np.rint(scan(Geometry(np.eye(4), (9, 28, 24)), scale=900).data[0]).astype(np.uint16)
    folder = tmp_path / "exam"
    write_series(folder, data, directions=directions, spacing=(1.25, 1.25), gap=5.0)
    result = reconstruct(folder, tmp_path / "out.nii.gz", ReconstructOptions(model=model))
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    series, restored = reader.Execute(), sitk.ReadImage(str(result.output))
    # Wherever GDCM puts a voxel of slice n, the mean of our four voxels about that place along the normal is its value.
    array = sitk.GetArrayFromImage(restored).astype(float)
    normal = np.reshape(series.GetDirection(), (3, 3))[:, 2]
    for index in ((5, 9, 1), (12, 14, 4), (20, 3, 7)):
        centre = np.asarray(series.TransformIndexToPhysicalPoint(index))
        places = [
            restored.TransformPhysicalPointToContinuousIndex(centre + normal * s)
            for s in (-1.875, -0.625, 0.625, 1.875)
        ]
        np.testing.assert_allclose(places, np.rint(places), atol=1e-3)
        values = [array[tuple(np.rint(place).astype(int)[::-1])] for place in places]
        assert np.mean(values) == pytest.approx(series.GetPixel(index), rel=0.03, abs=3)


@pytest.mark.parametrize("series", ["ge_t1_few_slices", "philips_scaled", "hitachi"])
def test_real_dicom_series_go_all_the_way(series: str, shared: Path, model: str, tmp_path: Path) -> None:
    folder = shared / "dicom" / series / "dicom"
    if not folder.is_dir():
        pytest.skip(f"{series} is packed")
    result = reconstruct(folder, tmp_path / "out.nii.gz", ReconstructOptions(model=model, spacing=2.0))
    before = read_volume(folder)
    assert result.record["data_consistency_nrmse"] < CONSISTENCY
    middle = np.asarray(before.geometry.to_world((np.asarray(before.geometry.shape) - 1) / 2))
    after = read_volume(result.output).geometry
    assert np.linalg.norm(after.to_world((np.asarray(after.shape) - 1) / 2) - middle) < 1e-2


def test_nothing_lost_is_nothing_changed(model: str, mni: Volume, tmp_path: Path) -> None:
    part = Volume(mni.data[:, 60:90, 60:90, 60:90], mni.geometry.cropped((60, 60, 60), (30, 30, 30)))
    write_volume(part, tmp_path / "scan.nii.gz")
    result = reconstruct(tmp_path / "scan.nii.gz", tmp_path / "out.nii.gz", ReconstructOptions(model=model))
    assert "nothing to restore" in result.plan.words[0]
    written = read_volume(tmp_path / "out.nii.gz")
    np.testing.assert_array_equal(written.data, part.data)
    assert written.geometry == read_volume(tmp_path / "scan.nii.gz").geometry
    assert result.record["model"] is None
