"""A head that moved while its slices were taken: how it moved is found out, and undone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from medidiff.errors import ConfigError
from medidiff.geometry import Geometry
from medidiff.io import read_volume, write_volume
from medidiff.operators import MovedSlices, SliceOperator, SliceProfile
from medidiff.operators.motion import rigid_matrices
from medidiff.reconstruct import ReconstructOptions, reconstruct
from medidiff.restoration.motion import find_movements, groups_of
from medidiff.restoration.register import Stack
from medidiff.volume import Volume

SIDE, FACTOR = 48, 4
SLICES = SIDE // FACTOR


@pytest.fixture(scope="module")
def head(mni: Volume) -> Volume:
    start = (74, 92, 68)
    box = (slice(None), *(slice(s, s + SIDE) for s in start))
    return Volume(np.array(mni.data[box]), mni.geometry.cropped(start, (SIDE,) * 3))


def moving_stack(head: Volume, axis: int, motion: np.ndarray, count: int = SLICES) -> Volume:
    grid = head.geometry.resampled(axis, count, float(FACTOR))
    operator = MovedSlices(1, head.geometry, grid, axis, SliceProfile(FACTOR, FACTOR), motion)
    return Volume(operator.forward(torch.from_numpy(head.data)[None])[0].numpy(), grid)


def misplaced(found: np.ndarray, true: np.ndarray, grid: Geometry) -> float:
    """Root mean square distance in mm within the slices, but for a movement that all have in common."""
    centre = grid.to_world((np.asarray(grid.shape) - 1) / 2)
    rest = [
        np.linalg.inv(a) @ b for a, b in zip(rigid_matrices(found, centre), rigid_matrices(true, centre), strict=True)
    ]
    corners = np.array([[x, y, z, 1] for x in (-20, 20) for y in (-20, 20) for z in (-20, 20)], dtype=float)
    corners[:, :3] += centre
    places = np.stack([(matrix @ corners.T).T[:, :3] for matrix in rest])
    return float(np.sqrt(np.square(places - places.mean(0)).sum(-1).mean()))


def two_shots() -> np.ndarray:
    return np.array([[0.02, -0.01, 0.03, 1.0, -1.5, 0.8], [-0.02, 0.01, -0.03, -1.0, 1.5, -0.8]])[groups_of(SLICES, 2)]


def test_two_shots_are_laid_onto_each_other_and_the_result_is_better(tmp_path: Path, head: Volume) -> None:
    """Golden: the parameters come back, and undoing them beats not knowing of them."""
    motion = two_shots()
    write_volume(moving_stack(head, 2, motion), tmp_path / "scan.nii.gz")
    options = {"fast": True}
    found = reconstruct(
        [tmp_path / "scan.nii.gz"], tmp_path / "a.nii.gz", ReconstructOptions(motion=True, shots=2, **options)
    )  # type: ignore[arg-type]
    (part,) = found.record["operators"]
    numbers = np.array(part["slice_motion"])
    numbers[:, :3] = np.radians(numbers[:, :3])
    grid = head.geometry.resampled(2, SLICES, float(FACTOR))
    before, after = misplaced(np.zeros_like(motion), motion, grid), misplaced(numbers, motion, grid)
    assert after < 0.25 * before
    assert np.ptp(numbers[::2], axis=0).max() == 0
    still = SliceOperator((1, SIDE, SIDE, SIDE), 2, SliceProfile(FACTOR, FACTOR))
    y = torch.from_numpy(moving_stack(head, 2, motion).data)[None]
    inner = (slice(None), *(slice(10, -10),) * 3)
    truth = head.data[inner]
    unaware, ours = still.reference(y)[0].numpy()[inner], read_volume(found.output).data[inner]
    assert np.sqrt(np.mean((ours - truth) ** 2)) < 0.8 * np.sqrt(np.mean((unaware - truth) ** 2))
    assert found.record["kind"] == "motion"


@pytest.mark.slow
def test_with_three_stacks_every_slice_finds_its_place(shared: Path) -> None:
    # A template, or a smaller piece of a head, holds too little for so many movements.
    whole = read_volume(shared / "data" / "head-t1-dcm-qa-uih" / "uih-a_T1w_1mm.nii.gz").reoriented()
    side = 80
    a, b, c = ((n - side) // 2 for n in whole.geometry.shape)
    data = np.array(whole.data[:, a : a + side, b : b + side, c + 10 : c + 10 + side])
    head = Volume(data, whole.geometry.cropped((a, b, c + 10), (side,) * 3))
    count = side // FACTOR
    rng = np.random.default_rng(0)
    stacks, motions = [], []
    for axis in (2, 1, 0):
        motion = 0.7 * rng.normal(size=(count, 6)) * np.array([0.02] * 3 + [1.0] * 3)
        volume = moving_stack(head, axis, motion, count)
        stacks.append(
            Stack(torch.from_numpy(volume.data / head.data.max())[None], volume.geometry, axis, float(FACTOR))
        )
        motions.append(motion)
    found = find_movements(stacks, head.geometry, [groups_of(count, 0)] * 3)
    inner = slice(3, -3)  # the outermost slices leave the piece of the head that there is
    for own, true, stack in zip(found, motions, stacks, strict=True):
        grid = stack.geometry
        assert misplaced(own[inner], true[inner], grid) < 0.33 * misplaced(0 * true[inner], true[inner], grid)


def test_slices_that_moved_together_are_told_apart() -> None:
    assert groups_of(5, 2).tolist() == [0, 1, 0, 1, 0]
    assert groups_of(4, 0).tolist() == [0, 1, 2, 3]
    for shots in (1, 6, -1):
        with pytest.raises(ConfigError, match="--shots"):
            groups_of(5, shots)


def test_motion_is_asked_for_alone() -> None:
    with pytest.raises(ConfigError, match="--motion is for slices"):
        ReconstructOptions(motion=True, denoise=True)
    with pytest.raises(ConfigError, match="--shots goes with --motion"):
        ReconstructOptions(shots=2)
