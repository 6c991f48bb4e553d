"""Simulated acquisitions for training: what a step sees, that it is always the same, and that it is kept on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from medidiff.diffusion.checkpoint import load_model, save_model
from medidiff.training.projections import ProjectionBatches, ProjectionConfig
from medidiff.training.validate_projections import ProjectionValidation
from medidiff.training.volumes import TrainingVolume

NETWORK = {"kind": "residual_unet", "channels": [4, 4], "blocks": 1, "split": [2, 2, 1], "planar": True}
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def trunk() -> TrainingVolume:
    """A conformed body of a kind: fat, muscle, a lung and a spine, in model units of CT."""
    x, y, z = np.meshgrid(np.linspace(-1, 1, 44), np.linspace(-1, 1, 36), np.arange(12), indexing="ij")
    hu = np.full(x.shape, -1000.0)
    hu[x**2 + (y / 0.8) ** 2 < 0.9] = -90
    hu[x**2 + (y / 0.8) ** 2 < 0.7] = 50
    hu[(x - 0.4) ** 2 + y**2 < 0.06 + 0.004 * z] = -850
    hu[x**2 + (y + 0.45) ** 2 < 0.02] = 700
    data = torch.from_numpy(((hu + 1024) / 2048).astype(np.float32)).half()
    return TrainingVolume(data, np.argwhere(hu > -500).astype(np.int16), 1.0, 0)


def config(**changes: object) -> ProjectionConfig:
    small = {
        "size": 4, "patch": 24, "acquisitions": 5, "planes": 2, "sides": (30, 48), "views": (10, 30), "arc": (90, 120),
    }  # fmt: skip
    return ProjectionConfig(**(small | changes))  # type: ignore[arg-type]


def weights(folder: Path) -> Path:
    from medidiff.diffusion.denoiser import Preconditioned
    from medidiff.diffusion.network import build_network

    path = folder / "first.safetensors"
    save_model(path, NETWORK, Preconditioned(build_network(**NETWORK)).state_dict(), {"name": "first"})
    return path


def test_a_step_is_a_function_of_seed_and_step(trunk: TrainingVolume) -> None:
    one, same, other = (ProjectionBatches([trunk], config(), seed, CPU) for seed in (0, 0, 1))
    same[7]  # what was drawn before does not matter
    first, again = one[3], same[3]
    assert first.truth.shape == (4, 1, 24, 24, 1)
    assert torch.equal(first.truth, again.truth)
    assert torch.equal(first.condition.reference, again.condition.reference)
    assert not torch.equal(first.truth, other[3].truth)
    assert not torch.equal(first.truth, one[4].truth)


def test_the_reference_is_the_truth_seen_from_few_sides(trunk: TrainingVolume) -> None:
    batches = ProjectionBatches([trunk], config(limited_share=0.0, photons=(1e9, 1e9)), 0, CPU)
    for index in range(5):
        taken = batches.acquisition(index)
        wrong = (taken.truth.float() - taken.references[0].float()).std()
        assert 0.003 < wrong < 0.6 * taken.truth.float().std()
        # What the network is told to expect is about what is wrong.
        assert 0.2 < float(wrong) / taken.task.scale < 3
        assert taken.task.sparse_views > 0
        assert taken.task.missing == 0
        assert float(taken.truth.min()) == 0


def test_more_noise_and_a_missing_arc_are_told(trunk: TrainingVolume) -> None:
    clean, noisy = (
        ProjectionBatches([trunk], config(photons=(count, count)), 0, CPU).acquisition(0).task.noise
        for count in (1e9, 1e4)
    )
    assert noisy == pytest.approx(clean * 1e9**0.5 / 1e4**0.5, rel=1e-3)
    limited = ProjectionBatches([trunk], config(limited_share=1.0), 0, CPU).acquisition(0)
    assert 0.25 < limited.task.missing < 0.55


def test_acquisitions_are_kept_on_disk_and_read_back(trunk: TrainingVolume, tmp_path: Path) -> None:
    made = ProjectionBatches([trunk], config(), 0, CPU, tmp_path)[0]
    (folder,) = tmp_path.glob("acquisitions-*")
    assert len(list(folder.glob("*.safetensors"))) > 1
    read = ProjectionBatches([trunk], config(), 0, CPU, tmp_path)
    read._acquire = None  # type: ignore[assignment,method-assign] # nothing may be simulated again
    assert torch.equal(made.condition.reference, read[0].condition.reference)
    assert torch.equal(made.condition.task, read[0].condition.task)
    # Another configuration has acquisitions of its own; one that only draws other patches has not.
    ProjectionBatches([trunk], config(views=(10, 31)), 0, CPU, tmp_path)
    ProjectionBatches([trunk], config(size=2), 0, CPU, tmp_path)
    assert len(list(tmp_path.glob("acquisitions-*"))) == 2


def test_a_model_given_is_looked_through(trunk: TrainingVolume, tmp_path: Path) -> None:
    given = config(looks_from=weights(tmp_path), looks=2, first_look=0.5, size=16)
    batches = ProjectionBatches([trunk], given, 0, CPU)
    taken = batches.acquisition(0)
    assert len(taken.references) == 3
    assert not torch.equal(taken.references[1], taken.references[0])
    told = batches[0].condition.task[:, 7]
    assert set(told.tolist()) == {1.0, 2.0}
    first, later = (batches[0].condition.scale[told == look].max() for look in (1.0, 2.0))
    assert later < first


@pytest.mark.parametrize("wrong", [{"views": (30, 10)}, {"photons": (0, 5)}, {"sides": (60, 50)}, {"planes": 0}])
def test_ranges_that_do_not_rise_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        config(**wrong)


def test_validation_scores_the_truth_above_everything(trunk: TrainingVolume, tmp_path: Path) -> None:
    truth = (trunk.data[:40, :32, :2].float() - 24 / 2048).clamp_min(0)
    few, many = (ProjectionValidation(truth, views=count, noise_std=0.01).baseline() for count in (8, 60))
    assert many > few + 3
    model, _ = load_model(weights(tmp_path))
    assert ProjectionValidation(truth, views=8, noise_std=0.01)(model) > few - 1
