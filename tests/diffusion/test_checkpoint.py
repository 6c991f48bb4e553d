"""Model files and training states: what comes back, and what is refused."""

from __future__ import annotations

import json
import pickle
import resource
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from medidiff.diffusion.checkpoint import FORMAT, load_model, load_state, save_model, save_state
from medidiff.diffusion.denoiser import Preconditioned
from medidiff.errors import CheckpointError, OutputError
from medidiff.io.source import file_sha256
from medidiff.models import read_info
from tests.diffusion.networks import random_unet, smooth_condition
from tests.tiny_model import write_tiny_model

NETWORK = {"kind": "residual_unet", "channels": [8, 8], "blocks": 1}
CARD = {"name": "tiny", "licences": ["CC0"], "psnr_db": 31.5}
RAN = Path("ran")


@pytest.fixture(scope="module")
def tensors() -> dict[str, torch.Tensor]:
    return dict(Preconditioned(random_unet()).named_parameters())


@pytest.fixture
def model_file(tmp_path: Path, tensors: dict[str, torch.Tensor]) -> Path:
    path = tmp_path / "tiny.safetensors"
    save_model(path, NETWORK, tensors, CARD)
    return path


@pytest.mark.parametrize(("half", "tolerance"), [(False, 0.0), (True, 2e-3)])
def test_a_model_comes_back_with_its_card(
    tmp_path: Path, tensors: dict[str, torch.Tensor], half: bool, tolerance: float
) -> None:
    save_model(tmp_path / "m.safetensors", NETWORK, tensors, CARD, half=half)
    model, card = load_model(tmp_path / "m.safetensors")
    assert card == CARD
    assert not model.training
    assert not any(p.requires_grad for p in model.parameters())
    condition = smooth_condition((8, 8, 8))
    x, sigma = condition.reference + 0.1, torch.tensor([0.1])
    expected = Preconditioned(random_unet())(x, sigma, condition)
    torch.testing.assert_close(model(x, sigma, condition), expected, rtol=0, atol=tolerance)


def test_a_state_comes_back_bit_by_bit(tmp_path: Path, tensors: dict[str, torch.Tensor]) -> None:
    path = tmp_path / "state.safetensors"
    save_state(path, {"model": tensors, "moment": {"network.a/b": torch.arange(3.0)}}, {"step": 7})
    groups, record = load_state(path)
    assert record == {"step": 7}
    assert set(groups) == {"model", "moment"}
    assert torch.equal(groups["moment"]["network.a/b"], torch.arange(3.0))
    assert all(torch.equal(groups["model"][name], tensor) for name, tensor in tensors.items())


class Harmful:
    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return Path.touch, (RAN,)


def test_a_pickle_is_refused_and_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bad.safetensors").write_bytes(pickle.dumps(Harmful()))
    torch.save({"weight": torch.zeros(2)}, "torch.safetensors")
    for name in ("bad.safetensors", "torch.safetensors"):
        for load in (load_model, load_state):
            with pytest.raises(CheckpointError):
                load(Path(name))
    assert not RAN.exists()


@pytest.mark.parametrize("kept", [0, 5, 8, 200, 0.5, 0.999])
def test_a_file_that_breaks_off_is_refused(model_file: Path, kept: float) -> None:
    whole = model_file.read_bytes()
    model_file.write_bytes(whole[: int(kept * len(whole)) if kept < 1 else int(kept)])
    with pytest.raises(CheckpointError, match=model_file.name):
        load_model(model_file)


def test_a_header_that_claims_to_be_huge_is_refused_before_it_is_read(model_file: Path) -> None:
    content = model_file.read_bytes()
    for claimed in ((1 << 20) + 1, 1 << 40, (1 << 64) - 1):
        model_file.write_bytes(claimed.to_bytes(8, "little") + content[8:])
        with pytest.raises(CheckpointError, match=str(claimed)):
            load_model(model_file)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "none.safetensors", tmp_path):
        with pytest.raises(CheckpointError):
            load_model(path)


def test_a_state_is_no_model_and_other_files_are_neither(tmp_path: Path, model_file: Path) -> None:
    save_state(tmp_path / "s.safetensors", {}, {})
    save_file({"weight": torch.zeros(2)}, tmp_path / "foreign.safetensors")
    with pytest.raises(CheckpointError, match="expected medidiff-model"):
        load_model(tmp_path / "s.safetensors")
    with pytest.raises(CheckpointError, match="expected medidiff-training-state"):
        load_state(model_file)
    with pytest.raises(CheckpointError, match="no format"):
        load_model(tmp_path / "foreign.safetensors")


