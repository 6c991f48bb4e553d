"""Training in several processes: the curve of one, nothing lost when a process dies, and no silent loneliness."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from medidiff.diffusion.checkpoint import load_model, load_state
from medidiff.errors import ConfigError
from medidiff.training.distributed import FabricTeam, ProcessesConfig, join_team
from tests.training.killable import STEPS, make_trainer
from tests.training.team import DIES_AFTER

pytest.importorskip("lightning_fabric", reason="training in several processes needs the extra `distributed`")
REPOSITORY = Path(__file__).parents[2]


def torchrun(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", *arguments]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture(scope="module")
def runs(head: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One run in one process, and the runs of ``tests.training.team`` in two; the batch of 3 is not even."""
    folder = tmp_path_factory.mktemp("runs")
    for name in ("alone", "straight", "killed", "split"):
        (folder / name).mkdir()
        np.save(folder / name / "head.npy", head)
    assert make_trainer(folder / "alone").run(report_every=1)
    died = torchrun("tests.training.team", "die", str(folder))
    assert died.returncode != 0
    (folder / "died.txt").write_text(died.stderr)
    (folder / "step.txt").write_text(str(load_state(folder / "killed" / "state.safetensors")[1]["step"]))
    for task in ("finish", "split"):
        finished = torchrun("tests.training.team", task, str(folder))
        assert finished.returncode == 0, finished.stderr
    return folder


def curve(folder: Path) -> np.ndarray:
    return np.loadtxt(folder / "curve.csv", delimiter=",", skiprows=1, usecols=(0, 1))


def tensors(folder: Path) -> dict[tuple[str, str], Tensor]:
    groups, record = load_state(folder / "state.safetensors")
    assert record["step"] == STEPS
    return {(group, name): tensor for group, members in groups.items() for name, tensor in members.items()}


@pytest.mark.parametrize("kind", ["straight", "split"])
def test_two_processes_have_the_loss_curve_of_one(runs: Path, kind: str) -> None:
    expected, found = curve(runs / "alone"), curve(runs / kind)
    assert len(found) == STEPS
    # The curve is written with 6 decimals; gradients are added in another order.
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=2e-6)
    assert np.ptp(expected[:, 1]) > 0.05
    wanted = tensors(runs / "alone")
    for key, tensor in tensors(runs / kind).items():
        torch.testing.assert_close(tensor, wanted[key], rtol=1e-3, atol=1e-5)


def test_a_process_that_dies_ends_all_with_a_line_and_a_whole_state(runs: Path) -> None:
    assert "another process of this run has ended" in (runs / "died.txt").read_text()
    assert int((runs / "step.txt").read_text()) == DIES_AFTER


def test_the_resumed_run_of_two_ends_with_the_bits_of_the_straight_one(runs: Path) -> None:
    wanted = tensors(runs / "straight")
    found = tensors(runs / "killed")
    assert set(found) == set(wanted)
    assert all(torch.equal(tensor, wanted[key]) for key, tensor in found.items())


def test_split_weights_are_put_together_for_the_model_file(runs: Path) -> None:
    model, _ = load_model(runs / "split" / "model.safetensors")
    other, _ = load_model(runs / "straight" / "model.safetensors")
    for found, wanted in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-2, atol=1e-3)


def test_one_process_where_the_config_wants_two_is_refused() -> None:
    with pytest.raises(ConfigError, match="torchrun --nproc-per-node 2"), join_team(ProcessesConfig(count=2)):
        pass
    with join_team(ProcessesConfig(count=1), "cpu") as team:
        assert team.size == 1


@pytest.mark.parametrize("name", ["toaster", "meta", "cuda:99"])
def test_a_device_that_is_none_is_refused_in_words(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name}.*cpu"), join_team(ProcessesConfig(), name):
        pass


def test_many_lonely_processes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(ConfigError, match="each would train by itself"), join_team(ProcessesConfig()):
        pass
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    with pytest.raises(ConfigError, match="device of its own"), join_team(ProcessesConfig(), "cuda:1"):
        pass


class Ranks:
    """What a team asks of Fabric before it trains."""

    device = torch.device("cpu")

    def __init__(self, rank: int, size: int) -> None:
        self.global_rank, self.world_size = rank, size


@pytest.mark.parametrize(("count", "size"), [(8, 2), (7, 3), (5, 5), (9, 4)])
def test_every_item_of_a_batch_is_seen_by_one_process(count: int, size: int) -> None:
    shares = [FabricTeam(Ranks(rank, size)).share(count) for rank in range(size)]  # type: ignore[arg-type]
    seen = [item for share in shares for item in range(count)[share]]
    assert seen == list(range(count))
    assert all(share.stop > share.start for share in shares)


def test_a_batch_smaller_than_the_team_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least one item"):
        FabricTeam(Ranks(0, 4)).share(3)  # type: ignore[arg-type]
