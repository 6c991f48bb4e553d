"""Noise planted at a known level must be found again, and the ceiling it implies must hold."""

from __future__ import annotations

import math

import numpy as np
import pytest

from medidiff.errors import InputError
from medidiff.metrics import head_mask, noise_floor, psnr, robust_range


@pytest.fixture(scope="module")
def smooth_head() -> np.ndarray:
    """The MNI152 template is an average of 152 people: anatomy with next to no noise."""
    from nilearn.datasets import load_mni152_template

    return np.pad(np.asarray(load_mni152_template(resolution=1).dataobj, dtype=np.float64), 16)[:, :, 40:140]


@pytest.fixture(scope="module")
def mask(smooth_head: np.ndarray) -> np.ndarray:
    return head_mask(smooth_head)


def rician(x: np.ndarray, sigma: float) -> np.ndarray:
    rng = np.random.default_rng(3)
    return np.abs(x + sigma * (rng.standard_normal(x.shape) + 1j * rng.standard_normal(x.shape)))


@pytest.mark.parametrize("sigma", [0.02, 0.05])
def test_planted_noise_is_found_by_both_opinions(smooth_head: np.ndarray, mask: np.ndarray, sigma: float) -> None:
    floor = noise_floor(rician(smooth_head, sigma), mask)
    assert floor.sigma == pytest.approx(sigma, rel=0.1)
    assert floor.sigma * 0.95 < floor.local_sigma < floor.sigma * 1.35
    assert floor.background_sigma == pytest.approx(sigma, rel=0.05)
    assert floor.correlation is not None
    assert max(abs(c) for c in floor.correlation) < 0.1


def test_the_noise_free_anatomy_scores_the_ceiling(smooth_head: np.ndarray, mask: np.ndarray) -> None:
    truth = smooth_head + 0.03 * np.random.default_rng(0).standard_normal(smooth_head.shape)
    data_range = robust_range(truth, mask)
    perfect = psnr(smooth_head, truth, data_range=data_range, mask=mask)
    assert noise_floor(truth, mask).ceiling(data_range) == pytest.approx(perfect, abs=0.7)


def test_measured_noise_raises_the_ceiling(smooth_head: np.ndarray, mask: np.ndarray) -> None:
    """Exact anatomy plus the share of the noise that four-slice means hold: 10 log10(1 / (1 - 1/4)) better."""
    noise = 0.03 * np.random.default_rng(0).standard_normal(smooth_head.shape)
    measured = np.repeat(noise.reshape(*noise.shape[:2], -1, 4).mean(axis=3), 4, axis=2)
    truth, consistent = smooth_head + noise, smooth_head + measured
    gain = psnr(consistent, truth, data_range=1.0) - psnr(smooth_head, truth, data_range=1.0)
    floor = noise_floor(truth, mask)
    assert floor.ceiling(1.0, unmeasured=3 / 4) - floor.ceiling(1.0) == pytest.approx(gain, abs=0.02)


def test_air_that_is_not_magnitude_noise_gives_no_second_opinion(smooth_head: np.ndarray, mask: np.ndarray) -> None:
    noisy = rician(smooth_head, 0.03)
    masked = np.where(mask, noisy, 0)
    assert noise_floor(masked, mask).background_sigma is None
    lifted = np.where(mask, noisy, noisy + 1)  # a filtered background on a pedestal
    assert noise_floor(lifted, mask).background_sigma is None


def test_interpolated_noise_is_told_by_its_correlation(smooth_head: np.ndarray, mask: np.ndarray) -> None:
    from scipy import ndimage

    floor = noise_floor(ndimage.uniform_filter1d(rician(smooth_head, 0.05), 2, axis=2), mask)
    assert floor.correlation is not None
    assert floor.correlation[2] == pytest.approx(0.5, abs=0.1)
    assert abs(floor.correlation[0]) < 0.1


def test_no_noise_means_no_ceiling() -> None:
    ramp = np.broadcast_to(np.arange(24.0), (24, 24, 24))
    assert noise_floor(ramp, np.ones(ramp.shape)).ceiling(1.0) == math.inf


def test_what_makes_no_sense_is_refused(smooth_head: np.ndarray, mask: np.ndarray) -> None:
    with pytest.raises(InputError, match="too small"):
        noise_floor(smooth_head, np.pad(np.ones((4, 4, 4)), [(0, n - 4) for n in smooth_head.shape]))
    with pytest.raises(InputError, match="unmeasured"):
        noise_floor(smooth_head, mask).ceiling(1.0, unmeasured=0.0)
