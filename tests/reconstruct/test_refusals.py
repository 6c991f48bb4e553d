"""What cannot be restored, and options that make no sense: one typed error, and nothing is written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medidiff.errors import CheckpointError, ConfigError, GeometryError, InputError, OutputError
from medidiff.io import write_volume
from medidiff.reconstruct import ReconstructOptions, reconstruct
from medidiff.volume import Modality, Volume
from tests.reconstruct.scans import CASES, scan


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"model": "no-such"}, CheckpointError, "no model no-such"),
        ({"device": "cuda:99"}, ConfigError, "cuda:99"),
        ({"preview": "out.nii"}, OutputError, "two results"),
        ({"report": "out.json"}, OutputError, "two results"),
        ({"report": "scan.nii"}, OutputError, "it is the input"),
        ({"spacing": 0.01}, GeometryError, "scan.nii: the result would have"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_written(
    options: dict[str, Any],
    error: type[Exception],
    words: str,
    model: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_volume(scan(CASES["axial"].geometry), "scan.nii")
    places = {key: Path(value) for key, value in options.items() if key in ("preview", "report")}
    with pytest.raises(error, match=words):
        reconstruct(Path("scan.nii"), Path("out.nii"), ReconstructOptions(**({"model": model} | options | places)))
    assert [path.name for path in tmp_path.iterdir()] == ["scan.nii"]


@pytest.mark.parametrize(
    "options",
    [
        {"samples": -1},
        {"steps": 0},
        {"spacing": 0.0},
        {"spacing": float("nan")},
        {"thickness": -3.0},
        {"thickness": float("inf")},
        {"device": "tpu"},
        {"fast": True, "model": "brain-t1"},
        {"fast": True, "samples": 2},
        {"fast": True, "denoise": True},
    ],
)
def test_options_that_make_no_sense(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="--"):
        ReconstructOptions(**options)


def test_labels_and_ct_are_not_for_this_prior(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    geometry = CASES["axial"].geometry
    labels = Volume((scan(geometry).data > 500).astype(np.float32), geometry, Modality.LABEL)
    write_volume(labels, tmp_path / "labels.nii")
    with pytest.raises(InputError, match="label map"):
        reconstruct(tmp_path / "labels.nii", None, ReconstructOptions(model=model))
    write_volume(Volume(scan(geometry).data - 1000, geometry, Modality.CT), tmp_path / "ct.nii")
    reconstruct(tmp_path / "ct.nii", None, ReconstructOptions(model=model))  # one's own model, one's own choice
    monkeypatch.setattr("medidiff.models.FOLDER", Path(model).parent)
    with pytest.raises(InputError, match="this is CT"):
        reconstruct(tmp_path / "ct.nii", None, ReconstructOptions(model="tiny"))


def test_a_model_that_gives_nonsense_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights that are finite in the file and overflow in use."""
    from medidiff.diffusion.checkpoint import save_model
    from medidiff.diffusion.network import build_network

    network = {"kind": "residual_unet", "channels": [8, 8], "blocks": 1, "split": [2, 2, 2]}
    weights = {f"network.{name}": torch.full_like(w, 6e4) for name, w in build_network(**network).state_dict().items()}
    save_model(tmp_path / "wild.safetensors", network, weights, {})
    write_volume(scan(CASES["axial"].geometry), tmp_path / "a.nii")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match="not finite"):
        reconstruct(Path("a.nii"), Path("b.nii"), ReconstructOptions(model="wild.safetensors"))
    assert not Path("b.nii").exists()
