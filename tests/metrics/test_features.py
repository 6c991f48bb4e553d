"""Encoders: ours, those of others, and files that are none."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from medidiff.diffusion.checkpoint import write_model
from medidiff.errors import CheckpointError, ConfigError, InputError
from medidiff.metrics.features import CENTRE, FORMAT, SHIPPED, SPREAD, ResNetOptions, load_encoder
from medidiff.models import FOLDER

SMALL = ResNetOptions(block_inplanes=(4, 4, 6, 8))


def images(n: int = 3, shape: tuple[int, int, int] = (16, 18, 14)) -> np.ndarray:
    return np.random.default_rng(0).random((n, 1, *shape))


def saved(path: Path, options: ResNetOptions = SMALL, **change: torch.Tensor) -> Path:
    tensors = {CENTRE: torch.full((8,), 0.5), SPREAD: torch.full((8,), 2.0), **options.build().state_dict(), **change}
    tensors = {name: tensor for name, tensor in tensors.items() if not name.endswith("num_batches_tracked")}
    write_model(path, FORMAT, options.model_dump(mode="json"), tensors, {"summary": "for tests"})
    return path


def test_the_encoder_that_ships_has_its_own_hash_and_stands_on_people() -> None:
    encoder = load_encoder()
    path = FOLDER / f"{SHIPPED}.safetensors"
    assert encoder.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert 64 <= encoder.dimensions <= 128
    assert path.stat().st_size < 3e6
    assert encoder.embed(images(2, (40, 56, 40))).shape == (2, encoder.dimensions)


def test_features_do_not_depend_on_the_batch_or_its_neighbours() -> None:
    encoder = load_encoder()
    volumes = images(10)
    together = encoder.embed(volumes)
    assert np.array_equal(together[7], encoder.embed(volumes[7:8])[0])
    assert np.array_equal(together[:3], encoder.embed(volumes[:3]))


def test_features_see_blur_and_noise_of_people(shared: Path) -> None:
    from medidiff.data.cohort import Cohort, load_people, people
    from medidiff.metrics.sets import corruptions, kid

    folder = shared / "data" / "msd-hippocampus" / "images"
    volumes = load_people(people(Cohort(images=folder, first=24)), (40, 56, 40)).images
    rng = np.random.default_rng(0)
    encoder = load_encoder()
    half = encoder.embed(volumes[:12])
    clean = kid(half, encoder.embed(volumes[12:]))
    blurred = np.stack([corruptions.blur(v[0], 1.0)[None] for v in volumes[12:]])
    noisy = np.stack([corruptions.noise(v[0], 0.1, rng)[None] for v in volumes[12:]])
    assert kid(half, encoder.embed(blurred)) > 20 * abs(clean)
    assert kid(half, encoder.embed(noisy)) > 20 * abs(clean)


def test_our_own_file_is_standardised(tmp_path: Path) -> None:
    weights = SMALL.build().state_dict()
    plain, moved = (
        load_encoder(saved(tmp_path / f"{value:g}.safetensors", **weights, **{CENTRE: torch.full((8,), value)}))
        for value in (0.0, 3.0)
    )
    volume = images(1)
    np.testing.assert_allclose(moved.embed(volume), plain.embed(volume) - 3 / 2, atol=1e-6)


def test_weights_of_med3d_are_taken_by_a_config(tmp_path: Path) -> None:
    """Med3D's files: MONAI's names behind ``module.``, a stride of two and a pool, a classifier at the end."""
    options = ResNetOptions(block_inplanes=(4, 4, 6, 8), conv1_t_size=7, no_max_pool=False)
    network = options.build()
    tensors = {f"module.{name}": tensor for name, tensor in network.state_dict().items()}
    save_file(
        {**tensors, "module.fc.weight": torch.zeros(2, 8), "module.fc.bias": torch.zeros(2)}, tmp_path / "w.safetensors"
    )
    config = tmp_path / "med3d.yaml"
    config.write_text(
        "kind: features\nweights: w.safetensors\nsource: for tests\noffset: 0.5\nscale: 0.25\n"
        'rename: {"^module\\\\.": ""}\n'
        "network: {block_inplanes: [4, 4, 6, 8], conv1_t_size: 7, no_max_pool: false}\n"
    )
    encoder = load_encoder(config)
    volume = images(1)
    with torch.no_grad():
        expected = network.eval()((torch.from_numpy(volume).float() - 0.5) / 0.25)
    np.testing.assert_allclose(encoder.embed(volume), expected.numpy(), rtol=1e-6)
    first = encoder.sha256
    config.write_text(config.read_text().replace("0.25", "0.5"))
    assert load_encoder(config).sha256 != first, "how a network is fed is part of what its features are"


def test_a_planar_network_sees_every_plane(tmp_path: Path) -> None:
    """RadImageNet's form: 2D, three channels, bottlenecks."""
    text = (
        "{block: bottleneck, layers: [1, 1, 1, 1], block_inplanes: [2, 2, 3, 4], spatial_dims: 2, n_input_channels: 3}"
    )
    options = ResNetOptions(block="bottleneck", block_inplanes=(2, 2, 3, 4), spatial_dims=2, n_input_channels=3)
    network = options.build()
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    config = tmp_path / "planar.yaml"
    config.write_text(f"kind: features\nweights: w.safetensors\nsource: for tests\nnetwork: {text}\n")
    encoder = load_encoder(config)
    volume = images(1)
    with torch.no_grad():
        planes = torch.from_numpy(volume[0]).float().permute(3, 0, 1, 2).expand(-1, 3, -1, -1)
        expected = network.eval()(planes).mean(dim=0)
    assert encoder.dimensions == 16
    np.testing.assert_allclose(encoder.embed(volume)[0], expected.numpy(), rtol=1e-5)


