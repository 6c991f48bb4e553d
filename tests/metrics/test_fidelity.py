"""Scores against scikit-image and MONAI, and against faults planted in a real head."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import ndimage
from skimage import metrics as skimage_metrics

from medidiff.errors import InputError
from medidiff.metrics import (
    data_consistency,
    gradient_error,
    head_mask,
    hfen,
    mae,
    ms_ssim,
    nrmse,
    psnr,
    robust_range,
    scores,
    seam_index,
    ssim,
)
from medidiff.metrics.fidelity import ms_ssim_scales

HIGHER_IS_BETTER = {
    "psnr": True,
    "ssim": True,
    "ssim_whole": True,
    "nrmse": False,
    "hfen": False,
    "gradient_error": False,
}


@pytest.fixture(scope="module")
def template() -> np.ndarray:
    """A real head: nilearn's MNI152 T1 at 2 mm, with its skull, shape (99, 117, 95)."""
    from nilearn.datasets import load_mni152_template

    return np.asarray(load_mni152_template(resolution=2).dataobj, dtype=np.float64)


@pytest.fixture(scope="module")
def crop(template: np.ndarray) -> np.ndarray:
    return template[30:70, 30:74, 20:62]


@pytest.fixture(scope="module")
def noisy(crop: np.ndarray) -> np.ndarray:
    return crop + 0.05 * np.random.default_rng(0).standard_normal(crop.shape)


