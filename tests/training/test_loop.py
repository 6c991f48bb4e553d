"""The training loop: it learns, it goes on from where it was, and it refuses what is not its own."""

from __future__ import annotations

import csv
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from medidiff.diffusion.checkpoint import load_model, load_state, save_state
from medidiff.diffusion.denoiser import BLIND_RATIO, Preconditioned
from medidiff.diffusion.loss import denoising_loss
from medidiff.errors import CheckpointError
from medidiff.training.batches import Batch, Batches, Shares
from medidiff.training.loop import OptimizerConfig, Progress, Trainer
from medidiff.training.objective import PathConfig, Restoration
from tests.training.killable import STEPS, make_trainer
from tests.training.scans import CPU, TINY, tiny_batches


def trainer(folder: Path, batches: Batches, steps: int = 6, network: dict[str, object] | None = None) -> Trainer:
    optimizer = OptimizerConfig(steps=steps, lr=3e-3, warmup=5, ema=0.9)
    return Trainer(Restoration(network or TINY, PathConfig()), optimizer, batches, folder, "mine", 0, CPU)


def weights(run: Trainer) -> list[torch.Tensor]:
    return [*(p.detach() for p in run.model.parameters()), *run.ema.tensors().values()]


def test_killed_at_any_moment_and_resumed_it_ends_with_the_same_bits(tmp_path: Path, head: np.ndarray) -> None:
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    for folder in (straight, killed):
        folder.mkdir()
        np.save(folder / "head.npy", head)
    expected = make_trainer(straight)
    assert expected.run()
    command = [sys.executable, "-m", "tests.training.killable", str(killed), "--resume"]
    repository = Path(__file__).parents[2]
    for last in (2, 7, 12):
        process = subprocess.Popen(command, cwd=repository, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) >= last:
                # The state of this step is being written just now.
                process.send_signal(signal.SIGKILL)
                break
        process.stdout.close()
        assert process.wait() == -signal.SIGKILL
    finished = make_trainer(killed)
    finished.resume()
    assert 12 <= finished.step + 1 < STEPS
    assert finished.run()
    (found, record), (wanted, _) = load_state(finished.state_path), load_state(expected.state_path)
    assert record["step"] == STEPS
    assert set(found) == set(wanted) == {"model", "ema", "first_moment", "second_moment"}
    for group, tensors in wanted.items():
        for name, tensor in tensors.items():
            assert torch.equal(found[group][name], tensor), (group, name)


def test_the_limit_of_time_leaves_a_state_to_go_on_from(tmp_path: Path, head: np.ndarray) -> None:
    whole = trainer(tmp_path / "a", tiny_batches(head))
    whole.folder.mkdir()
    whole.run()
    part = trainer(tmp_path / "b", tiny_batches(head))
    part.folder.mkdir()
    assert not part.run(max_seconds=0)
    assert part.step == 1
    rest = trainer(tmp_path / "b", tiny_batches(head))
    rest.resume()
    assert rest.run()
    assert all(torch.equal(a, b) for a, b in zip(weights(whole), weights(rest), strict=True))


def test_looking_on_does_not_change_the_weights(tmp_path: Path, head: np.ndarray) -> None:
    """Validation and progress draw nothing that the training draws from."""
    plain, watched = (trainer(tmp_path, tiny_batches(head)) for _ in range(2))
    plain.run()
    told: list[Progress] = []
    watched.run(validate=lambda model: 30.0, validate_every=2, on_progress=told.append, report_every=1)
    assert all(torch.equal(a, b) for a, b in zip(weights(plain), weights(watched), strict=True))
    assert [p.step for p in told] == [1, 2, 3, 4, 5, 6]
    assert [p.score for p in told] == [None, 30.0] * 3
    rows = list(csv.reader((tmp_path / "curve.csv").open()))
    assert rows[0] == ["step", "loss", "validation_psnr_db"]
    assert [(row[0], row[2]) for row in rows[1:4]] == [("1", ""), ("2", "30.0000"), ("3", "")]
    assert float(rows[1][1]) == pytest.approx(told[0].loss, abs=1e-5)


