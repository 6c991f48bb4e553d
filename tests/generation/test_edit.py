"""Regenerating part of an image: what is kept is kept, what is drawn follows the prior, and a seam is seen."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from medidiff.errors import ConfigError, InputError
from medidiff.generation.edit import RENOISE, EditSettings, Window, regenerate, seam
from tests.gaussian_prior import GaussianPrior, correlated_covariance

SHAPE = (8, 5, 5)


@pytest.fixture(scope="module")
def prior() -> GaussianPrior:
    covariance = correlated_covariance(SHAPE, 4.0, 1.0)
    return GaussianPrior(SHAPE, torch.zeros(len(covariance), dtype=torch.float64), covariance)


@pytest.fixture(scope="module")
def image(prior: GaussianPrior) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    white = torch.randn(len(prior.covariance), generator=generator, dtype=torch.float64)
    return (torch.linalg.cholesky(prior.covariance) @ white).view(1, 1, *SHAPE)


@pytest.fixture(scope="module")
def keep() -> torch.Tensor:
    kept = torch.ones(1, *SHAPE, dtype=torch.bool)
    kept[:, 2:6, 1:4, 1:4] = False
    return kept


@pytest.mark.parametrize("guidance", ["projection", "tweedie"])
@pytest.mark.parametrize("solver", ["multistep", "heun", RENOISE])
@pytest.mark.parametrize("strength", [0.3, 1.0])
def test_what_is_kept_is_kept_to_the_last_bit(
    prior: GaussianPrior, image: torch.Tensor, keep: torch.Tensor, guidance: str, solver: str, strength: float
) -> None:
    settings = EditSettings(strength=strength, steps=4, solver=solver, guidance=guidance, seed=1, samples=2)
    first, second = regenerate(prior, image, keep, settings)
    for drawn in (first, second):
        assert torch.equal(drawn[:, keep], image[:, keep])
        assert not torch.equal(drawn[:, ~keep], image[:, ~keep])
    assert not torch.equal(first, second)


def test_samples_follow_the_conditional_distribution(
    prior: GaussianPrior, image: torch.Tensor, keep: torch.Tensor
) -> None:
    """Against the closed form: mean and variance of what is unknown, given what is known."""
    known = keep.flatten()
    gain = prior.covariance[~known][:, known] @ torch.linalg.inv(prior.covariance[known][:, known])
    mean = gain @ image.flatten()[known]
    left = prior.covariance[~known][:, ~known] - gain @ prior.covariance[known][:, ~known]

    def moments(guidance: str) -> tuple[float, float]:
        settings = EditSettings(steps=16, guidance=guidance, samples=60)
        drawn = torch.cat(regenerate(prior, image, keep, settings)).flatten(1)[:, ~known]
        error = (drawn.mean(0) - mean).square().mean().sqrt() / left.diagonal().mean().sqrt()
        return float(error), float(drawn.var(0).mean() / left.diagonal().mean())

    error, variance = moments("tweedie")
    # 60 samples leave 1 / sqrt(60) = 0.13 of the spread by chance.
    assert error < 0.25
    assert 0.8 < variance < 1.4
    # What a generator that was never told of the hole comes to without it: the reason why tweedie is the rule.
    plain_error, plain_variance = moments("projection")
    assert plain_error > 2 * error
    assert plain_variance > 1.5


def test_a_weak_change_stays_near_and_a_full_one_forgets(
    prior: GaussianPrior, image: torch.Tensor, keep: torch.Tensor
) -> None:
    def distance(strength: float) -> float:
        (drawn,) = regenerate(prior, image, keep, EditSettings(strength=strength, steps=12, guidance="tweedie"))
        return float((drawn - image)[:, ~keep].square().mean().sqrt())

    near, middle, far = distance(0.1), distance(0.4), distance(1.0)
    assert near < middle < far
    other = image.clone()
    other[:, ~keep] += 100.0
    settings = EditSettings(steps=6)
    # At full strength the old content may not shine through, however loud it was.
    assert torch.equal(regenerate(prior, other, keep, settings)[0], regenerate(prior, image, keep, settings)[0])


def test_a_sample_does_not_depend_on_how_many_are_drawn(
    prior: GaussianPrior, image: torch.Tensor, keep: torch.Tensor
) -> None:
    one = regenerate(prior, image, keep, EditSettings(steps=4, seed=5))
    three = regenerate(prior, image, keep, EditSettings(steps=4, seed=5, samples=3))
    assert torch.equal(one[0], three[0])


@pytest.mark.parametrize(
    "wrong",
    [{"strength": 0.0}, {"strength": 1.1}, {"samples": 0}, {"steps": 1}, {"solver": "magic"}, {"guidance": "no"}],
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, float | str]) -> None:
    with pytest.raises(ConfigError):
        EditSettings(**wrong)  # type: ignore[arg-type]


@given(
    scan=st.tuples(*[st.integers(3, 14)] * 3),
    grid=st.tuples(*[st.integers(4, 12)] * 3),
    place=st.tuples(*[st.floats(0, 0.999)] * 3),
)
def test_a_window_holds_its_region_and_goes_back_where_it_was(
    scan: tuple[int, int, int], grid: tuple[int, int, int], place: tuple[float, float, float]
) -> None:
    region = np.zeros(scan, bool)
    start = tuple(int(p * n) for p, n in zip(place, scan, strict=True))
    region[tuple(slice(s, s + 2) for s in start)] = True
    data = np.arange(region.size, dtype=np.float32).reshape(scan)
    window = Window.around(region, grid)
    assert window.cut(region, outside=False).sum() == region.sum()
    part = window.cut(data)
    assert part.shape == grid
    assert set(part.reshape(-1)) <= set(data.reshape(-1))
    for offset, size, n in zip(window.start, grid, scan, strict=True):
        assert (0 <= offset <= n - size) if n >= size else offset == -((size - n) // 2)
    whole = data.copy()
    window.paste(-part, whole, region)
    assert np.array_equal(whole[region], -data[region])
    assert np.array_equal(whole[~region], data[~region])


def test_a_region_larger_than_the_grid_is_refused() -> None:
    region = np.zeros((20, 20, 20), bool)
    region[3:12, 3:5, 3:5] = True
    with pytest.raises(InputError, match="9 voxels long along axis 0, the model works on 8"):
        Window.around(region, (8, 8, 8))


def test_a_seam_is_seen_and_a_smooth_field_has_none() -> None:
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(24, 24, 24))
    region = np.zeros(noise.shape, bool)
    region[8:16, 8:16, 8:16] = True
    assert seam(noise, region) == pytest.approx(1, abs=0.1)
    assert seam(noise + 5.0 * region, region) > 3
    assert np.isnan(seam(noise, np.zeros_like(region)))
    assert np.isnan(seam(np.zeros_like(noise), region))
