"""Accountants: against a closed form, against Google's library, against each other."""

from __future__ import annotations

import math

import pytest
from scipy.stats import norm

from medidiff.errors import ConfigError
from medidiff.privacy.accountants import AGREEMENT, noise_for, pld_epsilon, spent

pytest.importorskip("opacus")

# By dp-accounting 0.6.0 (Google), from_gaussian_mechanism(..., sampling_prob) with connected dots at 1e-3, composed.
GOOGLE = [
    (1.0, 0.25, 50, 1 / 1600, 9.45361),
    (2.861, 0.25, 50, 1 / 1600, 1.98841),
    (1.87, 0.5, 50, 1 / 1600, 7.98473),
    (0.682, 0.05, 200, 1 / 1600, 7.99686),
    (5.0, 0.25, 50, 1 / 1600, 0.98585),
    (1.0, 0.01, 1000, 1e-5, 1.82893),
    (2.461, 0.9, 30, 1 / 1600, 7.98868),
]


@pytest.mark.parametrize(("noise", "steps"), [(0.8, 1), (3.0, 9), (6.0, 40)])
def test_without_sampling_it_is_the_gaussian_mechanism(noise: float, steps: int) -> None:
    """Source of the closed form: Balle & Wang (2018), Improving the Gaussian Mechanism, theorem 8."""
    one, epsilon = noise / math.sqrt(steps), 2.0
    delta = norm.cdf(1 / (2 * one) - epsilon * one) - math.exp(epsilon) * norm.cdf(-1 / (2 * one) - epsilon * one)
    found = pld_epsilon(noise, 1.0, steps, delta)
    assert epsilon <= found < epsilon * 1.002


@pytest.mark.parametrize(("noise", "sampling", "steps", "delta", "expected"), GOOGLE)
def test_it_is_what_googles_library_says_from_above(
    noise: float, sampling: float, steps: int, delta: float, expected: float
) -> None:
    assert expected * 0.9999 <= pld_epsilon(noise, sampling, steps, delta) < expected * 1.008


@pytest.mark.parametrize(("noise", "sampling", "steps", "delta", "expected"), GOOGLE)
def test_two_accountants_agree_and_renyi_does_not(
    noise: float, sampling: float, steps: int, delta: float, expected: float
) -> None:
    found = spent(noise, sampling, steps, delta)
    assert found.disagreement < AGREEMENT / 2
    assert found.epsilon == max(found.prv, found.pld)
    assert found.rdp > found.epsilon * (1 + AGREEMENT)


@pytest.mark.parametrize("epsilon", [1.0, 8.0])
def test_noise_is_enough_and_not_much_more(epsilon: float) -> None:
    noise = noise_for(epsilon, 1 / 1600, 0.25, 50)
    whole = spent(noise, 0.25, 50, 1 / 1600).epsilon
    assert 0.985 * epsilon < whole <= epsilon
    half = spent(noise, 0.25, 25, 1 / 1600).epsilon
    assert 0 < half < 0.8 * whole
    assert spent(noise, 0.25, 51, 1 / 1600).epsilon > whole
    assert spent(noise, 0.25, 0, 1 / 1600).epsilon == 0


def test_what_no_accountant_can_answer_is_refused() -> None:
    for noise, sampling, steps, delta in (
        (0.0, 0.5, 1, 0.1),
        (1.0, 1.5, 1, 0.1),
        (1.0, 0.5, 0, 0.1),
        (1.0, 0.5, 1, 1.0),
    ):
        with pytest.raises(ConfigError, match="an accountant needs"):
            pld_epsilon(noise, sampling, steps, delta)
