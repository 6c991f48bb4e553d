"""The expected error: quantiles that are known in closed form come back."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from medidiff.errors import InputError
from medidiff.uncertainty import ErrorScale, fit_scale, observe
from medidiff.uncertainty.scale import quantile_regression
from tests.uncertainty.results import scale, seen


@pytest.mark.parametrize("quantile", [0.1, 0.5, 0.9])
def test_quantiles_of_a_line_with_gaussian_noise(quantile: float) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40_000, 2))
    y = 1 + x @ [2.0, -0.5] + 0.3 * rng.normal(size=len(x))
    *weights, bias = quantile_regression(x, y, quantile)
    np.testing.assert_allclose(weights, [2.0, -0.5], atol=0.01)
    assert bias == pytest.approx(1 + 0.3 * stats.norm.ppf(quantile), abs=0.01)


def test_a_constant_predictor_does_no_harm() -> None:
    y = np.random.default_rng(0).normal(size=5000)
    *_, weight, bias = quantile_regression(np.ones((5000, 1)), y, 0.9)
    assert weight + bias == pytest.approx(np.quantile(y, 0.9), abs=0.02)


@pytest.mark.parametrize("spread", [False, True])
def test_errors_drawn_from_a_scale_teach_it(spread: bool) -> None:
    """Errors with a known 90% quantile at every voxel: the fitted map covers nine in ten, near edges and far."""
    rng = np.random.default_rng(1)
    true = scale() if not spread else ErrorScale({**scale().weights, "spread": 0.4}, 0.2)
    people = []
    for number in range(6):
        one = seen(number, (28, 28, 28), spread=spread)
        error = true(one) * rng.normal(size=one.mean.shape) / stats.norm.ppf(0.95)
        people.append((one, error))
    where = np.ones((28, 28, 28), dtype=bool)
    fitted = fit_scale([observe(one, error, where, rng) for one, error in people[:4]], coverage=0.9)
    for one, error in people[4:]:
        expected = fitted(one)
        held = np.abs(error) <= expected
        assert held.mean() == pytest.approx(0.9, abs=0.015)
        for part in (expected < np.quantile(expected, 0.2), expected > np.quantile(expected, 0.8)):
            assert held[part].mean() == pytest.approx(0.9, abs=0.03)


def test_a_map_follows_the_units_of_the_scan() -> None:
    one = seen()
    larger = type(one)(1000 * one.mean, 1000 * one.baseline, one.known, one.axis)
    np.testing.assert_allclose(scale()(larger), 1000 * scale()(one), rtol=2e-3)


def test_clues_that_are_missing_or_too_many_are_refused() -> None:
    with pytest.raises(InputError, match="the result has"):
        scale()(seen(spread=True))
    rng, where = np.random.default_rng(0), np.ones((18, 20, 22), dtype=bool)
    with pytest.raises(InputError, match="same clues"):
        fit_scale([observe(seen(spread=s), np.ones(where.shape), where, rng) for s in (False, True)], coverage=0.9)
    with pytest.raises(InputError, match="at least one person"):
        fit_scale([], coverage=0.9)
    with pytest.raises(InputError, match="empty"):
        observe(seen(), np.ones(where.shape), ~where, rng)
