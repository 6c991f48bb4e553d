"""Batches are a function of (seed, step), and hold what their configuration says."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from medidiff.diffusion.denoiser import Condition
from medidiff.training.batches import Batch, BatchConfig, Shares, crop
from medidiff.training.volumes import TrainingVolume
from tests.training.scans import tiny_batches, training_volume


def parts(batch: Batch) -> list[Tensor]:
    return [batch.truth, *(getattr(batch.condition, part.name) for part in fields(Condition))]


def test_a_step_is_the_same_whenever_it_is_asked_for(head: np.ndarray) -> None:
    first = tiny_batches(head)
    forwards = {step: first[step] for step in range(8)}
    again = tiny_batches(head)
    for step in reversed(range(8)):
        assert all(torch.equal(a, b) for a, b in zip(parts(forwards[step]), parts(again[step]), strict=True))


def test_steps_and_seeds_differ(head: np.ndarray) -> None:
    only_slices = Shares(slices=1)
    batches = tiny_batches(head, shares=only_slices)
    other = tiny_batches(head, seed=1, shares=only_slices)
    assert not torch.equal(batches[0].truth, batches[1].truth)
    assert not torch.equal(batches[0].truth, other[0].truth)
    assert not torch.equal(batches[0].truth[0], batches[0].truth[1])


@pytest.mark.parametrize("kind", ["slices", "noise", "inpaint", "nothing", "kspace"])
def test_every_degradation_makes_a_batch_that_the_network_can_read(head: np.ndarray, kind: str) -> None:
    shares = Shares(**{"slices": 0.0, kind: 1.0} if kind != "kspace" else {"kspace": 1.0})
    batches = tiny_batches(head, shares=shares)
    for step in range(4):
        batch = batches[step]
        expected = (6, 1, 16, 16, 8) if kind == "kspace" else (3, 1, 16, 16, 16)
        assert batch.truth.shape == batch.condition.reference.shape == batch.condition.known.shape == expected
        assert batch.condition.task.shape == (len(batch.truth), 8)
        assert all(torch.isfinite(part).all() and part.dtype == torch.float32 for part in parts(batch))
        assert (batch.condition.known.abs() <= 1).all()
        assert (batch.condition.scale > 0).all()
        assert (batch.condition.task[:, 7] == (0 if kind == "nothing" else 1)).all()
        if kind == "nothing":
            assert batch.condition.reference.abs().max() == 0


def test_shares_are_kept(head: np.ndarray) -> None:
    """Which degradation it was can be read from the task: a factor above 1, missing voxels, or no reference."""
    batches = tiny_batches(head, shares=Shares(slices=2, noise=0, inpaint=1, nothing=1), size=1)
    tasks = torch.stack([batches[step].condition.task[0] for step in range(200)])
    assert float((tasks[:, 0] > 0).float().mean()) == pytest.approx(0.5, abs=0.12)
    assert float((tasks[:, 5] > 0).float().mean()) == pytest.approx(0.25, abs=0.1)
    assert float((tasks[:, 7] == 0).float().mean()) == pytest.approx(0.25, abs=0.1)


def test_heavier_scans_are_drawn_more_often(head: np.ndarray) -> None:
    batches = tiny_batches(head, shares=Shares(slices=0, nothing=1), size=1)
    dark, bright = (TrainingVolume(torch.full((20, 20, 20), v), np.full((1, 3), 10), 1.0, 0) for v in (0.01, 1.0))
    heavy = TrainingVolume(bright.data, bright.foreground, 3.0, 0)
    drawn = type(batches)([dark, heavy], batches.config, 0, batches.device)
    share = np.mean([float(drawn[step].truth.median()) > 0.2 for step in range(200)])
    assert share == pytest.approx(0.75, abs=0.1)


def test_a_crop_lies_in_the_scan_and_is_padded_with_air_where_it_must(head: np.ndarray) -> None:
    volume = training_volume(head)
    rng = np.random.default_rng(0)
    for _ in range(20):
        inside = crop(volume, (16, 20, 24), rng)
        assert inside.shape == (16, 20, 24)
        assert (inside > 0.05).any()
    wide = crop(volume, (80, 16, 16), rng)
    assert wide.shape == (80, 16, 16)
    occupied = torch.nonzero(wide.abs().amax((1, 2))).flatten()
    assert int(occupied[-1] - occupied[0]) < head.shape[0]


@pytest.mark.parametrize(
    "values",
    [
        {"shares": {"slices": 0, "kspace": 1}},
        {"patch": 64, "line": 32},
        {"factors": [4, 2]},
        {"factors": [0.5, 2]},
        {"shares": {"slices": -1}},
        {"patches": 3},
    ],
)
def test_an_impossible_configuration_is_refused(values: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        BatchConfig.model_validate(values)
