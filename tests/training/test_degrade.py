"""Each degradation does what the network is told it did."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from medidiff.operators import SliceOperator, SliceProfile
from medidiff.training import augment
from medidiff.training.degrade import (
    SliceBank,
    degrade_inpaint,
    degrade_noise,
    degrade_slices,
    draw_profile,
    rician,
    smooth_fill,
)
from medidiff.training.kspace_simulation import (
    KSpaceBank,
    KSpaceRecipe,
    coil_maps,
    draw_mask,
    smooth_phase,
    undersample,
)
from tests.training.scans import CPU, block, generator


class Quiet:
    """A random generator whose first draw asks for no noise; the rest is random."""

    def __init__(self, seed: int) -> None:
        self._rng, self._first = np.random.default_rng(seed), True

    def random(self) -> float:
        first, self._first = self._first, False
        return 0.99 if first else float(self._rng.random())

    def __getattr__(self, name: str) -> object:
        return getattr(self._rng, name)


def test_profiles_cover_the_range_and_all_kinds() -> None:
    rng = np.random.default_rng(0)
    profiles = [draw_profile(rng, 1.5, 10) for _ in range(500)]
    factors = np.array([p.factor for p in profiles])
    ratios = np.array([p.thickness / p.factor for p in profiles])
    assert 1.5 <= factors.min() < 1.8
    assert 9 < factors.max() <= 10
    assert np.mean(factors == np.round(factors)) == pytest.approx(0.4, abs=0.08)
    assert np.mean(ratios == 1) == pytest.approx(0.55, abs=0.08)
    assert np.mean(ratios < 1) == pytest.approx(0.33, abs=0.08)
    assert {p.kind for p in profiles} == {"box", "gaussian"}


@pytest.mark.parametrize("seed", range(6))
def test_the_slice_reference_is_what_the_operator_would_give(head: np.ndarray, seed: int) -> None:
    """The bank is a shortcut for speed; a scan later goes through the operator itself."""
    line, rng = block(head), Quiet(seed)
    bank = SliceBank(32, (1.5, 6), seed, CPU, 1)
    recipe = bank.draw(np.random.default_rng(0))
    degraded = degrade_slices(line, recipe, rng, 32, generator())  # type: ignore[arg-type]
    profile = SliceProfile(
        2 ** (3 * float(degraded.task.vector()[0])),
        degraded.task.factor * degraded.task.thickness,
        "gaussian" if degraded.task.gaussian else "box",
    )
    operator = SliceOperator((1, *line.shape), 2, profile)  # type: ignore[arg-type]
    y = operator.forward(line[None, None])
    torch.testing.assert_close(degraded.reference, operator.reference(y)[0, 0], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(degraded.known, operator.known(y)[0, 0])
    again = operator.forward(degraded.reference[None, None])
    assert float((again - y).norm() / y.norm()) < 2e-3
    assert torch.equal(degraded.truth, line)
    assert degraded.task.noise == 0


def test_a_window_is_cut_alike_from_truth_reference_and_map(head: np.ndarray) -> None:
    line = block(head)
    recipe = SliceBank(32, (3, 5), 1, CPU, 1).draw(np.random.default_rng(0))
    whole = degrade_slices(line, recipe, Quiet(0), 32, generator())  # type: ignore[arg-type]
    starts = set()
    for seed in range(12):
        part = degrade_slices(line, recipe, Quiet(seed), 16, generator())  # type: ignore[arg-type]
        (start,) = [s for s in range(17) if torch.equal(line[..., s : s + 16], part.truth)]
        torch.testing.assert_close(part.reference, whole.reference[..., start : start + 16])
        torch.testing.assert_close(part.known, whole.known[..., start : start + 16])
        starts.add(start)
    assert len(starts) > 4


def test_noise_in_slices_is_told(head: np.ndarray) -> None:
    recipe = SliceBank(32, (2, 4), 1, CPU, 1).draw(np.random.default_rng(0))
    tasks = [degrade_slices(block(head), recipe, np.random.default_rng(s), 16, generator(s)).task for s in range(60)]
    noisy = [task.noise for task in tasks if task.noise]
    assert 5 < len(noisy) < 35
    assert all(0.003 <= noise <= 0.04 for noise in noisy)


@pytest.mark.parametrize("seed", range(4))
def test_added_noise_is_as_strong_as_told(seed: int) -> None:
    patch = torch.ones(24, 24, 24)
    degraded = degrade_noise(patch, np.random.default_rng(seed), generator(seed))
    assert float((degraded.reference - patch).std()) == pytest.approx(degraded.task.noise, rel=0.05)
    assert (degraded.known == 1).all()


@pytest.mark.parametrize("seed", range(8))
def test_inpainting_keeps_what_is_known_and_fills_the_rest(head: np.ndarray, seed: int) -> None:
    patch = block(head, (24, 24, 24))
    degraded = degrade_inpaint(patch, np.random.default_rng(seed))
    known = degraded.known == 1
    assert torch.equal(degraded.reference[known], patch[known])
    assert ((degraded.known == 0) | known).all()
    assert degraded.task.missing == pytest.approx(float((~known).float().mean()))
    assert degraded.task.missing > 0
    # A weighted mean of known voxels can never leave their range.
    filled = degraded.reference[~known]
    assert float(filled.min()) >= float(patch[known].min()) - 1e-4
    assert float(filled.max()) <= float(patch[known].max()) + 1e-4


def test_a_hole_in_a_constant_is_filled_with_it() -> None:
    mask = torch.ones(16, 16, 16)
    mask[4:11, 5:9, 3:14] = 0
    torch.testing.assert_close(smooth_fill(3 * mask, mask), torch.full((16, 16, 16), 3.0))
    assert smooth_fill(torch.zeros(4, 4, 4), torch.zeros(4, 4, 4)).abs().max() == 0


def test_rician_noise_has_its_moments() -> None:
    dark = rician(torch.zeros(40, 40, 40), 0.1, generator())
    bright = rician(torch.ones(40, 40, 40), 0.1, generator())
    assert float(dark.mean()) == pytest.approx(0.1 * math.sqrt(math.pi / 2), rel=0.02)
    assert float(bright.square().mean()) == pytest.approx(1 + 2 * 0.01, rel=0.005)
    assert (dark >= 0).all()


@pytest.mark.parametrize(("coils", "tolerance"), [(1, 1e-5), (6, 0.015)])
def test_full_sampling_gives_the_image_back(head: np.ndarray, coils: int, tolerance: float) -> None:
    patch, rng = block(head).clamp_min(0), np.random.default_rng(0)
    recipe = KSpaceRecipe(
        torch.ones(24, 24, dtype=torch.bool),
        coil_maps((24, 24), coils, rng),
        torch.exp(1j * smooth_phase((24, 24), rng)),
        1.05,
    )
    found = undersample(patch, recipe, Quiet(0), generator())  # type: ignore[arg-type]
    assert found.reference.shape == patch.shape
    # SENSE is damped by one percent.
    assert float((found.reference - patch).norm() / patch.norm()) < tolerance


def test_under_sampling_loses_something_and_says_how_much(head: np.ndarray) -> None:
    patch = block(head).clamp_min(0)
    bank = KSpaceBank((24, 24), 0, CPU, 12)
    for seed in range(12):
        recipe = bank.draw(np.random.default_rng(seed))
        found = undersample(patch, recipe, Quiet(seed), generator())  # type: ignore[arg-type]
        assert found.task.acceleration == recipe.acceleration > 1
        assert float(found.known.mean()) == pytest.approx(1 / recipe.acceleration)
        error = float((found.reference - patch).norm() / patch.norm())
        assert 0.005 < error < 0.9


def test_masks_take_the_middle_and_about_their_share() -> None:
    rng = np.random.default_rng(1)
    for _ in range(40):
        mask, acceleration = draw_mask((64, 48), rng)
        assert mask[0, 0]
        assert acceleration == pytest.approx(max(1.05, mask.size / mask.sum()))
        assert 1.05 <= acceleration < 9


def test_coils_see_everything_together() -> None:
    maps = coil_maps((20, 30), 5, np.random.default_rng(0))
    torch.testing.assert_close(maps.abs().square().sum(0), torch.ones(20, 30))
    assert float(maps.abs().std()) > 0.05


def test_appearance_is_a_function_of_its_seeds(head: np.ndarray) -> None:
    patch = block(head)

    def dress(seed: int) -> torch.Tensor:
        rng = np.random.default_rng(seed)
        return augment.extra_noise(augment.bias_field(augment.contrast(patch, rng), rng), rng, generator(seed))

    assert all(torch.equal(dress(seed), dress(seed)) for seed in range(5))
    assert not torch.equal(dress(0), dress(1))
    assert all(torch.isfinite(dress(seed)).all() for seed in range(30))


def test_a_bias_field_is_smooth_and_multiplies() -> None:
    field = augment.bias_field(torch.ones(32, 32, 32), np.random.default_rng(3)).log()
    assert float(field.abs().max()) > 0.05
    assert float(field.diff(dim=0).abs().max()) < 0.1 * float(field.max() - field.min())
    assert augment.bias_field(torch.zeros(8, 8, 8), np.random.default_rng(3)).abs().max() == 0


def test_labels_become_an_image_with_as_many_tissues() -> None:
    labels = torch.zeros(30, 30, 30, dtype=torch.uint8)
    labels[:, :, 10:20], labels[:, :, 20:] = 1, 2
    image = augment.synthesize_from_labels(labels, 2, np.random.default_rng(0), generator())
    assert image.shape == labels.shape
    assert (image >= 0).all()
    means = [float(image[:, :, k : k + 6].mean()) for k in (2, 12, 22)]
    assert min(abs(a - b) for a, b in [(means[0], means[1]), (means[1], means[2])]) > 0.03


def test_smoothing_keeps_constants_and_spreads_a_point() -> None:
    torch.testing.assert_close(augment.smooth(torch.full((9, 9, 9), 2.0), 0.7), torch.full((9, 9, 9), 2.0))
    point = torch.zeros(21, 21, 21)
    point[10, 10, 10] = 1
    spread = augment.smooth(point, 1.2)
    assert float(spread.sum()) == pytest.approx(1, abs=1e-4)
    variance = float((spread.sum((1, 2)) * (torch.arange(21) - 10) ** 2).sum())
    assert math.sqrt(variance) == pytest.approx(1.2, rel=0.1)
