"""Drawing: an item is decided by its seed and its wish, in whatever company."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from scipy import ndimage

from medidiff.diffusion.generator import GenerativeModel, load_generator
from medidiff.errors import ConfigError
from medidiff.generation.draw import Request, Sampling, decode, draw, draw_extent, level_of
from medidiff.models import find_model
from medidiff.volume import Modality
from tests.tiny_generator import SHAPE, SPEC, label_map, tiny_model

FAST = Sampling(steps=3)


@pytest.fixture(scope="module")
def model() -> GenerativeModel:
    return tiny_model()


def test_an_item_does_not_depend_on_its_company(model: GenerativeModel) -> None:
    requests = [Request(seed, {"age": 30.0 + seed}) for seed in range(5)]
    together = draw(model, requests, FAST)
    for request, item in zip(requests, together, strict=True):
        (alone,) = draw(model, [request], FAST)
        np.testing.assert_array_equal(alone.image.data, item.image.data)
        assert alone.label is not None
        assert item.label is not None
        np.testing.assert_array_equal(alone.label.data, item.label.data)


def test_another_seed_is_another_volume(model: GenerativeModel) -> None:
    one, other = draw(model, [Request(1, inside=np.ones(SHAPE, bool)), Request(2, inside=np.ones(SHAPE, bool))], FAST)
    assert np.abs(one.image.data - other.image.data).mean() > 0.01


def test_sizes_follow_those_of_training() -> None:
    sizes = np.array([draw_extent(SPEC, seed) for seed in range(500)])
    assert np.abs(sizes.mean(0) - SPEC.extent_mean).max() < 0.3
    assert (sizes >= SPEC.extent_low).all()
    assert (sizes <= SHAPE).all()


def test_image_and_label_map_lie_on_one_grid_around_world_zero(model: GenerativeModel) -> None:
    (item,) = draw(model, [Request(4)], FAST)
    assert item.label is not None
    assert item.image.geometry.shape == draw_extent(SPEC, 4) == item.image.data.shape[1:]
    assert item.image.geometry.distance(item.label.geometry) == 0
    assert item.image.geometry.spacing == SPEC.spacing_mm
    middle = item.image.geometry.to_world(np.array([(n - 1) / 2 for n in item.image.geometry.shape]))
    assert np.abs(middle).max() <= max(SPEC.spacing_mm) / 2 + 1e-9
    assert (item.image.modality, item.label.modality) == (Modality.MR, Modality.LABEL)
    assert item.image.data.min() >= 0


def test_channels_are_decoded_to_what_was_encoded() -> None:
    from medidiff.generation.codes import LabelCodec

    labels = label_map(3)
    image = np.linspace(0, 1, labels.size, dtype=np.float32).reshape(labels.shape)
    channels = np.concatenate(
        [(image[None] - SPEC.intensity_mean) / SPEC.intensity_std, LabelCodec.of(SPEC).encode(labels)]
    )
    inside = np.zeros(SHAPE, dtype=bool)
    inside[1:15, 2:18, 3:11] = True
    item = decode(SPEC, channels, inside)
    assert item.label is not None
    np.testing.assert_allclose(item.image.data[0], image[1:15, 2:18, 3:11], atol=1e-6)
    np.testing.assert_array_equal(item.label.data[0], labels[1:15, 2:18, 3:11])
    np.testing.assert_allclose(
        item.image.geometry.origin, np.array([1, 2, 3]) * SPEC.spacing_mm - (np.array(SHAPE) - 1) / 2 * SPEC.spacing_mm
    )


def test_a_given_label_map_comes_out_as_it_went_in_and_decides_the_image(model: GenerativeModel) -> None:
    maps = [label_map(seed) for seed in (5, 6)]
    everywhere = np.ones(SHAPE, dtype=bool)
    items = [draw(model, [Request(1, labels=each, inside=everywhere)], FAST)[0] for each in maps]
    for item, each in zip(items, maps, strict=True):
        assert item.label is not None
        np.testing.assert_array_equal(item.label.data[0], each)
    assert np.abs(items[0].image.data - items[1].image.data).max() > 1e-3


def test_variations_depart_from_a_scan_as_strength_says() -> None:
    """With the answer of a Gaussian (an untrained network) distances to the scan are known: they must grow."""
    model = tiny_model(size=0.0)
    scan = np.random.default_rng(0).normal(SPEC.intensity_mean, SPEC.intensity_std, SHAPE).astype(np.float32).clip(0)
    everywhere = np.ones(SHAPE, dtype=bool)
    distances = []
    for strength in (0.0, 0.15, 0.3, 0.45):  # beyond, nothing is left of it to depart from
        sampling = Sampling(steps=16, strength=strength)
        (item,) = draw(model, [Request(3, like=scan, inside=everywhere)], sampling)
        distances.append(float(np.abs(item.image.data[0] - scan).mean()) / SPEC.intensity_std)
    assert distances[0] < 0.05
    assert np.all(np.diff(distances) > 0)
    assert distances[-1] > 0.6


def test_strength_spans_the_noise_levels() -> None:
    assert level_of(SPEC, 0.0) == pytest.approx(SPEC.sigma_min)
    assert level_of(SPEC, 1.0) == pytest.approx(SPEC.sigma_max)
    with pytest.raises(ConfigError, match="strength"):
        level_of(SPEC, 1.5)


@pytest.mark.parametrize(
    ("solver", "guidance", "expected"),
    [("stochastic", 1, 8), ("multistep", 1, 8), ("heun", 1, 15), ("multistep", 2, 16), ("euler", 0, 16)],
)
def test_the_cost_that_is_told_is_the_cost(solver: str, guidance: float, expected: int) -> None:
    calls = []
    model = tiny_model()
    model.network.register_forward_hook(lambda *_: calls.append(1))
    sampling = Sampling(8, solver, guidance)  # type: ignore[arg-type]
    draw(model, [Request(0, {"age": 40.0})], sampling)
    assert len(calls) == sampling.evaluations(conditional=True) == expected


def test_progress_counts_the_steps_of_all_items(model: GenerativeModel) -> None:
    told: list[tuple[int, int]] = []
    draw(model, [Request(0), Request(1)], FAST, lambda done, total: told.append((done, total)))
    assert told == [(step, 6) for step in range(1, 7)]


def test_wishes_of_two_kinds_are_no_batch(model: GenerativeModel) -> None:
    with pytest.raises(ConfigError, match="one kind"):
        draw(model, [Request(0), Request(1, labels=label_map(0))], FAST)


def test_drawing_leaves_the_global_generator_alone(model: GenerativeModel) -> None:
    before = torch.random.get_rng_state()
    draw(model, [Request(0)], FAST)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_a_generator_without_label_classes_draws_images_alone() -> None:
    spec = SPEC.model_copy(update={"labels": ()})
    item = decode(spec, np.zeros((1, *SHAPE)), np.ones(SHAPE, dtype=bool))
    assert item.label is None
    assert dataclasses.is_dataclass(item)
    np.testing.assert_allclose(item.image.data, SPEC.intensity_mean)


@pytest.fixture(scope="module")
def shipped() -> GenerativeModel:
    return load_generator(find_model("hippocampus"))[0]


def test_the_generator_that_ships_gives_the_volume_that_it_is_asked_for(shipped: GenerativeModel) -> None:
    sampling = Sampling(steps=8, guidance_scale=1.5)

    def volumes(ml: float) -> list[float]:
        items = draw(shipped, [Request(seed, {"volume_ml": ml}) for seed in (1, 2)], sampling)
        return [float((item.label.data > 0).sum()) / 1000 for item in items if item.label is not None]

    small, large = volumes(2.5), volumes(4.0)
    assert all(1.8 < ml < 3.3 for ml in small)
    assert all(3.3 < ml < 5.0 for ml in large)


def test_the_generator_that_ships_draws_both_parts_in_one_place(shipped: GenerativeModel) -> None:
    (item,) = draw(shipped, [Request(3)], Sampling(steps=8))
    assert item.label is not None
    labels = item.label.data[0]
    pieces, _ = ndimage.label(labels > 0)
    largest = np.bincount(pieces.ravel())[1:].max()
    assert largest > 0.9 * (labels > 0).sum()
    # Anterior lies in front of posterior: j runs to A.
    front, back = (np.argwhere(labels == value)[:, 1].mean() for value in (1, 2))
    assert front > back + 8
    # Grey matter of the structure is darker than the white matter around it.
    assert item.image.data[0][labels > 0].mean() < 0.95 * item.image.data[0][labels == 0].mean()
