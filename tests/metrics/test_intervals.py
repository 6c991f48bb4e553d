"""Bootstrap intervals: coverage on a known law, pairing, and blocks that add up."""

from __future__ import annotations

import numpy as np
import pytest

from medidiff.errors import InputError
from medidiff.metrics import block_sums, bootstrap, gain_interval, psnr, psnr_interval


def mean(sums: np.ndarray) -> np.ndarray:
    return sums[..., 0] / sums[..., 1]


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for trial in range(200):
        rows = np.stack([rng.normal(5, 2, 60), np.ones(60)], axis=1)
        interval = bootstrap(rows, mean, seed=trial, unit="person", draws=400)
        hits += interval.low <= 5 <= interval.high
    assert 0.89 < hits / 200 < 0.99


def test_the_interval_is_as_wide_as_theory_says() -> None:
    rows = np.stack([np.random.default_rng(1).normal(5, 2, 400), np.ones(400)], axis=1)
    interval = bootstrap(rows, mean, seed=0, unit="person")
    expected = 2 * 1.96 * rows[:, 0].std() / 20
    assert interval.high - interval.low == pytest.approx(expected, rel=0.1)
    assert interval.value == pytest.approx(rows[:, 0].mean())


def test_block_sums_add_up_to_the_whole() -> None:
    rng = np.random.default_rng(0)
    x, t = rng.random((2, 37, 41, 29))
    mask = rng.random(t.shape) > 0.4
    error = (x - t) ** 2
    table = block_sums([error, np.abs(x - t)], mask, edge=10)
    assert table[:, 0].sum() == pytest.approx(error[mask].sum())
    assert table[:, 2].sum() == mask.sum()
    assert len(table) == 4 * 5 * 3
    first = (slice(0, 10),) * 3
    assert table[0, 0] == pytest.approx(error[first][mask[first]].sum())


def test_the_psnr_interval_holds_the_psnr() -> None:
    rng = np.random.default_rng(0)
    t = rng.random((48, 48, 48))
    x = t + rng.normal(0, 0.02, t.shape) * np.linspace(0.2, 2, 48)[:, None, None]
    mask = np.ones(t.shape, dtype=bool)
    interval = psnr_interval(x, t, data_range=1.0, mask=mask, seed=0, edge=12)
    assert interval.value == pytest.approx(psnr(x, t, data_range=1.0))
    assert interval.low < interval.value < interval.high
    assert interval.count == 64


def test_a_paired_gain_is_sharper_than_its_parts() -> None:
    rng = np.random.default_rng(0)
    t = rng.random((48, 48, 48))
    error = rng.normal(0, 0.02, t.shape) * np.linspace(0.2, 2, 48)[:, None, None]
    mask = np.ones(t.shape, dtype=bool)
    gain = gain_interval(t + error / 2, t + error, t, mask=mask, seed=0, edge=12)
    assert gain.value == pytest.approx(20 * np.log10(2))
    alone = psnr_interval(t + error, t, data_range=1.0, mask=mask, seed=0, edge=12)
    assert gain.high - gain.low < 1e-6 < alone.high - alone.low


def test_one_unit_gives_no_interval() -> None:
    with pytest.raises(InputError, match="at least two"):
        bootstrap(np.ones((1, 2)), mean, seed=0, unit="person")