class OneBatch(Batches):
    """The same batch at every step."""

    def __getitem__(self, step: int) -> Batch:
        return super().__getitem__(0)


def test_a_network_learns_one_batch(tmp_path: Path, head: np.ndarray) -> None:
    batches = tiny_batches(head, shares=Shares(slices=1))
    batches.__class__ = OneBatch
    run = trainer(tmp_path, batches, steps=60)
    batch = batches[0]
    blind, noise = torch.full((3,), BLIND_RATIO), torch.zeros_like(batch.truth)

    def regression(model: Preconditioned) -> float:
        with torch.no_grad():
            return float(denoising_loss(model, batch.truth, batch.condition, blind, noise).mean())

    before = regression(run.model)
    run.run()
    assert regression(run.model) < 0.7 * before
    assert regression(run.averaged()) < 0.8 * before


def test_the_learning_rate_rises_stays_and_falls_to_zero() -> None:
    schedule = OptimizerConfig(steps=100, lr=1.0, warmup=10, descent=0.4)
    rates = [schedule.rate(step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9:61] == [1.0] * 52
    assert np.diff(rates[60:]).max() < 0
    assert rates[-1] == pytest.approx(1 / 40)
    assert schedule.rate(100) == 0
    assert schedule.rate(50, first=45) == pytest.approx(0.6)
    assert OptimizerConfig(steps=10, lr=1.0, warmup=0, descent=0).rate(9) == 1.0


def test_initial_weights_come_from_the_seed_and_leave_the_global_generator_alone(
    tmp_path: Path, head: np.ndarray
) -> None:
    before = torch.random.get_rng_state()
    first, second = (trainer(tmp_path, tiny_batches(head)) for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(weights(first), weights(second), strict=True))
    other = Trainer(first.objective, first.optimizer, tiny_batches(head), tmp_path, "mine", 1, CPU)
    assert not all(torch.equal(a, b) for a, b in zip(weights(first), weights(other), strict=True))


def test_a_foreign_or_broken_state_is_refused(tmp_path: Path, head: np.ndarray) -> None:
    run = trainer(tmp_path, tiny_batches(head))
    with pytest.raises(CheckpointError):
        run.resume()
    save_state(run.state_path, {}, {"identity": "another", "step": 3})
    with pytest.raises(CheckpointError, match="another configuration"):
        run.resume()
    save_state(run.state_path, {}, {"step": 3})
    with pytest.raises(CheckpointError, match="another configuration"):
        run.resume()
    save_state(run.state_path, {"model": {}}, {"identity": "mine", "step": 3, "first": 0, "history": []})
    with pytest.raises(CheckpointError, match="incomplete"):
        run.resume()


@pytest.mark.parametrize(
    "network",
    [TINY, {"kind": "monai_unet", "channels": [16, 16], "blocks": 1, "groups": 4}],
    ids=["residual", "monai"],
)
def test_what_was_trained_is_exported_and_gone_on_from(
    tmp_path: Path, head: np.ndarray, network: dict[str, object]
) -> None:
    batches = tiny_batches(head, shares=Shares(slices=1))
    run = trainer(tmp_path, batches, steps=2, network=network)
    run.run()
    run.export(tmp_path / "m.safetensors", {"name": "tiny"})
    model, card = load_model(tmp_path / "m.safetensors")
    assert card == {"name": "tiny"}
    condition, sigma = batches[9].condition, torch.full((3,), 0.05)
    torch.testing.assert_close(
        model(condition.reference, sigma, condition),
        run.averaged()(condition.reference, sigma, condition),
        rtol=0,
        atol=1e-3,
    )
    later = trainer(tmp_path, batches, steps=9, network=network)
    later.begin_from(tmp_path / "m.safetensors", step=5)
    assert later.step == 5
    torch.testing.assert_close(weights(later)[0], next(model.parameters()))
    assert later.run()
    assert all(torch.isfinite(tensor).all() for tensor in weights(later))