def test_scores_agree_with_scikit_image(crop: np.ndarray, noisy: np.ndarray) -> None:
    theirs = skimage_metrics.structural_similarity(
        noisy, crop, data_range=0.9, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    assert ssim(noisy, crop, data_range=0.9) == pytest.approx(theirs, abs=1e-9)
    theirs = skimage_metrics.peak_signal_noise_ratio(crop, noisy, data_range=0.9)
    assert psnr(noisy, crop, data_range=0.9) == pytest.approx(theirs, abs=1e-9)
    assert nrmse(noisy, crop) == pytest.approx(skimage_metrics.normalized_root_mse(crop, noisy), abs=1e-9)


def test_scores_agree_with_monai(crop: np.ndarray, noisy: np.ndarray) -> None:
    torch = pytest.importorskip("torch")
    from monai.metrics import MultiScaleSSIMMetric, PSNRMetric, SSIMMetric

    x, t = (torch.from_numpy(a)[None, None] for a in (noisy, crop))
    assert ssim(x, t, data_range=0.9) == pytest.approx(float(SSIMMetric(3, data_range=0.9)(x, t)), abs=1e-6)
    assert psnr(x, t, data_range=0.9) == pytest.approx(float(PSNRMetric(max_val=0.9)(x, t)), abs=1e-5)
    x = 0.8 * x  # a wrong brightness counts at the coarsest scale alone
    weights = (0.0448, 0.2856)  # two scales fit in this crop
    total = sum(weights)
    theirs = MultiScaleSSIMMetric(3, data_range=0.9, weights=[w / total for w in weights])(x, t)
    assert ms_ssim(x, t, data_range=0.9, scales=2) == pytest.approx(float(theirs), abs=1e-5)


FAULTS = {
    "blur": lambda x: ndimage.gaussian_filter(x, 0.7),
    "more blur": lambda x: ndimage.gaussian_filter(x, 1.2),
    "noise": lambda x: x + 0.02 * np.random.default_rng(1).standard_normal(x.shape),
    "shift": lambda x: np.roll(x, 1, axis=2),
    "scale": lambda x: 1.1 * x,
    "one slice lost": lambda x: np.concatenate([x[:, :, :20], x[:, :, 19:20], x[:, :, 21:]], axis=2),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_every_score_sees_every_planted_fault(crop: np.ndarray, fault: str) -> None:
    everywhere = np.ones(crop.shape, dtype=bool)
    perfect = scores(crop, crop, data_range=1.0, mask=everywhere)
    worse = scores(FAULTS[fault](crop), crop, data_range=1.0, mask=everywhere)
    for name, higher in HIGHER_IS_BETTER.items():
        assert worse[name] < perfect[name] - 1e-4 if higher else worse[name] > perfect[name] + 1e-4, name


@pytest.mark.parametrize("score", HIGHER_IS_BETTER)
def test_a_worse_fault_scores_worse(crop: np.ndarray, score: str) -> None:
    mask = crop > 0.1
    values = [
        scores(ndimage.gaussian_filter(crop, sigma), crop, data_range=1.0, mask=mask)[score]
        for sigma in (0.5, 0.8, 1.5)
    ]
    assert values == sorted(values, reverse=HIGHER_IS_BETTER[score])


def test_high_frequency_error_sees_blur_rather_than_a_bias_field(crop: np.ndarray) -> None:
    field = 1 + 0.08 * np.linspace(-1, 1, crop.shape[0])[:, None, None]
    biased, blurred = crop * field, ndimage.gaussian_filter(crop, 0.6)
    assert nrmse(biased, crop) > 0.5 * nrmse(blurred, crop)  # of like size to the eye of NRMSE
    assert hfen(biased, crop) < 0.4 * hfen(blurred, crop)


def test_hfen_of_nothing_is_one(crop: np.ndarray) -> None:
    assert hfen(np.zeros_like(crop), crop) == pytest.approx(1.0)
    assert hfen(crop, crop) == 0
    assert gradient_error(np.zeros_like(crop), crop) == pytest.approx(1.0)


def test_gradient_error_weighs_axes_by_spacing(crop: np.ndarray) -> None:
    wavy = crop + 0.1 * np.sin(np.arange(crop.shape[2]))  # an error along k alone
    thick, thin = (gradient_error(wavy, crop, spacing=(1, 1, s)) for s in (5.0, 1.0))
    assert thick < 0.5 * thin


def test_the_mask_decides_what_counts(crop: np.ndarray) -> None:
    mask = np.zeros(crop.shape, dtype=bool)
    mask[:20] = True
    spoiled = crop.copy()
    spoiled[30:] += 0.3
    assert psnr(spoiled, crop, data_range=1.0, mask=mask) == math.inf
    assert mae(spoiled, crop, mask=mask) == 0
    assert hfen(spoiled, crop, mask=mask) == 0  # ten voxels away: beyond the filter's seven
    assert psnr(spoiled, crop, data_range=1.0, mask=~mask) < psnr(spoiled, crop, data_range=1.0)


def test_masked_ssim_is_the_mean_of_the_full_map(template: np.ndarray) -> None:
    """Cutting to the mask's bounding box may not change a voxel's value."""
    x = ndimage.gaussian_filter(template, 0.8)
    mask = np.zeros(template.shape, dtype=bool)
    mask[30:60, 40:80, 25:50] = template[30:60, 40:80, 25:50] > 0.3
    _, full = skimage_metrics.structural_similarity(
        x, template, data_range=1.0, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, full=True
    )
    assert ssim(x, template, data_range=1.0, mask=mask) == pytest.approx(full[mask].mean(), abs=1e-9)


def test_background_flatters_ssim(template: np.ndarray) -> None:
    x = ndimage.gaussian_filter(template, 0.8)
    row = scores(x, template, data_range=1.0, mask=head_mask(template, spacing=(2, 2, 2)))
    assert row["ssim"] < row["ssim_whole"]


def test_ms_ssim_takes_the_scales_that_fit() -> None:
    assert ms_ssim_scales((160, 217, 235)) == 4
    assert ms_ssim_scales((176, 176, 176)) == 5
    assert ms_ssim_scales((40, 44, 42)) == 2
    with pytest.raises(InputError, match="at most 2"):
        ms_ssim(np.zeros((40, 44, 42)), np.zeros((40, 44, 42)), data_range=1.0, scales=5)


def test_robust_range_ignores_one_bright_voxel(crop: np.ndarray) -> None:
    spiked = crop.copy()
    spiked[0, 0, 0] = 50
    assert robust_range(spiked) == pytest.approx(robust_range(crop), rel=1e-2)
    hounsfield = crop * 2000 - 1000
    assert robust_range(hounsfield) == pytest.approx(2000 * robust_range(crop), rel=0.1)


class Mean4:
    """Means of four slices: what a scan of thick slices does."""

    def forward(self, x: np.ndarray) -> np.ndarray:
        return x.reshape(*x.shape[:-1], -1, 4).mean(axis=-1)


def test_data_consistency_sees_what_the_scanner_would_see(crop: np.ndarray) -> None:
    x = crop[:, :, :40]
    y = Mean4().forward(x)
    assert data_consistency(Mean4(), x, y) < 1e-15
    assert data_consistency(Mean4(), 1.02 * x, y) == pytest.approx(0.02)
    hidden = x + np.resize([0.1, -0.1], x.shape)  # alternates along k: invisible to the scanner
    assert data_consistency(Mean4(), hidden, y) < 1e-12
    with pytest.raises(InputError, match="measurements"):
        data_consistency(Mean4(), x, y[:, :, 1:])


def test_seam_index_is_one_without_seams_and_sees_a_small_step(template: np.ndarray) -> None:
    boundaries = {0: [33, 66], 2: [32, 64]}
    clean = seam_index(template, boundaries)
    assert 0.7 < clean < 1.3
    stepped = template.copy()
    stepped[33:66] += 0.08
    assert seam_index(stepped, boundaries) > clean + 0.3
    error = np.zeros_like(template)
    error[:, :, 32:64] = 1e-4  # far below the anatomy, plain in the error
    noise = 1e-6 * np.random.default_rng(0).standard_normal(template.shape)
    assert seam_index(error + noise, {2: [32, 64]}) > 50
    assert seam_index(noise, {2: [32, 64]}) == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize(
    ("estimate", "truth", "message"),
    [
        (np.zeros((4, 4)), np.zeros((4, 4)), "needs a volume"),
        (np.zeros((2, 12, 12, 12)), np.zeros((2, 12, 12, 12)), "each channel in turn"),
        (np.zeros((12, 12, 12)), np.zeros((12, 12, 13)), "one grid"),
        (np.full((12, 12, 12), np.nan), np.zeros((12, 12, 12)), "finite"),
        (np.zeros((12, 12, 12), dtype=complex), np.zeros((12, 12, 12)), "magnitude"),
    ],
)
def test_what_cannot_be_scored_is_refused(estimate: np.ndarray, truth: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        psnr(estimate, truth, data_range=1.0)


@pytest.mark.parametrize("data_range", [0.0, -1.0, math.nan, math.inf])
def test_a_range_must_be_a_positive_number(crop: np.ndarray, noisy: np.ndarray, data_range: float) -> None:
    with pytest.raises(InputError, match="data_range"):
        psnr(noisy, crop, data_range=data_range)
    with pytest.raises(InputError, match="data_range"):
        ssim(noisy, crop, data_range=data_range)


def test_an_empty_mask_is_refused(crop: np.ndarray) -> None:
    with pytest.raises(InputError, match="empty"):
        nrmse(crop, crop, mask=np.zeros(crop.shape, dtype=bool))
