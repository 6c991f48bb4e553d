"""Training generators: what a batch holds, what the loss counts, and a run that is resumed to the same bits."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch

from medidiff.config import load_config
from medidiff.data.cohort import Cohort, load_people, people
from medidiff.diffusion.generator import CategoricalCondition, GenerativeModel, NumericCondition, load_generator
from medidiff.diffusion.network import build_network
from medidiff.errors import ConfigError
from medidiff.generation.codes import LabelCodec
from medidiff.train import TrainOptions, train
from medidiff.training.generative import (
    BLOCKS,
    IMAGE_WEIGHT,
    WHOLE,
    GenerativeTrainConfig,
    GeneratorNetwork,
    HeldOut,
    NoiseConfig,
    generative_loss,
    identity,
)
from medidiff.training.generative_data import GenerativeBatches, ItemConfig, WarpConfig
from medidiff.training.generative_spec import Column, LabelName, LabelShare, LabelVolume, measure_spec
from medidiff.training.loop import OptimizerConfig
from tests.tiny_generator import SHAPE, SPEC, made_up_people, tiny_model

CPU = torch.device("cpu")
NAMES = (LabelName(value=1, name="front"), LabelName(value=2, name="back"))
SOURCES = (LabelVolume(values=(1, 2)), LabelShare(name="front_share", value=1))
STILL = WarpConfig(share=0, shift=0)


def batches(count: int = 6, **config: Any) -> GenerativeBatches:
    everybody = made_up_people(count)
    spec = measure_spec(everybody, NAMES, SOURCES, suffix="T1w")
    return GenerativeBatches(everybody, spec, SOURCES, ItemConfig(**{"size": 3} | config), 0, CPU)


def test_a_batch_is_the_same_whenever_it_is_drawn() -> None:
    one, other = batches(), batches()
    other[0]
    for name in ("vector", "inside", "labels", "labels_given", "warped"):
        assert torch.equal(getattr(one[3].conditions, name), getattr(other[3].conditions, name))
    assert torch.equal(one[3].truth, other[3].truth)
    assert not torch.equal(one[3].truth, one[4].truth)


def test_everybody_is_seen_once_in_an_epoch() -> None:
    drawn = batches(count=6, size=3, warp=STILL)
    for epoch in range(3):
        seen = [tuple(item[0].flatten()[:50].tolist()) for step in (0, 1) for item in drawn[2 * epoch + step].truth]
        assert len(set(seen)) == 6


def test_what_is_not_bent_is_the_person_as_it_is() -> None:
    drawn = batches(warp=STILL)
    originals = [item.channels for item in drawn.items]
    batch = drawn[0]
    assert batch.conditions.warped.tolist() == [0, 0, 0]
    for item in batch.truth:
        assert any(torch.equal(item, original) for original in originals)


def test_channels_have_unit_variance_and_mean_zero_over_acquired_voxels() -> None:
    drawn = batches(warp=STILL)
    inside = torch.stack([item.inside for item in drawn.items]).bool()
    for channel in range(3):
        values = torch.stack([item.channels[[channel]] for item in drawn.items])[inside]
        assert abs(float(values.mean())) < 1e-3
        assert abs(float(values.std()) - 1) < 1e-3


def test_what_is_bent_is_marked_and_its_label_map_moves_with_its_image() -> None:
    drawn = batches(warp=WarpConfig(share=1.0))
    codec = LabelCodec.of(drawn.spec)
    originals = [item.channels for item in drawn.items]
    batch = drawn[0]
    assert batch.conditions.warped.tolist() == [1, 1, 1]
    for channels, inside in zip(batch.truth, batch.conditions.inside[:, 0].bool(), strict=True):
        assert not any(torch.equal(channels, original) for original in originals)
        labels = torch.from_numpy(codec.decode(channels[1:].numpy()))
        # Lobes are bright on a dark ground: where a bent map says lobe, the bent image must be brighter.
        assert channels[0][inside & (labels == 1)].mean() > channels[0][inside & (labels == 0)].mean() + 1


@pytest.mark.parametrize("warp", [STILL, WarpConfig(share=1.0)], ids=["still", "bent"])
def test_an_item_is_told_the_volume_that_it_shows(warp: WarpConfig) -> None:
    drawn = batches(drop=0, drop_all=0, warp=warp)
    codec, (volume, share) = LabelCodec.of(drawn.spec), drawn.spec.conditions
    assert isinstance(volume, NumericCondition)
    assert isinstance(share, NumericCondition)
    batch = drawn[1]
    for channels, told in zip(batch.truth, batch.conditions.vector, strict=True):
        labels = codec.decode(channels[1:].numpy())
        ml = (labels > 0).sum() * math.prod(SPEC.spacing_mm) / 1000
        front = (labels == 1).sum() / (labels > 0).sum()
        expected = [*volume.encode(ml), *share.encode(front)]
        assert told.tolist() == pytest.approx(expected, abs=0.6)


def test_conditions_and_maps_are_left_out_as_often_as_the_config_says() -> None:
    drawn = batches(size=60, drop=0.3, drop_all=0.2, labels_given=0.4, warp=STILL)
    conditions = drawn[0].conditions
    known = conditions.vector[:, [1, 3]]
    assert abs(float(known.mean()) - 0.8 * 0.7) < 0.15
    assert abs(float(conditions.labels_given.mean()) - 0.4) < 0.2
    untold = conditions.labels_given == 0
    assert conditions.labels[untold].abs().max() == 0
    assert torch.equal(conditions.labels[~untold], drawn[0].truth[~untold][:, 1:])


def test_a_specification_tells_no_single_persons_value() -> None:
    everybody = made_up_people(40)
    spec = measure_spec(everybody, NAMES, SOURCES, suffix="T1w")
    volume = spec.conditions[0]
    assert isinstance(volume, NumericCondition)
    assert everybody.labels is not None
    each = (everybody.labels > 0).sum(axis=(1, 2, 3, 4)) * math.prod(SPEC.spacing_mm) / 1000
    assert each.min() < volume.low < volume.mean < volume.high < each.max()


def test_label_classes_without_label_maps_are_refused() -> None:
    from dataclasses import replace

    with pytest.raises(ConfigError, match="not everybody has a label map"):
        measure_spec(replace(made_up_people(2), labels=None), NAMES, (), suffix="T1w")


@pytest.fixture
def table(tmp_path: Path) -> Path:
    rows = ["participant\tage\tsex\tcontrast"]
    rows += [
        f"p{n}\t{'n/a' if n == 2 else 20 + n}\t{'F' if n % 2 else 'M'}\t{'dark' if n < 6 else 'bright'}"
        for n in range(12)
    ]
    path = tmp_path / "people.tsv"
    path.write_text("\n".join(rows) + "\n")
    return path


def test_age_and_sex_come_from_a_table_and_may_be_missing(table: Path) -> None:
    sources = (
        Column(name="age", table=table, column="age", number=True),
        Column(name="sex", table=table, column="sex"),
    )
    everybody = made_up_people(12)
    spec = measure_spec(everybody, NAMES, sources, suffix="T1w")
    age, sex = spec.conditions
    assert isinstance(age, NumericCondition)
    assert age.mean == pytest.approx(np.mean([20 + n for n in range(12) if n != 2]))
    assert isinstance(sex, CategoricalCondition)
    assert sex.values == ("F", "M")
    config = ItemConfig(size=12, drop=0, drop_all=0, warp=STILL)
    vectors = GenerativeBatches(everybody, spec, sources, config, 0, CPU)[0].conditions.vector
    assert int((vectors[:, 1] == 0).sum()) == 1, "one age is missing"
    assert vectors[:, 2:].sum(0).tolist() == [6, 6]


@pytest.mark.parametrize(
    ("column", "number", "message"), [("weight", False, "column 'weight'"), ("sex", True, "expected numbers")]
)
def test_a_table_that_does_not_fit_is_refused(table: Path, column: str, number: bool, message: str) -> None:
    source = Column(name="x", table=table, column=column, number=number)
    with pytest.raises(ConfigError, match=message):
        measure_spec(made_up_people(12), NAMES, (source,), suffix="T1w")


@pytest.mark.parametrize("sigma", [0.1, 1.0, 20.0])
def test_every_noise_level_weighs_the_same(sigma: float) -> None:
    """A network that says nothing is wrong by exactly the variance of its target, 1 for white unit data."""
    model = tiny_model(size=0.0)
    x0, noise = (torch.randn(4, 3, *SHAPE, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    loss = generative_loss(model, x0, model.conditions([{}] * 4), torch.full((4,), sigma), noise)
    assert loss.shape == (4,)
    torch.testing.assert_close(loss, torch.ones(4), rtol=0.05, atol=0)


def test_the_loss_counts_what_was_acquired() -> None:
    model = tiny_model()
    inside = torch.zeros(1, 1, *SHAPE)
    inside[..., 3:12, 3:15, 2:9] = 1
    x0 = torch.randn(1, 3, *SHAPE, generator=torch.Generator().manual_seed(4))
    noise, sigma = torch.randn(x0.shape, generator=torch.Generator().manual_seed(5)), torch.ones(1)

    def loss(clean: torch.Tensor) -> float:
        told = model.conditions([{}], inside=inside)
        return float(generative_loss(model, clean, told, sigma, noise)[0])

    elsewhere = torch.where(inside > 0, x0, 9.0)
    assert loss(elsewhere) == pytest.approx(loss(x0), rel=1e-5)
    there = x0.clone()
    there[:, 1:, 5, 5, 5] += 9
    assert abs(loss(there) / loss(x0) - 1) > 1e-3


def test_given_label_channels_are_no_target() -> None:
    model = tiny_model(size=0.0)
    x0, noise = (torch.randn(2, 3, *SHAPE, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    x0[:, 1:] *= 10
    told = model.conditions([{}, {}], labels=x0[:, 1:])
    loss = generative_loss(model, x0, told, torch.ones(2), noise)
    torch.testing.assert_close(loss, torch.ones(2), rtol=0.1, atol=0)


def test_blocks_add_what_they_have_in_common_and_not_their_details() -> None:
    model = tiny_model(size=0.0)
    # At sigma 1 the target of a silent network is (image - noise) / sqrt(2).
    noise, sigma, told = torch.zeros(1, 3, *SHAPE), torch.ones(1), model.conditions([{}])
    even = torch.full((1, 3, *SHAPE), 2**0.5)
    checks = even * (torch.arange(SHAPE[2]) % 2 * 2 - 1)  # no mean over blocks

    def of_blocks(image: torch.Tensor) -> float:
        plain, both = (float(generative_loss(model, image, told, sigma, noise, blocks=blocks)) for blocks in (0, 1))
        return both - plain

    counted = (IMAGE_WEIGHT**2 + 2) / 3  # of one image and two label channels
    assert of_blocks(even) == pytest.approx(counted * (WHOLE + sum(weight for _, weight in BLOCKS)), rel=1e-4)
    assert of_blocks(checks) == pytest.approx(0, abs=1e-4)


def test_noise_levels_are_log_normal_and_spread_over_a_batch() -> None:
    config = NoiseConfig(mean=0.5, std=1.2, low=0.001, high=1e4)
    generator = torch.Generator().manual_seed(0)
    logs = torch.cat([config.draw(8, generator).log() for _ in range(400)])
    assert float(logs.mean()) == pytest.approx(0.5, abs=0.05)
    assert float(logs.std()) == pytest.approx(1.2, rel=0.05)
    for _ in range(20):
        assert (config.draw(8, generator).log() > 0.5).sum() == 4, "half of every batch lies above the median"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """People as files: images and label maps of the same names."""
    place = tmp_path_factory.mktemp("people")
    everybody = made_up_people(5)
    assert everybody.labels is not None
    for kind, data in (("images", everybody.images), ("labels", everybody.labels)):
        (place / kind).mkdir()
        for number, each in enumerate(data[:, 0]):
            image = nibabel.Nifti1Image(each, everybody.geometry.affine)
            nibabel.save(image, place / kind / f"p{number}.nii.gz")
    return place


def run_config(folder: Path, **more: Any) -> GenerativeTrainConfig:
    return GenerativeTrainConfig.model_validate(
        {
            "name": "tiny",
            "people": Cohort(images=folder / "images", labels=folder / "labels", first=4),
            "shape": SHAPE,
            "labels": NAMES,
            "conditions": SOURCES,
            "network": GeneratorNetwork(channels=(8, 8)),
            "items": ItemConfig(size=2),
            "optimizer": OptimizerConfig(steps=6, lr=3e-3, warmup=2),
            "card": {"summary": "for tests"},
            **more,
        }
    )


def test_a_run_that_was_stopped_ends_with_the_same_bits(folder: Path, tmp_path: Path) -> None:
    config = run_config(folder)
    whole = train(config, TrainOptions(tmp_path / "whole", device="cpu"))
    for _ in range(6):
        parts = train(config, TrainOptions(tmp_path / "parts", resume=True, device="cpu", max_minutes=0))
    assert (whole.finished, parts.finished, parts.steps) == (True, True, 6)
    assert whole.model.read_bytes() == parts.model.read_bytes()


def test_the_file_that_comes_out_is_a_generator_with_its_card(folder: Path, tmp_path: Path) -> None:
    held_out = HeldOut(people=Cohort(images=folder / "images", labels=folder / "labels", last=1), every=3)
    result = train(run_config(folder, held_out=held_out), TrainOptions(tmp_path / "run", device="cpu"))
    model, card = load_generator(result.model)
    assert model.spec.shape == SHAPE
    assert (card["summary"], card["people"], card["steps"], card["items"]) == ("for tests", 4, 6, 12)
    from medidiff.data.cohort import split_sha256

    assert card["training_split_sha256"] == split_sha256(people(run_config(folder).people))
    assert result.validation_psnr_db is None
    assert result.held_out_loss is not None
    assert card["validation"]["held_out_loss"] == pytest.approx(result.held_out_loss, abs=1e-3)
    assert (tmp_path / "run" / "curve.csv").read_text().startswith("step,loss,held_out_loss")


def test_nobody_is_trained_on_and_held_out(folder: Path, tmp_path: Path) -> None:
    held_out = HeldOut(people=Cohort(images=folder / "images", labels=folder / "labels", first=1))
    with pytest.raises(ConfigError, match="in training as well"):
        train(run_config(folder, held_out=held_out), TrainOptions(tmp_path / "run", device="cpu"))


def test_a_run_is_known_by_what_decides_its_weights(folder: Path) -> None:
    config = run_config(folder)
    elsewhere = config.people.model_copy(update={"images": Path("there"), "labels": Path("there")})
    same = config.model_copy(update={"people": elsewhere, "card": {"summary": "better said"}})
    assert identity(same) == identity(config)
    for changed in ({"seed": 1}, {"noise": NoiseConfig(mean=0.9)}, {"clip_voxels": 3.0}):
        assert identity(config.model_copy(update=changed)) != identity(config)


def test_it_learns_what_a_word_means(table: Path) -> None:
    """Dark and bright people: after a short run the mean of what is drawn for a word lies near that of its people."""
    everybody = made_up_people(12)
    everybody.images[6:] += 0.6
    sources = (Column(name="contrast", table=table, column="contrast"),)
    spec = measure_spec(everybody, NAMES, sources, suffix="T1w")
    drawn = GenerativeBatches(everybody, spec, sources, ItemConfig(size=4, drop=0.1, drop_all=0.1, warp=STILL), 0, CPU)
    options = GeneratorNetwork(channels=(16, 16)).options(spec)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = GenerativeModel(build_network(**options), spec)
    adam = torch.optim.Adam(model.parameters(), lr=4e-3)
    generator, noise = torch.Generator().manual_seed(0), NoiseConfig(mean=1.5)
    for step in range(120):
        batch = drawn[step]
        eps = torch.randn(batch.truth.shape, generator=generator)
        loss = generative_loss(model, batch.truth, batch.conditions, noise.draw(4, generator), eps).mean()
        adam.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        adam.step()
    x = spec.sigma_max * torch.randn(1, 3, *SHAPE, generator=generator)
    with torch.no_grad():
        means = {
            word: float(model(x, torch.tensor([spec.sigma_max]), model.conditions([{"contrast": word}]))[:, 0].mean())
            for word in ("dark", "bright")
        }
    truth = 0.6 / spec.intensity_std
    assert means["bright"] - means["dark"] > 0.5 * truth


@pytest.mark.parametrize("name", ["hippocampus", "hippocampus-monai"])
def test_the_configs_of_the_shipped_generator_take_steps_on_real_people(
    name: str, shared: Path, repository: Path, tmp_path: Path
) -> None:
    config = load_config(repository / "configs" / f"{name}.yaml", GenerativeTrainConfig)
    data = shared / "data" / "msd-hippocampus"
    few = Cohort(images=data / "images", labels=data / "labels", first=2)
    short = config.model_copy(
        update={
            "people": few,
            "items": config.items.model_copy(update={"size": 1}),
            "optimizer": config.optimizer.model_copy(update={"steps": 2}),
            "bfloat16": False,
        }
    )
    result = train(short, TrainOptions(tmp_path / "run", device="cpu"))
    model, card = load_generator(result.model)
    assert result.finished
    assert all(bool(torch.isfinite(p).all()) for p in model.parameters())
    assert result.model.stat().st_size <= 10e6
    missing = {"summary", "data", "licences", "limits", "sources", "samples_licence", "not_for"} - set(card)
    assert not missing
    assert load_people(people(few), config.shape).geometry.shape == model.spec.shape