def test_a_prior_is_no_encoder() -> None:
    with pytest.raises(CheckpointError, match="no encoder"):
        load_encoder("brain-t1")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"conv1.weight": torch.zeros(4, 1, 3, 3, 2)}, "do not fit"),
        ({"other": torch.zeros(1)}, "do not fit the network: other"),
        ({"bn1.weight": torch.full((4,), torch.nan)}, "not finite"),
        ({SPREAD: torch.zeros(8)}, "standardisation"),
        ({CENTRE: torch.zeros(7)}, "standardisation"),
    ],
)
def test_weights_that_do_not_fit_are_refused(tmp_path: Path, change: dict[str, torch.Tensor], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        load_encoder(saved(tmp_path / "bad.safetensors", **change))


def test_a_network_of_any_size_is_not_built(tmp_path: Path) -> None:
    path = tmp_path / "vast.safetensors"
    huge = {**SMALL.model_dump(mode="json"), "block_inplanes": [4, 4, 4, 100_000]}
    write_model(path, FORMAT, huge, {CENTRE: torch.zeros(1), SPREAD: torch.ones(1)}, {})
    with pytest.raises(CheckpointError, match="no network has"):
        load_encoder(path)


def test_a_config_without_weights_or_source_is_refused(tmp_path: Path) -> None:
    config = tmp_path / "f.yaml"
    config.write_text("kind: features\nweights: none.safetensors\nnetwork: {}\n")
    with pytest.raises(ConfigError, match="source"):
        load_encoder(config)
    config.write_text("kind: features\nweights: none.safetensors\nsource: x\nnetwork: {}\n")
    with pytest.raises(CheckpointError, match=r"none\.safetensors: there is no such file"):
        load_encoder(config)


@pytest.mark.parametrize("shape", [(3, 8, 8, 8), (2, 2, 8, 8, 8)])
def test_volumes_of_another_form_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match="features are taken of volumes"):
        load_encoder().embed(np.zeros(shape))


def test_values_that_are_not_finite_are_refused() -> None:
    volume = images(1)
    volume[0, 0, 0, 0, 0] = np.nan
    with pytest.raises(InputError, match="finite"):
        load_encoder().embed(volume)
