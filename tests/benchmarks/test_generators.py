"""Generators side by side: the same terms for all, and a comparison that can be gone on with and told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.generators.people import CHOOSING, HELD_OUT, SHAPE, TRAINING, Scale
from benchmarks.generators.runs import CONTESTANTS, keep, kept, run
from benchmarks.generators.scoring import Principal, in_space, likeness
from benchmarks.generators.summary import MEAN, REAL, write_figures, write_table
from medidiff.data.procedural import Procedural, procedural_people

# All on the benchmark's own grid: on much smaller ones this torch's bfloat16 gradients are no numbers.
SETTINGS = {"lr": 1e-3, "critic_lr": 1.0, "critic_steps": 1, "kl": 0.1}


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.from_numpy(procedural_people(Procedural(kind="procedural", count=12), SHAPE).images)


def test_parameters_are_equal_within_a_fifth(images: torch.Tensor) -> None:
    scale = Scale.of(images)
    counts = {name: made(SETTINGS, scale, SHAPE, 0).parameters for name, made in CONTESTANTS.items()}
    assert max(counts.values()) / min(counts.values()) < 1.2, counts


@pytest.mark.parametrize("name", CONTESTANTS)
def test_a_run_learns_for_its_seconds_draws_and_comes_back(name: str, images: torch.Tensor, tmp_path: Path) -> None:
    done = run(name, SETTINGS, images, 0.3, 3, 0)
    assert done.images.shape == (3, 1, *SHAPE)
    assert torch.isfinite(done.images).all()
    assert done.curve.steps >= 1
    assert 0.3 <= done.curve.seconds < 5
    assert not torch.equal(done.images[0], done.images[1])
    keep(tmp_path / "run.safetensors", done)
    again = kept(tmp_path / "run.safetensors")
    assert again.curve == done.curve
    torch.testing.assert_close(again.images, done.images, rtol=1e-2, atol=1e-3)


def test_the_mean_person_is_where_decoders_begin(images: torch.Tensor) -> None:
    """Before training, GAN and VAE draw the mean image, give or take: no time is lost on it."""
    scale = Scale.of(images)
    for name in ("WGAN-GP", "VAE"):
        fresh = CONTESTANTS[name](SETTINGS, scale, SHAPE, 0)
        drawn = scale.physical(fresh.draw(4, [torch.Generator().manual_seed(n) for n in range(4)]))
        error = float((drawn.mean(0) - images.mean(0)).abs().mean())
        assert error < 0.5 * float((images.mean() - images.mean(0)).abs().mean() + images.std())


def test_divergence_is_seen_and_ends_the_run(images: torch.Tensor) -> None:
    done = run("VAE", SETTINGS | {"lr": 1e30}, images, 2.0, 2, 0)
    assert done.curve.diverged
    assert done.curve.seconds < 2.0


def test_scores_tell_people_from_noise_and_from_one_person(images: torch.Tensor) -> None:
    everybody = procedural_people(Procedural(kind="procedural", count=60, seed=1), SHAPE).images
    real, others = everybody[:30], everybody[30:]
    space = Principal.of(real)
    noise = np.random.default_rng(0).random(others.shape, dtype=np.float32)
    copies = np.repeat(others[:1], 30, axis=0) + 1e-3 * noise
    good, bad, one = (in_space(space, real, fake) for fake in (others, noise, copies))
    assert good["mmd"] < min(bad["mmd"], one["mmd"])
    assert good["recall"] > one["recall"]
    assert likeness(copies[:6]) > likeness(others[:6])


def test_the_table_and_the_figures_tell_all(images: torch.Tensor, tmp_path: Path) -> None:
    runs = {(name, seed): run(name, SETTINGS, images, 0.1, 8, seed) for name in CONTESTANTS for seed in range(2)}
    rows = ["set,seed,images,parameters,seconds,steps,diverged,kid_pca,mmd_pca,precision_pca,recall_pca,density_pca,"]
    header = rows[0] + "coverage_pca,kid_encoder,mmd_encoder,precision_encoder,recall_encoder,density_encoder,"
    header += "coverage_encoder,layout,ms_ssim,detail,seconds_each,train_mb,draw_mb"
    lines = [header]
    for place, name in enumerate([*CONTESTANTS, *CONTESTANTS, REAL, MEAN]):
        seed = str(place // 3) if name in CONTESTANTS else ""
        lines.append(
            ",".join([name, seed, "8", "9", "1", "5", "0", *[f"0.{place + 1}"] * 18]).replace(REAL, f'"{REAL}"')
        )
    (tmp_path / "generators.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    text = write_table(tmp_path / "generators.csv", 60, dict.fromkeys(CONTESTANTS, SETTINGS))
    assert "| diffusion | 0.25 [0.1, 0.4] |" in text
    assert "0 of 2" in text
    write_figures(runs, images, tmp_path)
    assert (tmp_path / "generators_samples.png").stat().st_size > 10_000


def test_nobody_held_out_is_tuned_on() -> None:
    assert TRAINING + HELD_OUT == 200
    assert 0 < CHOOSING < TRAINING / 2
