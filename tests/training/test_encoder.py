"""The encoder's training: what a batch shows, and that a stopped run goes on with the same bits."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest

from medidiff.data.cohort import Cohort
from medidiff.errors import CheckpointError
from medidiff.metrics.features import ResNetOptions, load_encoder
from medidiff.models import read_info
from medidiff.training.encoder import EncoderTrainConfig, HeadConfig, Views, train_encoder
from medidiff.training.volumes import Source
from medidiff.volume import Volume

SHAPE = (12, 14, 12)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory, mni: Volume) -> EncoderTrainConfig:
    folder = tmp_path_factory.mktemp("people")
    for number in range(5):
        start = (50 + 12 * number, 90, 70)
        crop = mni.data[0][tuple(slice(s, s + n) for s, n in zip(start, SHAPE, strict=True))]
        nibabel.save(nibabel.Nifti1Image(crop, np.eye(4)), folder / f"p{number}.nii.gz")
    heads = tmp_path_factory.mktemp("heads")
    head = mni.data[0][40:90, 60:110, 40:90]
    nibabel.save(nibabel.Nifti1Image(head, np.eye(4)), heads / "head.nii.gz")
    return EncoderTrainConfig(
        name="tiny",
        people=Cohort(images=folder),
        heads=HeadConfig(root=heads, files=(Source(files="*.nii.gz"),), share=0.4),
        shape=SHAPE,
        margin=2,
        network=ResNetOptions(block_inplanes=(4, 4, 4, 6)),
        scans=3,
        steps=6,
        card={"summary": "for tests"},
    )


def test_a_batch_is_a_function_of_its_step_and_pairs_belong_together(config: EncoderTrainConfig) -> None:
    views = Views(config)
    first, second = views.draw(3)
    again, _ = Views(config).draw(3)
    assert first.shape == second.shape == (6, 1, *SHAPE)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, views.draw(4)[0])
    assert not np.array_equal(first, second)
    # Two views of one scan show the same grey values, moved; two scans do not.
    of_one, of_two = (
        np.abs(np.sort(a.reshape(6, -1).numpy()) - np.sort(b.reshape(6, -1).numpy())).mean()
        for a, b in ((first, second), (first, second.roll(2, 0)))
    )
    assert of_one < of_two


def test_a_stopped_run_goes_on_with_the_same_bits(config: EncoderTrainConfig, tmp_path: Path) -> None:
    whole = train_encoder(config, tmp_path / "whole")
    stopped = train_encoder(config, tmp_path / "parts", max_minutes=0)
    assert stopped.steps == 1
    assert not stopped.finished
    assert read_info(stopped.model).card["steps"] == 1
    parts = train_encoder(config, tmp_path / "parts", resume=True)
    assert whole.steps == parts.steps == 6
    assert whole.finished
    assert whole.model.read_bytes() == parts.model.read_bytes()


def test_features_of_the_people_trained_on_are_standard(config: EncoderTrainConfig, tmp_path: Path) -> None:
    result = train_encoder(config, tmp_path)
    features = load_encoder(result.model).embed(Views(config).clean())
    assert np.abs(features.mean(axis=0)).max() < 0.02
    spread = features.std(axis=0, ddof=1)
    assert ((np.abs(spread - 1) < 0.02) | (spread < 1)).all()  # a feature that is always the same has no spread
    card = read_info(result.model).card
    assert card["steps"] == 6
    assert len(card["training_split_sha256"]) == 64


def test_a_state_of_another_configuration_is_refused(config: EncoderTrainConfig, tmp_path: Path) -> None:
    train_encoder(config, tmp_path, max_minutes=0)
    other = config.model_copy(update={"lr": 1e-4})
    with pytest.raises(CheckpointError, match="another configuration"):
        train_encoder(other, tmp_path, resume=True)
    reworded = config.model_copy(update={"card": {"summary": "another word"}})
    assert train_encoder(reworded, tmp_path, resume=True, max_minutes=0).steps == 2
