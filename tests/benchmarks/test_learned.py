"""The learned methods go through the library: an untrained network must give back the strong baseline."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.superresolution import learned
from benchmarks.superresolution.cases import Case
from medidiff.diffusion.checkpoint import save_model
from medidiff.diffusion.denoiser import Preconditioned
from medidiff.diffusion.network import build_network
from medidiff.volume import Volume

NETWORK = {"kind": "residual_unet", "channels": [8, 16], "blocks": 1}
SHAPE = (30, 37, 41)


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network whose last layer is zero, as every new one's is: it adds nothing to its reference."""
    path = tmp_path_factory.mktemp("model") / "untrained.safetensors"
    torch.manual_seed(0)
    model = Preconditioned(build_network(**NETWORK))
    save_model(path, NETWORK, model.state_dict(), {"name": "brain-t1"})
    return path


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_an_untrained_network_is_the_strong_baseline(untrained: Path, mni: Volume, axis: int) -> None:
    head = torch.from_numpy(mni.data[:, 70:100, 90:127, 80:121].copy())[None]
    operator = Case(4.0, "gaussian", axis).operator(SHAPE)
    y = operator.forward(head)
    found = {name: method for name, method, _ in learned.methods(str(untrained), str(untrained))}
    assert set(found) == {"medidiff", "plain regression"}
    for method in found.values():
        torch.testing.assert_close(method(operator, y), operator.reference(y), atol=0.05, rtol=1e-3)


def test_a_trained_network_is_used(untrained: Path, tmp_path: Path, mni: Volume) -> None:
    """With a last layer that is not zero the result changes, and still agrees with the slices."""
    model = Preconditioned(build_network(**NETWORK))
    torch.nn.init.normal_(model.network.leave.weight, std=0.1)  # type: ignore[union-attr, arg-type]
    save_model(tmp_path / "m.safetensors", NETWORK, model.state_dict(), {"name": "m"})
    head = torch.from_numpy(mni.data[:, 70:100, 90:127, 80:121].copy())[None]
    operator = Case(4.0, "box", 2).operator(SHAPE)
    y = operator.forward(head)
    ((_, method, version),) = learned.methods(str(tmp_path / "m.safetensors"), None)
    x = method(operator, y)
    assert float((x - operator.reference(y)).abs().mean()) > 0.1
    torch.testing.assert_close(operator.forward(x), y, atol=0.05, rtol=1e-3)
    assert version != learned.version(untrained)


def test_what_a_model_was_trained_on_is_read_from_its_config(untrained: Path, tmp_path: Path) -> None:
    assert "head-t1-dcm-qa-uih/uih-a_T1w_1mm.nii.gz" in learned.training_files(str(untrained))
    save_model(tmp_path / "own.safetensors", NETWORK, {}, {"name": "own"})
    assert learned.training_files(str(tmp_path / "own.safetensors")) == []
