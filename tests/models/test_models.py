"""Models that ship: listed from their headers, and never trusted to be what they are called."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from medidiff import __version__, models
from medidiff.diffusion.checkpoint import save_model
from medidiff.errors import CheckpointError
from medidiff.models import find_model, read_info, shipped_models

NETWORK = {"kind": "residual_unet", "channels": [8, 8], "blocks": 1, "split": [2, 2, 2]}
CARD = {"summary": "for tests", "data": {"licence": "CC0"}}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "small.safetensors"
    save_model(path, NETWORK, {"a": torch.zeros(2, 3, 4), "b": torch.zeros(5), "c": torch.tensor(1.0)}, CARD)
    return path


def test_the_header_says_what_was_saved(model: Path) -> None:
    info = read_info(model)
    assert (info.name, info.parameters, info.size) == ("small", 2 * 3 * 4 + 5 + 1, model.stat().st_size)
    assert (info.network, info.card, info.version) == (NETWORK, CARD, __version__)
    assert shipped_models(model.parent) == [info]


@pytest.mark.parametrize("keep", [0, 7, 8, 40])
def test_a_truncated_file_is_refused(model: Path, keep: int) -> None:
    model.write_bytes(model.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match="not a model file"):
        read_info(model)


@pytest.mark.parametrize(
    "header", [{}, [], {"__metadata__": {}}, {"__metadata__": {"network": "{}", "card": "3", "medidiff": "1"}}]
)
def test_a_foreign_file_is_refused(tmp_path: Path, header: object) -> None:
    text = json.dumps(header).encode()
    path = tmp_path / "foreign.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    with pytest.raises(CheckpointError, match="not a model file"):
        read_info(path)


def test_a_header_larger_than_the_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "liar.safetensors"
    path.write_bytes((2**40).to_bytes(8, "little") + b"{}")
    with pytest.raises(CheckpointError, match="claims 1099511627776 bytes"):
        read_info(path)


def test_a_model_is_found_by_path_or_by_name(model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert find_model(model) == model
    monkeypatch.setattr(models, "FOLDER", tmp_path)
    assert find_model("small") == model
    with pytest.raises(CheckpointError, match=r"no model tiny.*\(small\)"):
        find_model("tiny")


def test_a_name_cannot_leave_the_folder(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inner = model.parent / "inner"
    inner.mkdir()
    monkeypatch.setattr(models, "FOLDER", inner)
    with pytest.raises(CheckpointError, match="no model"):
        find_model("../small")


def test_listing_loads_no_torch() -> None:
    script = (
        "import sys; from medidiff.models import shipped_models; shipped_models(); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_every_model_that_ships_has_a_whole_card() -> None:
    for info in shipped_models():
        assert info.size < 15e6, f"{info.name} is too heavy for a wheel"
        missing = {"summary", "data", "licences", "limits", "validation"} - set(info.card)
        assert not missing, f"the card of {info.name} does not say {missing}"


def test_a_header_nested_without_end_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "deep.safetensors"
    text = b"[" * 100_000
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    with pytest.raises(CheckpointError, match="not a model file"):
        read_info(path)


def test_a_scan_given_as_a_model_is_not_quoted(tmp_path: Path) -> None:
    path = tmp_path / "scan.nii"
    path.write_bytes((348).to_bytes(8, "little") + b"Quillfeather^Rosamund".ljust(400))
    with pytest.raises(CheckpointError) as caught:
        read_info(path)
    assert "Quill" not in str(caught.value)
