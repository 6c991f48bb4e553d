"""Stacks of one head: laid onto each other, brought to one scale, and joined."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from medidiff.errors import ConfigError, GeometryError, InputError
from medidiff.geometry import Geometry
from medidiff.io import read_volume, write_volume
from medidiff.operators import SliceOperator, SliceProfile, stack_operator
from medidiff.operators.motion import rigid_matrices
from medidiff.reconstruct import ReconstructOptions, ReconstructResult, reconstruct
from medidiff.restoration.joint import union
from medidiff.restoration.register import Stack, displacement, find_motion, pooled
from medidiff.volume import Volume
from tests.operators.registry import turned
from tests.sinograms import write_sinogram
from tests.tiny_model import write_tiny_model

SIDE, FACTOR = 56, 4
NAMES = ("sag", "cor", "ax")


@pytest.fixture(scope="module")
def head(mni: Volume) -> Volume:
    """A piece of a real head at 1 mm, in the middle of it."""
    start = (66, 84, 60)
    box = (slice(None), *(slice(s, s + SIDE) for s in start))
    return Volume(np.array(mni.data[box]), mni.geometry.cropped(start, (SIDE,) * 3))


def sliced(head: Volume, axis: int, motion: tuple[float, ...] | None = None, gain: float = 1.0) -> Volume:
    """A stack of touching slices across an axis; the head moved (degrees, mm) before it was taken."""
    grid = head.geometry.resampled(axis, SIDE // FACTOR, float(FACTOR))
    seen = grid
    if motion is not None:
        centre = grid.to_world((np.asarray(grid.shape) - 1) / 2)
        moved = rigid_matrices(np.array([[*np.radians(motion[:3]), *motion[3:]]]), centre)[0]
        seen = Geometry(np.linalg.inv(moved) @ grid.affine, grid.shape)
    y = stack_operator(head.geometry, seen, axis, float(FACTOR)).forward(torch.from_numpy(head.data)[None])
    return Volume(gain * y[0].numpy(), grid)


def error(found: Volume, head: Volume) -> float:
    """Root mean square error where all stacks see the head."""
    inner = (slice(None), *(slice(10, -10),) * 3)
    assert found.geometry.distance(head.geometry) < 1e-3
    return float(np.sqrt(np.mean((found.data[inner] - head.data[inner]) ** 2)))


def join(folder: Path, stacks: list[Volume], **options: object) -> ReconstructResult:
    paths = [folder / f"{n}.nii.gz" for n in range(len(stacks))]
    for stack, path in zip(stacks, paths, strict=True):
        write_volume(stack, path)
    return reconstruct(paths, folder / "out.nii.gz", ReconstructOptions(**({"fast": True} | options)))  # type: ignore[arg-type]


def test_two_stacks_are_better_than_one_and_three_than_two(tmp_path: Path, head: Volume) -> None:
    stacks = [sliced(head, axis) for axis in (2, 1, 0)]
    alone = SliceOperator((1, SIDE, SIDE, SIDE), 2, SliceProfile(FACTOR, FACTOR))
    classical = alone.reference(torch.from_numpy(stacks[0].data)[None])[0].numpy()
    errors = [error(Volume(classical, head.geometry), head)]
    for count in (2, 3):
        result = join(tmp_path, stacks[:count])
        errors.append(error(read_volume(result.output), head))
        assert [part["moved_mm"] for part in result.record["operators"]] == [0.0] * count
        assert result.record["data_consistency_nrmse"] < 0.01
    assert errors[1] < 0.75 * errors[0]
    assert errors[2] < 0.75 * errors[1]


def test_a_head_that_moved_between_the_stacks_is_put_back(tmp_path: Path, head: Volume) -> None:
    motion = (2.0, -3.0, 1.5, 2.0, -1.0, 3.0)
    stacks = [sliced(head, 2), sliced(head, 0, motion, gain=1.4)]
    result = join(tmp_path, stacks)
    moved = result.record["operators"][1]
    np.testing.assert_allclose(moved["motion"], motion, atol=0.15)
    assert moved["gain"] == pytest.approx(1.4, rel=0.02)
    still = join(tmp_path, [stacks[0], sliced(head, 0)])
    ideal = still.volumes["restored"]
    assert error(result.volumes["restored"], head) < 1.12 * error(ideal, head)
    assert read_volume(still.output).geometry.shape == ideal.geometry.shape


def test_axes_as_the_files_have_them(tmp_path: Path, head: Volume) -> None:
    """A sagittal file whose own axes run otherwise: what comes out is the same."""
    plain = join(tmp_path, [sliced(head, 2), sliced(head, 0)]).volumes["restored"]
    sagittal = sliced(head, 0)
    flipped = np.ascontiguousarray(sagittal.data.transpose(0, 2, 3, 1)[:, ::-1])
    swap = np.zeros((4, 4))
    swap[1, 0], swap[2, 1], swap[0, 2], swap[3, 3] = -1, 1, 1, 1
    swap[1, 3] = sagittal.geometry.shape[1] - 1
    other = Volume(flipped, Geometry(sagittal.geometry.affine @ swap, flipped.shape[1:]))
    found = join(tmp_path, [sliced(head, 2), other]).volumes["restored"]
    np.testing.assert_allclose(found.data, plain.data, atol=1e-3 * plain.data.max())


def test_the_network_and_its_samples_take_part(tmp_path: Path, head: Volume) -> None:
    model = str(write_tiny_model(tmp_path / "tiny.safetensors"))
    stacks = [sliced(head, 2), sliced(head, 1)]
    result = join(tmp_path, stacks, fast=False, model=model, samples=2, steps=2, seed=1)
    again = join(tmp_path, stacks, fast=False, model=model, samples=2, steps=2, seed=1)
    first, second = (read_volume(path).data for path in result.samples)
    assert not np.array_equal(first, second)
    assert np.array_equal(result.volumes["restored"].data, again.volumes["restored"].data)
    assert not np.array_equal(result.volumes["restored"].data, result.volumes["baseline"].data)
    assert json.loads((tmp_path / "out.json").read_text())["kind"] == "stacks"


def test_a_stack_of_another_head_is_refused(tmp_path: Path, head: Volume) -> None:
    other = sliced(head, 0)
    noise = np.random.default_rng(0).permutation(other.data.reshape(-1)).reshape(other.data.shape)
    with pytest.raises(InputError, match="another head or contrast"):
        join(tmp_path, [sliced(head, 2), Volume(noise, other.geometry)])
    assert not (tmp_path / "out.nii.gz").exists()


def test_a_stack_of_another_place_is_refused_from_its_header(tmp_path: Path, head: Volume) -> None:
    far = sliced(head, 0)
    affine = far.geometry.affine.copy()
    affine[0, 3] += 200
    with pytest.raises(GeometryError, match="not stacks of one place"):
        join(tmp_path, [sliced(head, 2), Volume(far.data, Geometry(affine, far.geometry.shape))])


def test_several_scans_go_with_no_job_for_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="joined as stacks"):
        reconstruct([tmp_path / "a.nii", tmp_path / "b.nii"], None, ReconstructOptions(denoise=True))


def test_a_scan_given_twice_is_no_second_stack(tmp_path: Path, head: Volume) -> None:
    write_volume(sliced(head, 2), tmp_path / "ax.nii.gz")
    with pytest.raises(ConfigError, match="given twice"):
        reconstruct([tmp_path / "ax.nii.gz", tmp_path / "." / "ax.nii.gz"], None, ReconstructOptions())


def test_raw_data_are_no_stack(tmp_path: Path, head: Volume) -> None:
    pytest.importorskip("h5py", reason="projections need the extra ct")
    write_volume(sliced(head, 2), tmp_path / "ax.nii.gz")
    with pytest.raises(ConfigError, match="raw data"):
        reconstruct([tmp_path / "ax.nii.gz", write_sinogram(tmp_path / "ct.h5")], None, ReconstructOptions())


def test_parallel_stacks_are_joined_with_a_word_of_doubt(tmp_path: Path, head: Volume) -> None:
    result = join(tmp_path, [sliced(head, 2), sliced(head, 2, gain=2.0)])
    assert any("same direction" in text for text in result.record["warnings"])


# --- the parts --------------------------------------------------------------------------------------------------------


@given(angles=st.tuples(*[st.floats(-20, 20)] * 3), shift=st.floats(-10, 10), step=st.floats(0.8, 3))
def test_the_union_holds_every_stack(angles: tuple[float, float, float], shift: float, step: float) -> None:
    first = Geometry(np.diag([1.0, 1.0, 4.0, 1.0]), (20, 30, 8))
    other = turned(Geometry(np.diag([5.0, 1.0, 1.0, 1.0]), (6, 25, 28)), angles, shift)
    grid = union([first, other], step)
    assert grid.spacing == pytest.approx((step,) * 3)
    np.testing.assert_allclose(grid.direction, first.direction, atol=1e-12)
    for own in (first, other):
        corners = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)]) * np.array(own.shape) - 0.5
        inside = grid.to_index(own.to_world(corners))
        assert (inside > -0.51).all()
        assert (inside < np.array(grid.shape) - 0.49).all()


def test_pooling_keeps_the_place() -> None:
    geometry = Geometry(np.diag([1.0, 2.0, 1.5, 1.0]), (8, 6, 5))
    index = np.stack(np.meshgrid(*map(np.arange, geometry.shape), indexing="ij"), axis=-1)
    ramp = torch.from_numpy(geometry.to_world(index) @ [1.0, 2, 3])[None, None]
    found, grid = pooled(ramp, geometry, [2, 3, 2])
    index = np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"), axis=-1)
    np.testing.assert_allclose(found[0, 0].numpy(), grid.to_world(index) @ [1.0, 2, 3])


def test_positions_are_found_for_each_group_of_slices(head: Volume) -> None:
    """Golden: two shots, each with a movement of its own, from the true image: recovered to a tenth of a millimetre."""
    from medidiff.operators import MovedSlices

    grid = head.geometry.resampled(2, SIDE // FACTOR, float(FACTOR))
    groups = np.arange(SIDE // FACTOR) % 2
    motion = np.array([[0.02, -0.03, 0.05, 1.0, -2.0, 0.5], [-0.04, 0.01, 0.0, -1.5, 0.5, 2.0]])[groups]
    image = torch.from_numpy(head.data / head.data.max())[None]
    profile = SliceProfile(FACTOR, FACTOR)
    y = MovedSlices(1, head.geometry, grid, 2, profile, motion).forward(image)
    found = find_motion(image, head.geometry, Stack(0.7 * y, grid, 2, 4.0), np.zeros_like(motion), groups)
    centre = grid.to_world((np.asarray(grid.shape) - 1) / 2)
    for own, true in zip(rigid_matrices(found, centre), rigid_matrices(motion, centre), strict=True):
        assert displacement(own @ np.linalg.inv(true), grid) < 0.15