@pytest.mark.parametrize(
    "network",
    [
        {"kind": "residual_unet", "channels": [8, 16], "blocks": 1},
        {"kind": "residual_unet", "channels": [8, 8, 8], "blocks": 1},
        {"kind": "no-such-network"},
        {"kind": "residual_unet", "depth": 3},
        ["residual_unet"],
    ],
    ids=["wider", "deeper", "unknown", "option", "list"],
)
def test_weights_that_do_not_fit_their_network_are_refused(
    tmp_path: Path, tensors: dict[str, torch.Tensor], network: object
) -> None:
    save_model(tmp_path / "m.safetensors", network, tensors, CARD)  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match="do not fit"):
        load_model(tmp_path / "m.safetensors")


@pytest.mark.parametrize("card", [[], 5, "x", None])
def test_a_card_that_is_no_mapping_is_refused(tmp_path: Path, tensors: dict[str, torch.Tensor], card: object) -> None:
    save_model(tmp_path / "m.safetensors", NETWORK, tensors, card)  # type: ignore[arg-type]
    with pytest.raises(CheckpointError, match="its card is no mapping"):
        load_model(tmp_path / "m.safetensors")
    with pytest.raises(CheckpointError, match="not a model file"):
        read_info(tmp_path / "m.safetensors")


def test_a_header_without_its_parts_is_refused(tmp_path: Path) -> None:
    save_file({"w": torch.zeros(1)}, tmp_path / "m.safetensors", metadata={"format": FORMAT, "network": "{not json"})
    with pytest.raises(CheckpointError):
        load_model(tmp_path / "m.safetensors")


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(model_file: Path) -> None:
    before = file_sha256(model_file)
    with pytest.raises(TypeError):
        save_model(model_file, NETWORK, {"w": torch.zeros(1)}, {"not json": {1, 2}})
    with pytest.raises(Exception, match="memory format"):
        save_model(model_file, NETWORK, {"w": torch.zeros(2, 2).to_sparse()}, CARD)
    assert file_sha256(model_file) == before
    assert [path.name for path in model_file.parent.iterdir()] == [model_file.name]
    with pytest.raises(OutputError):
        save_model(model_file.parent / "no-such-folder" / "m.safetensors", NETWORK, {"w": torch.zeros(1)}, CARD)


def test_a_disk_that_is_full_is_told_as_such_and_the_old_file_stays(model_file: Path) -> None:
    before = file_sha256(model_file)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(OutputError, match="no room left"):
            save_model(model_file, NETWORK, {"w": torch.zeros(10_000)}, CARD)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert file_sha256(model_file) == before
    assert [path.name for path in model_file.parent.iterdir()] == [model_file.name]


def test_the_header_is_readable_without_us(model_file: Path) -> None:
    content = model_file.read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])["__metadata__"]
    assert json.loads(header["network"]) == NETWORK
    assert json.loads(header["card"]) == CARD


def test_weights_that_are_not_finite_are_refused(tmp_path: Path, tensors: dict[str, torch.Tensor]) -> None:
    broken = {name: torch.full_like(w, float("nan")) for name, w in tensors.items()}
    save_model(tmp_path / "nan.safetensors", NETWORK, broken, CARD)
    with pytest.raises(CheckpointError, match="not finite"):
        load_model(tmp_path / "nan.safetensors")


@pytest.mark.parametrize("lie", [{"channels": [60000, 90000]}, {"channels": [8] * 40}, {"blocks": 10**6}])
def test_a_header_that_names_a_huge_network_is_refused_before_it_is_built(
    tmp_path: Path, tensors: dict[str, torch.Tensor], lie: dict[str, object]
) -> None:
    save_model(tmp_path / "lie.safetensors", NETWORK | lie, tensors, CARD)
    with pytest.raises(CheckpointError, match="do not fit") as caught:
        load_model(tmp_path / "lie.safetensors")
    assert "alloc" not in str(caught.value)


def test_equal_weights_and_cards_are_equal_bytes(tmp_path: Path) -> None:
    content = {write_tiny_model(tmp_path / f"{number}.safetensors").read_bytes() for number in range(8)}
    assert len(content) == 1
