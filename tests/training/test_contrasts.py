"""Pairs of contrasts: the network is given one, told which other is wanted, and truth and given show one place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from medidiff.errors import ConfigError
from medidiff.generation.translate import BRIGHT, Translator
from medidiff.geometry import Geometry
from medidiff.io import write_volume
from medidiff.train import TrainConfig, TrainOptions, identity, train
from medidiff.training.contrasts import ContrastBatches, ContrastConfig, load_person
from medidiff.volume import Volume

SHAPE = (24, 26, 22)
PERSON = {"T1": "t1.nii.gz", "FLAIR": "flair.nii.gz"}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two scans that determine each other: the second is the first turned upside down in brightness."""
    folder = tmp_path_factory.mktemp("contrasts")
    rng = np.random.default_rng(0)
    blobs = np.zeros(SHAPE, np.float32)
    blobs[3:-3, 3:-3, 3:-3] = np.kron(rng.uniform(0.2, 0.8, (6, 5, 4)), np.ones((3, 4, 4)))
    grid = Geometry(np.diag([-1.0, 1.0, 1.0, 1.0]), SHAPE)
    write_volume(Volume((1000 * blobs)[None], grid), folder / "t1.nii.gz")
    write_volume(Volume((700 * (1 - blobs) * (blobs > 0))[None], grid), folder / "flair.nii.gz")
    return folder


def batches(root: Path, **options: Any) -> ContrastBatches:
    config = ContrastConfig(**({"people": (PERSON,), "size": 4, "patch": 16, "gain": 0.0} | options))
    return ContrastBatches([load_person(root, PERSON, torch.device("cpu"))], config, seed=0)


def test_given_and_wanted_show_the_same_place(root: Path) -> None:
    found = batches(root, told=1.0)
    seen = set()
    for step in range(3):
        batch = found[step]
        for truth, given, task in zip(batch.truth, batch.condition.known, batch.condition.task, strict=True):
            inside = (truth > 0.05) & (given > 0.05)
            assert float(torch.corrcoef(torch.stack([truth[inside], given[inside]]))[0, 1]) < -0.99
            wanted = int(task.argmax())
            # The contrasts are told in the order of their names; T1 is the brighter one where the head is bright.
            assert float(task.sum()) == 1
            seen.add(wanted)
        assert not batch.condition.reference.any()
    assert seen == {0, 1}
    assert found.config.contrasts == ("FLAIR", "T1")


def test_a_step_is_the_same_whenever_it_is_drawn(root: Path) -> None:
    one, two = batches(root), batches(root)
    assert torch.equal(one[5].truth, two[5].truth)
    assert torch.equal(one[5].condition.known, two[5].condition.known)
    assert not torch.equal(one[5].truth, one[6].truth)


def test_the_network_is_not_always_told(root: Path) -> None:
    told = torch.cat([batches(root, told=0.5, size=16)[step].condition.task.sum(1) for step in range(4)])
    assert 0.2 < float(told.mean()) < 0.8


def test_people_that_do_not_fit_are_refused(root: Path, tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="the same 2 to 7 contrasts"):
        ContrastConfig(people=({"T1": "a"},))
    with pytest.raises(ValidationError, match="the same 2 to 7 contrasts"):
        ContrastConfig(people=(PERSON, {"T1": "a", "T2": "b"}))
    write_volume(Volume(np.ones((1, *SHAPE), np.float32), Geometry(np.eye(4), SHAPE)), tmp_path / "moved.nii")
    with pytest.raises(ConfigError, match="another grid"):
        load_person(root, {"FLAIR": "flair.nii.gz", "T1": str(tmp_path / "moved.nii")}, torch.device("cpu"))


def config(root: Path, steps: int) -> TrainConfig:
    return TrainConfig.model_validate(
        {
            "name": "tiny",
            "data": {"root": str(root)},
            "contrasts": {"people": [PERSON], "size": 8, "patch": 16},
            "network": {"channels": [16, 16], "blocks": 1},
            "optimizer": {"steps": steps, "lr": 4e-3, "warmup": 5, "ema": 0.9},
            "path": {"blind_share": 0.75},
        }
    )


def test_what_is_trained_translates(root: Path, tmp_path: Path) -> None:
    train(config(root, 240), TrainOptions(output=tmp_path, device="cpu"))
    translator = Translator.load(tmp_path / "tiny.safetensors")
    assert translator.contrasts == ("FLAIR", "T1")
    person = load_person(root, PERSON, torch.device("cpu"))
    flair, t1 = (x.float().numpy() for x in person.images)
    grid = Geometry(np.diag([1.0, 1.0, 1.0, 1.0]), SHAPE)
    scan = Volume(t1[None], grid)
    made = translator(scan, "FLAIR")
    inside = flair > 0.05
    assert np.corrcoef(made.data[0][inside] / BRIGHT, flair[inside])[0, 1] > 0.5
    assert np.corrcoef(t1[inside], flair[inside])[0, 1] < -0.9
    assert not made.data[0][t1 <= 0].any()
    drawn = translator(scan, "FLAIR", steps=2, seed=1)
    assert not np.array_equal(drawn.data, made.data)
    assert np.array_equal(drawn.data, translator(scan, "FLAIR", steps=2, seed=1).data)
    with pytest.raises(ConfigError, match="knows FLAIR, T1, not 'T2'"):
        translator(scan, "T2")


def test_a_config_names_its_scans_once(root: Path) -> None:
    good = config(root, 3).model_dump()
    assert identity(TrainConfig.model_validate(good)) != identity(TrainConfig.model_validate(good | {"bfloat16": True}))
    with pytest.raises(ValidationError, match=r"leave out data\.train"):
        TrainConfig.model_validate(good | {"data": {"root": str(root), "train": [{"files": "*.nii"}]}})
    with pytest.raises(ValidationError, match="names no scan"):
        TrainConfig.model_validate(good | {"contrasts": None})
