"""The use case *train* end to end, on the packaged head: a config in, a model file out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from medidiff.config import parse_config
from medidiff.diffusion.checkpoint import load_model, load_state
from medidiff.errors import CheckpointError, ConfigError
from medidiff.geometry import Geometry
from medidiff.io import write_volume
from medidiff.train import TrainConfig, TrainOptions, identity, train
from medidiff.training.loop import Progress
from medidiff.volume import Volume

TEXT = """
kind: train
name: tiny
data:
  root: {root}
  train: [{{files: a.nii.gz}}]
  validation: b.nii.gz
network: {{channels: [8], blocks: 1}}
batches: {{size: 2, patch: 16, line: 32, operators: 8, factors: [1.5, 5]}}
validation: {{every: 2}}
optimizer: {{steps: 4, warmup: 2}}
card: {{licence: CC0}}
"""


@pytest.fixture(scope="module")
def config(mni: Volume, tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    root = tmp_path_factory.mktemp("people")
    data = np.ascontiguousarray(mni.data[:, ::4, ::4, ::4])
    geometry = Geometry(mni.geometry.affine @ np.diag([4.0, 4, 4, 1]), data.shape[1:])  # type: ignore[arg-type]
    write_volume(Volume(data, geometry), root / "a.nii.gz")
    write_volume(Volume(np.ascontiguousarray(data[:, ::-1]), geometry), root / "b.nii.gz")
    return parse_config(TEXT.format(root=root), TrainConfig)


def test_a_config_becomes_a_model_with_its_scores_on_its_card(config: TrainConfig, tmp_path: Path) -> None:
    told: list[Progress] = []
    done = train(config, TrainOptions(tmp_path / "run", device="cpu"), told.append)
    assert done.finished
    assert done.steps == 4
    assert done.model == tmp_path / "run" / "tiny.safetensors"
    assert [p.step for p in told if p.score is not None] == [2, 4]
    model, card = load_model(done.model)
    assert model.network.multiple == (2, 2, 2)
    assert card["licence"] == "CC0"
    assert card["patches"] == 8
    assert card["validation"]["psnr_db"] == done.validation_psnr_db
    assert card["validation"]["cubic_plus_projection_psnr_db"] == done.baseline_psnr_db
    assert done.baseline_psnr_db is not None
    assert done.baseline_psnr_db > 15

    # A run that is done has nothing left to do when it is asked to go on.
    again = train(config, TrainOptions(tmp_path / "run", device="cpu", resume=True))
    assert again.steps == 4
    assert load_state(tmp_path / "run" / "state.safetensors")[1]["step"] == 4
    assert torch.equal(next(load_model(again.model)[0].parameters()), next(model.parameters()))

    other = config.model_copy(update={"seed": 1})
    with pytest.raises(CheckpointError, match="another configuration"):
        train(other, TrainOptions(tmp_path / "run", device="cpu", resume=True))


def test_what_changes_the_weights_changes_the_identity(config: TrainConfig) -> None:
    def changed(**update: object) -> str:
        return identity(config.model_copy(update=update))

    same = {"card": {"note": "x"}, "data": config.data.model_copy(update={"root": Path("elsewhere")})}
    assert changed(**same) == identity(config)
    for update in (
        {"seed": 3},
        {"network": config.network.model_copy(update={"blocks": 2})},
        {"batches": config.batches.model_copy(update={"size": 5})},
        {"path": config.path.model_copy(update={"blind_share": 1.0})},
        {"optimizer": config.optimizer.model_copy(update={"lr": 1e-3})},
        {"data": config.data.model_copy(update={"train": (*config.data.train, *config.data.train)})},
    ):
        assert changed(**update) != identity(config), update


def test_the_person_of_the_validation_may_not_be_trained_on(config: TrainConfig, tmp_path: Path) -> None:
    leaking = config.model_copy(update={"data": config.data.model_copy(update={"validation": "a.nii.gz"})})
    with pytest.raises(ConfigError, match="also a training file"):
        train(leaking, TrainOptions(tmp_path / "run", device="cpu"))
    assert not (tmp_path / "run").exists()


def test_missing_data_is_named(config: TrainConfig, tmp_path: Path) -> None:
    source = config.data.train[0].model_copy(update={"files": "nobody*.nii"})
    empty = config.model_copy(update={"data": config.data.model_copy(update={"train": (source,)})})
    with pytest.raises(ConfigError, match=r"nobody\*"):
        train(empty, TrainOptions(tmp_path / "run", device="cpu"))


@pytest.mark.parametrize("name", ["../evil", "a/b", "A", ""])
def test_a_name_that_is_no_file_name_is_refused(config: TrainConfig, name: str) -> None:
    with pytest.raises(ValidationError):
        TrainConfig.model_validate({**config.model_dump(), "name": name})
