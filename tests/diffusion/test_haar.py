"""The Haar transform: orthonormal, invertible, and white noise stays white."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from medidiff.diffusion.haar import bands, haar, inverse_haar
from medidiff.errors import GeometryError
from medidiff.volume import Volume

SPLITS = st.tuples(*[st.sampled_from([1, 2, 4])] * 3)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(split=SPLITS, blocks=st.tuples(*[st.integers(1, 3)] * 3), channels=st.integers(1, 2))
def test_it_is_inverted_exactly_and_keeps_every_inner_product(
    split: tuple[int, int, int], blocks: tuple[int, int, int], channels: int
) -> None:
    size = [s * n for s, n in zip(split, blocks, strict=True)]
    x, y = noise(2, channels, *size), noise(2, channels, *size, seed=1)
    w = haar(x, split)
    assert tuple(w.shape) == (2, channels * bands(split), *blocks)
    torch.testing.assert_close(inverse_haar(w, split), x, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close((w * haar(y, split)).sum(), (x * y).sum(), rtol=1e-10, atol=1e-10)


@given(split=SPLITS)
def test_the_first_band_of_each_channel_is_the_mean(split: tuple[int, int, int]) -> None:
    x = noise(1, 2, 8, 8, 8)
    first = haar(x, split)[:, :: bands(split)]
    mean = torch.nn.functional.avg_pool3d(x, split)
    torch.testing.assert_close(first, mean * bands(split) ** 0.5)


def test_a_constant_has_no_detail() -> None:
    w = haar(torch.full((1, 1, 8, 8, 8), 3.0), (2, 4, 2))
    assert w[:, 1:].abs().max() < 1e-6


def test_a_step_along_one_axis_shows_in_its_own_band_only() -> None:
    x = torch.zeros(1, 1, 2, 2, 2)
    x[..., 1] = 1
    w = haar(x).flatten()
    # Bands count k fastest: band 1 is the difference along k.
    assert torch.nonzero(w.abs() > 1e-6).flatten().tolist() == [0, 1]


def test_white_noise_stays_white() -> None:
    w = haar(noise(1, 1, 64, 64, 64)).reshape(8, -1)
    covariance = w @ w.T / w.shape[1]
    # 32768 samples: standard error 0.0055 off and 0.008 on the diagonal; five of them.
    assert (covariance - torch.eye(8, dtype=torch.float64)).abs().max() < 0.04


def test_a_head_has_its_energy_in_the_mean_band(mni: Volume) -> None:
    x = torch.from_numpy(mni.data[None, :, :192, :232, :188].copy())
    w = haar(x)
    assert float(w[:, 0].square().sum() / w.square().sum()) > 0.98
    torch.testing.assert_close(inverse_haar(w), x, rtol=1e-5, atol=1e-5 * float(x.max()))


def test_an_axis_that_does_not_divide_is_refused() -> None:
    with pytest.raises(GeometryError, match="divisible"):
        haar(torch.zeros(1, 1, 8, 7, 8))
    with pytest.raises(GeometryError, match="1, 2 or 4"):
        haar(torch.zeros(1, 1, 9, 9, 9), (3, 3, 3))
