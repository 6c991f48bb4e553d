"""The use case *train* on CT planes, end to end: a config in, a model file out, and on from there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from medidiff.config import parse_config
from medidiff.diffusion.checkpoint import load_model
from medidiff.errors import ConfigError
from medidiff.geometry import Geometry
from medidiff.io import write_volume
from medidiff.train import TrainConfig, TrainOptions, identity, train
from medidiff.volume import Modality, Volume

TEXT = """
kind: train
name: tiny-ct
begin_from: {begin}
data:
  root: {root}
  train: [{{files: a.nii.gz}}]
  validation: b.nii.gz
network: {{channels: [8, 8], blocks: 1, split: [2, 2, 1], planar: true}}
projections: {{size: 3, patch: 24, acquisitions: 4, planes: 2, sides: [30, 48], views: [10, 30], {more}}}
validation: {{every: 2, views: 12, planes: 2}}
optimizer: {{steps: 4, warmup: 2}}
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("people")
    for name, width in (("a", 0.8), ("b", 0.7)):
        x, y, _ = np.meshgrid(np.linspace(-1, 1, 44), np.linspace(-1, 1, 40), np.arange(8), indexing="ij")
        hu = np.full(x.shape, -1000.0)
        hu[x**2 + (y / width) ** 2 < 0.9] = -90
        hu[x**2 + (y / width) ** 2 < 0.7] = 50
        hu[x**2 + (y + 0.45) ** 2 < 0.02] = 700
        write_volume(
            Volume(hu[None].astype(np.float32), Geometry(np.eye(4), x.shape), Modality.CT), folder / f"{name}.nii.gz"
        )
    return folder


def config(root: Path, begin: object = "null", more: str = "") -> TrainConfig:
    return parse_config(TEXT.format(root=root, begin=begin, more=more), TrainConfig)


def test_planes_from_few_views_become_a_model_and_that_goes_on_with_later_looks(root: Path, tmp_path: Path) -> None:
    first = train(config(root), TrainOptions(tmp_path / "first", device="cpu"))
    assert first.finished
    assert first.validation_psnr_db is not None
    assert first.baseline_psnr_db is not None
    model, card = load_model(first.model)
    assert model.planar
    assert card["validation"]["views"] == 12
    assert card["patches"] == 12
    second = config(root, first.model, f"looks_from: {first.model}, looks: 2")
    done = train(second, TrainOptions(tmp_path / "second", device="cpu"))
    # The first step is taken from the weights that were given, not from fresh ones.
    begun, _ = load_model(first.model)
    gone_on, _ = load_model(done.model)
    apart = sum(float((a - b).norm()) for a, b in zip(begun.parameters(), gone_on.parameters(), strict=True))
    assert 0 < apart < 0.5 * sum(float(a.norm()) for a in begun.parameters())


def test_a_run_cut_short_and_resumed_ends_with_the_same_weights(root: Path, tmp_path: Path) -> None:
    whole = train(config(root), TrainOptions(tmp_path / "whole", device="cpu"))
    train(config(root), TrainOptions(tmp_path / "parts", device="cpu", max_minutes=0))
    parts = train(config(root), TrainOptions(tmp_path / "parts", device="cpu", resume=True))
    for a, b in zip(load_model(whole.model)[0].parameters(), load_model(parts.model)[0].parameters(), strict=True):
        assert torch.equal(a, b)


def test_what_is_simulated_is_part_of_a_runs_identity(root: Path) -> None:
    assert identity(config(root)) != identity(config(root, more="photons: [1.0e4, 1.0e5]"))


def test_the_validation_person_is_kept_apart(root: Path, tmp_path: Path) -> None:
    given = config(root)
    mixed = given.model_copy(update={"data": given.data.model_copy(update={"validation": "a.nii.gz"})})
    with pytest.raises(ConfigError, match="keep that person apart"):
        train(mixed, TrainOptions(tmp_path / "run", device="cpu"))
