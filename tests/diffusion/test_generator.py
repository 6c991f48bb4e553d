"""The generator: what it is told reaches it, what it is not told does not, and its file comes back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from medidiff.diffusion.checkpoint import load_model, save_model
from medidiff.diffusion.denoiser import Denoiser
from medidiff.diffusion.generator import CategoricalCondition, GeneratorSpec, NumericCondition, load_generator
from medidiff.diffusion.network import build_network
from medidiff.errors import CheckpointError, ConfigError, GeometryError
from tests.tiny_generator import CARD, SHAPE, SPEC, label_map, tiny_model, write_tiny_generator
from tests.tiny_model import write_tiny_model


def noisy(count: int = 2, seed: int = 1) -> torch.Tensor:
    return torch.randn(count, 3, *SHAPE, generator=torch.Generator().manual_seed(seed))


def test_what_is_bound_is_a_denoiser() -> None:
    model = tiny_model()
    bound = model.given(model.conditions([{}]))
    assert isinstance(bound, Denoiser)
    assert (bound.sigma_min, bound.sigma_max, bound.spread) == (SPEC.sigma_min, SPEC.sigma_max, 1.0)


@pytest.mark.parametrize("sigma", [0.05, 1.0, 50.0])
def test_an_untrained_network_gives_the_answer_of_a_gaussian(sigma: float) -> None:
    """A fresh network is zero; then D(x) = x / (1 + s^2), the posterior mean of unit white noise."""
    model = tiny_model(size=0.0)
    x = noisy()
    x0 = model(x, torch.full((2,), sigma), model.conditions([{}, {}]))
    torch.testing.assert_close(x0, x / (1 + sigma**2))


@pytest.mark.parametrize("values", [{"volume_ml": 0.6}, {"age": 70.0}, {"sex": "male"}])
def test_each_condition_reaches_the_answer(values: dict[str, float | str]) -> None:
    model, x, sigma = tiny_model(), noisy(1), torch.ones(1)
    free = model(x, sigma, model.conditions([{}]))
    asked = model(x, sigma, model.conditions([values]))
    assert (asked - free).abs().max() > 1e-4
    (name,) = values
    torch.testing.assert_close(model(x, sigma, model.conditions([{name: None}])), free, rtol=0, atol=0)


def test_an_item_is_told_its_own_conditions() -> None:
    model, x, sigma = tiny_model(), noisy(2), torch.tensor([0.3, 2.0])
    both = model(x, sigma, model.conditions([{"age": 30.0}, {"sex": "female"}]))
    for item, values in enumerate(({"age": 30.0}, {"sex": "female"})):
        alone = model(x[[item]], sigma[[item]], model.conditions([values]))
        torch.testing.assert_close(both[[item]], alone, rtol=1e-5, atol=1e-5)


def test_guidance_stresses_conditions_and_leaves_the_unconditional_alone() -> None:
    model, x, sigma = tiny_model(), noisy(1), torch.ones(1)
    free = model.given(model.conditions([{}]))(x, sigma)
    conditions = model.conditions([{"volume_ml": 0.7}])
    at = {scale: model.given(conditions, scale)(x, sigma) for scale in (0.0, 1.0, 3.0)}
    torch.testing.assert_close(at[0.0], free)
    torch.testing.assert_close(at[3.0] - free, 3 * (at[1.0] - free), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model.given(model.conditions([{}]), 5.0)(x, sigma), free, rtol=0, atol=0)
    assert [model.given(conditions, scale).evaluations for scale in (1.0, 3.0)] == [1, 2]
    with pytest.raises(ConfigError, match="guidance"):
        model.given(conditions, -1.0)


def test_given_label_channels_are_the_answer_and_reach_the_image() -> None:
    from medidiff.generation.codes import LabelCodec

    model, x, sigma = tiny_model(), noisy(1), torch.ones(1)
    maps = [torch.from_numpy(LabelCodec.of(SPEC).encode(label_map(seed)))[None] for seed in (1, 2)]
    answers = [model(x, sigma, model.conditions([{}], labels=each)) for each in maps]
    for answer, each in zip(answers, maps, strict=True):
        torch.testing.assert_close(answer[:, 1:], each)
    assert (answers[0][:, :1] - answers[1][:, :1]).abs().max() > 1e-4


def test_what_is_outside_neither_matters_nor_comes_out() -> None:
    model, sigma = tiny_model(), torch.ones(1)
    inside = torch.zeros(1, 1, *SHAPE)
    inside[..., 2:12, 3:15, 1:9] = 1
    conditions = model.conditions([{}], inside=inside)
    x = noisy(1)
    first = model(x, sigma, conditions)
    second = model(torch.where(inside > 0, x, 77.0), sigma, conditions)
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    assert (first * (1 - inside)).abs().max() == 0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"height": 3.0}, "no condition height: this generator has volume_ml, age, sex"),
        ({"age": 150.0}, "age: expected a number of 20 to 80, got 150"),
        ({"age": "old"}, "age: expected a number"),
        ({"sex": "x"}, "sex: expected one of female, male"),
    ],
)
def test_a_wish_that_the_generator_never_saw_is_refused(values: dict[str, float | str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tiny_model().conditions([values])


def test_channels_on_another_grid_are_refused() -> None:
    model = tiny_model()
    with pytest.raises(GeometryError, match="labels: expected the shape"):
        model.conditions([{}], labels=torch.zeros(1, 2, 8, 8, 8))
    with pytest.raises(GeometryError, match="inside"):
        model.conditions([{}, {}], inside=torch.ones(1, 1, *SHAPE))


def test_a_file_comes_back_with_card_and_specification(tmp_path: Path) -> None:
    path = write_tiny_generator(tmp_path / "g.safetensors")
    model, card = load_generator(path)
    assert (card, model.spec) == (CARD, SPEC)
    x, sigma = noisy(1), torch.ones(1)
    expected = tiny_model()
    torch.testing.assert_close(
        model(x, sigma, model.conditions([{}])), expected(x, sigma, expected.conditions([{}])), rtol=0, atol=5e-3
    )


def test_a_generator_is_no_restorer_and_the_other_way_round(tmp_path: Path) -> None:
    generator, restorer = write_tiny_generator(tmp_path / "g.safetensors"), write_tiny_model(tmp_path / "r.safetensors")
    with pytest.raises(CheckpointError, match=r"restores nothing: use it with `medidiff synthesize`$"):
        load_model(generator)
    with pytest.raises(CheckpointError, match=r"not a generator of synthetic volumes"):
        load_generator(restorer)


@pytest.mark.parametrize("damage", ["spec", "channels", "nothing"])
def test_a_file_whose_specification_does_not_fit_is_refused(tmp_path: Path, damage: str) -> None:
    from safetensors import safe_open
    from safetensors.torch import save_file

    path = write_tiny_generator(tmp_path / "g.safetensors")
    with safe_open(path, framework="pt") as file:
        header, tensors = dict(file.metadata()), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if damage == "spec":
        header["generator"] = json.dumps({"shape": [1]})
    elif damage == "channels":
        header["network"] = json.dumps({**json.loads(header["network"]), "image": 9})
    else:
        del header["generator"]
    save_file(tensors, path, metadata=header)
    with pytest.raises(CheckpointError, match="do not fit"):
        load_generator(path)


@pytest.mark.parametrize("shape", [(4000, 4000, 4000), (512, 512, 257), (513, 1, 1), (0, 8, 8), (8, -8, 8)])
def test_a_grid_that_no_generator_has_is_not_believed(shape: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="no grid of a generator"):
        GeneratorSpec.model_validate(SPEC.model_dump() | {"shape": shape})
    assert GeneratorSpec.model_validate(SPEC.model_dump() | {"shape": (512, 512, 256)}).shape == (512, 512, 256)


@pytest.mark.parametrize(
    "entry", [{"spacing_mm": (1, 0, 1)}, {"spacing_mm": (1, -1, 1)}, {"extent_covariance": [[1, 0, 0]]}]
)
def test_a_specification_that_cannot_be_drawn_from_is_refused(entry: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(entry))):
        GeneratorSpec.model_validate(SPEC.model_dump() | entry)


def test_a_specification_with_two_conditions_of_one_name_is_refused() -> None:
    twice = (
        NumericCondition(name="age", mean=1, std=1, low=0, high=2),
        CategoricalCondition(name="age", values=("a",)),
    )
    with pytest.raises(ValueError, match="one name"):
        GeneratorSpec.model_validate(SPEC.model_dump() | {"conditions": [each.model_dump() for each in twice]})


@pytest.mark.parametrize("kind", ["residual_unet", "monai_unet"])
def test_both_networks_take_several_image_channels(kind: str) -> None:
    options = {"channels": [16, 16], "blocks": 1, "side": 3, "embedding": 5, "image": 3}
    network = build_network(kind, **options, **({"groups": 4} if kind == "monai_unet" else {}))
    out = network(torch.zeros(2, 3, 8, 8, 8), torch.zeros(2, 3, 8, 8, 8), torch.zeros(2, 5))
    assert out.shape == (2, 3, 8, 8, 8)


def test_a_network_of_one_channel_has_the_weights_it_always_had(tmp_path: Path) -> None:
    old = {"kind": "residual_unet", "channels": [8, 8], "blocks": 1}
    save_model(
        tmp_path / "m.safetensors", old, load_model(write_tiny_model(tmp_path / "r.safetensors"))[0].state_dict(), {}
    )
    assert load_model(tmp_path / "m.safetensors")[0].network.leave.out_channels == 8
