"""Set against set, held against independent implementations, closed forms and brute force."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from medidiff.errors import InputError
from medidiff.metrics.sets import (
    alpha_precision_curve,
    authenticity,
    beta_recall_curve,
    coverage,
    density,
    fid,
    frechet,
    integrated,
    kid,
    mean_pair,
    mmd2,
    mmd2_interval,
    ms_ssim_pairs,
    precision,
    rbf_mmd,
    recall,
)
from medidiff.metrics.sets.kernels import RBF, median_distance, polynomial_kernel
from medidiff.metrics.sets.typicality import LEVELS

Array = NDArray[np.float64]


def gaussians(n: int = 60, m: int = 45, d: int = 8, shift: float = 0.4, seed: int = 0) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, d)), rng.standard_normal((m, d)) + shift


def test_kid_is_that_of_torchmetrics() -> None:
    import torch
    from torchmetrics.image.kid import poly_mmd

    real, fake = gaussians(50, 50)  # torchmetrics has one n for both
    theirs = poly_mmd(torch.from_numpy(real), torch.from_numpy(fake), degree=3, gamma=None, coef=1.0)
    assert kid(real, fake) == pytest.approx(float(theirs), abs=1e-9)


def test_mmd_is_the_sum_over_pairs() -> None:
    real, fake = gaussians(7, 5, 3)
    kernel = RBF(1.3)

    def k(x: Array, y: Array) -> float:
        return float(np.exp(-((x - y) ** 2).sum() / (2 * 1.3**2)))

    within_real = np.mean([k(a, b) for i, a in enumerate(real) for j, b in enumerate(real) if i != j])
    within_fake = np.mean([k(a, b) for i, a in enumerate(fake) for j, b in enumerate(fake) if i != j])
    between = np.mean([k(a, b) for a in real for b in fake])
    assert mmd2(real, fake, kernel) == pytest.approx(within_real + within_fake - 2 * between, abs=1e-12)
    assert rbf_mmd(real, fake, 1.3) == pytest.approx(mmd2(real, fake, kernel), abs=1e-12)


def test_mmd_of_two_gaussians_has_a_closed_form() -> None:
    """E k(x, y) = (b^2 / (b^2 + 2))^(d/2) exp(-|m|^2 / (2 (b^2 + 2))) for unit Gaussians a distance |m| apart."""
    d, shift, b = 2, 0.7, 1.5
    found = [rbf_mmd(*gaussians(200, 200, d, shift, seed), b) for seed in range(20)]
    scale = (b**2 / (b**2 + 2)) ** (d / 2)
    expected = 2 * scale * (1 - np.exp(-d * shift**2 / (2 * (b**2 + 2))))
    assert np.mean(found) == pytest.approx(expected, abs=4 * np.std(found) / np.sqrt(len(found)))


def test_same_distribution_gives_zero_on_average_and_not_more() -> None:
    found = [kid(*gaussians(30, 30, 6, 0.0, seed)) for seed in range(60)]
    assert abs(np.mean(found)) < 3 * np.std(found) / np.sqrt(len(found))
    assert min(found) < 0


def test_resamples_lie_about_the_value_and_not_above() -> None:
    """Copies within a resample must not count as pairs of two people."""
    real, fake = gaussians(40, 40, 6, 0.0)
    interval = mmd2_interval(real, fake, polynomial_kernel, seed=0, draws=400)
    assert interval.low < interval.value < interval.high
    assert interval.low < 0 < interval.high


def test_the_bandwidth_is_that_of_real_people() -> None:
    real, fake = gaussians()
    assert rbf_mmd(real, fake) == pytest.approx(rbf_mmd(real, fake, median_distance(real)))
    assert median_distance(np.zeros((3, 2))) == 1.0


def test_neighbours_are_those_of_prdc() -> None:
    from prdc import compute_prdc

    for seed in range(3):
        real, fake = gaussians(40, 33, 4, 0.8, seed)
        theirs = compute_prdc(real, fake, nearest_k=5)
        assert precision(real, fake).mean() == pytest.approx(theirs["precision"], abs=1e-12)
        assert recall(real, fake).mean() == pytest.approx(theirs["recall"], abs=1e-12)
        assert density(real, fake).mean() == pytest.approx(theirs["density"], abs=1e-12)
        assert coverage(real, fake).mean() == pytest.approx(theirs["coverage"], abs=1e-12)


def test_more_neighbours_than_there_are_is_refused() -> None:
    real, fake = gaussians(5, 9)
    with pytest.raises(InputError, match="5-th nearest of 5"):
        precision(real, fake, 5)


def test_frechet_is_that_of_a_matrix_root() -> None:
    from scipy.linalg import sqrtm

    real, fake = gaussians(100, 100, 5)
    a, b = np.cov(real, rowvar=False), np.cov(fake, rowvar=False) * 1.7
    root = np.trace(sqrtm(a @ b)).real
    expected = ((real.mean(0) - fake.mean(0)) ** 2).sum() + np.trace(a) + np.trace(b) - 2 * root
    assert frechet(real.mean(0), a, fake.mean(0), b) == pytest.approx(expected, abs=1e-6)


def test_fid_is_that_of_torchmetrics_and_hidden_for_few() -> None:
    import torch
    from torchmetrics.image.fid import _compute_fid

    real, fake = gaussians(80, 90, 8)
    mine = fid(real, fake)
    moments = [torch.from_numpy(f(x)) for x in (real, fake) for f in (lambda x: x.mean(0), lambda x: np.cov(x.T))]
    assert mine == pytest.approx(float(_compute_fid(*moments)), abs=1e-6)
    assert fid(real[:79], fake) is None


def test_alpha_precision_beta_recall_and_authenticity_by_their_definitions() -> None:
    real, fake = gaussians(23, 17, 3, 0.5)
    curve, other = alpha_precision_curve(real, fake), beta_recall_curve(real, fake)
    centre, middle = real.mean(0), fake.mean(0)
    for place, level in enumerate(LEVELS):
        reach = np.quantile([np.linalg.norm(x - centre) for x in real], level)
        inside = np.quantile([np.linalg.norm(x - middle) for x in fake], level)
        for j, x in enumerate(fake):
            assert curve[j, place] == (np.linalg.norm(x - centre) <= reach)
        for i, x in enumerate(real):
            own = min(np.linalg.norm(x - y) for k, y in enumerate(real) if k != i)
            typical = [y for y in fake if np.linalg.norm(y - middle) <= inside]
            assert other[i, place] == any(np.linalg.norm(x - y) <= own for y in typical)
    for j, flag in enumerate(authenticity(real, fake)):
        apart = [np.linalg.norm(fake[j] - x) for x in real]
        i = int(np.argmin(apart))
        own = min(np.linalg.norm(real[i] - y) for k, y in enumerate(real) if k != i)
        assert flag == (apart[i] > own)


def test_a_set_like_the_real_has_right_shares_and_a_copy_is_not_authentic() -> None:
    real, fake = gaussians(600, 600, 4, 0.0)
    assert integrated(alpha_precision_curve(real, fake)) > 0.9
    assert integrated(alpha_precision_curve(real, fake + 5)) < 0.1
    assert authenticity(real, real[:50]).sum() == 0
    assert 0.3 < authenticity(real, fake).mean() < 0.7


@given(st.floats(0.5, 20), st.integers(0, 5))
def test_neighbours_know_no_unit(scale: float, seed: int) -> None:
    real, fake = gaussians(20, 20, 3, 0.5, seed)
    for metric in (precision, recall, density, coverage):
        assert np.array_equal(metric(real, fake), metric(real * scale, fake * scale))


def test_kid_and_copies() -> None:
    real, fake = gaussians(30, 30, 3, 0.0)
    assert recall(real, fake[np.arange(30) % 2]).mean() == 0
    assert coverage(real, fake).mean() > coverage(real, fake[np.arange(30) % 2]).mean()


def test_two_sets_of_other_features_are_refused() -> None:
    with pytest.raises(InputError, match="of one length"):
        kid(np.zeros((4, 3)), np.zeros((4, 2)))
    with pytest.raises(InputError, match="two or more"):
        kid(np.zeros((1, 3)), np.zeros((4, 3)))


def volumes(n: int, seed: int = 0) -> Array:
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(seed)
    smooth = np.stack([gaussian_filter(rng.standard_normal((30, 28, 32)), 2.0) for _ in range(n)])
    return (smooth / smooth.std() * 0.2 + 0.5)[:, None]


def test_ms_ssim_is_made_of_torchmetrics_own_ssim() -> None:
    """The same weights and window, on windows that lie inside: contrast at the finer scale, SSIM at the coarser."""
    import torch
    from torchmetrics.functional.image.ssim import _ssim_update

    from medidiff.metrics.sets.diversity import SIGMA, WEIGHTS, WINDOW

    images = volumes(3)
    table = ms_ssim_pairs(images)
    pool = torch.nn.functional.avg_pool3d
    x, y = (pool(torch.from_numpy(images[place : place + 1]).float(), 2) for place in (0, 2))
    options = {"gaussian_kernel": True, "sigma": SIGMA, "kernel_size": WINDOW, "data_range": 1.0}
    _, contrast = _ssim_update(x, y, **options, return_contrast_sensitivity=True)
    _, maps = _ssim_update(pool(x, 2), pool(y, 2), **options, return_full_image=True)
    edge = WINDOW // 2
    inner = maps[..., edge:-edge, edge:-edge, edge:-edge].mean()
    expected = float(contrast.relu()[0] ** WEIGHTS[0] * inner.relu() ** WEIGHTS[1])
    assert table[0, 2] == pytest.approx(expected, abs=1e-6)
    assert np.array_equal(table, table.T)
    assert np.array_equal(np.diag(table), np.ones(3))


def test_the_same_volume_twice_is_alike_and_small_ones_are_refused() -> None:
    image = volumes(1)
    assert ms_ssim_pairs(np.concatenate([image, image]))[0, 1] == pytest.approx(1, abs=1e-6)
    with pytest.raises(InputError, match="28 voxels"):
        ms_ssim_pairs(np.zeros((2, 1, 27, 28, 28)))


def test_the_mean_pair_counts_no_item_with_itself() -> None:
    table = np.array([[1, 0.2, 0.4], [0.2, 1, 0.6], [0.4, 0.6, 1]])
    interval = mean_pair(table, seed=0, draws=200)
    assert interval.value == pytest.approx(0.4)
    assert 0.2 <= interval.low <= interval.value <= interval.high <= 0.6
