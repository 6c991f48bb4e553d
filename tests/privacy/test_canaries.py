"""The audit in one run: its bound against closed forms, and on DP-SGD as it runs here, whole and broken."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from medidiff.errors import ConfigError
from medidiff.privacy.canaries import Audit, audit, lower_bound, surprise

pytest.importorskip("opacus")

from benchmarks.canaries import attack
from medidiff.privacy.accountants import noise_for

CANARIES, STEPS, SAMPLING, DELTA = 600, 12, 0.5, 1e-4
SETTING = {"canaries": CANARIES, "length": 4096, "steps": STEPS, "sampling": SAMPLING, "delta": DELTA}


def test_all_right_without_delta_is_a_closed_form() -> None:
    assert lower_bound(100, 100, 100, 0.0) == pytest.approx(-math.log(0.05 ** (-1 / 100) - 1), abs=1e-6)
    assert lower_bound(100, 100, 50, 0.0) == 0
    assert surprise(80, 40, 30, 0.0, 0.0) == pytest.approx(binom.sf(29, 40, 0.5))


@given(st.integers(1, 200), st.floats(0, 1), st.floats(0, 6), st.floats(0, 1e-3))
def test_delta_and_fewer_right_guesses_make_it_less_of_a_surprise(
    guesses: int, right: float, epsilon: float, delta: float
) -> None:
    correct = int(right * guesses)
    here = surprise(200, guesses, correct, epsilon, delta)
    assert here >= surprise(200, guesses, correct, epsilon, 0.0)
    assert 0 <= here <= 1
    if correct:
        assert surprise(200, guesses, correct - 1, epsilon, 0.0) >= surprise(200, guesses, correct, epsilon, 0.0)


def test_an_attacker_who_guesses_finds_nothing_and_one_who_knows_finds_much() -> None:
    rng = np.random.default_rng(0)
    planted = rng.random(CANARIES) < 0.5
    assert audit(rng.random(CANARIES), planted, DELTA).epsilon < 0.5
    assert audit(planted + 0.0, planted, DELTA).epsilon > 3.5
    with pytest.raises(ConfigError, match="as many scores"):
        audit(np.zeros(3), planted, DELTA)


def attacked(noise: float, longer: float = 1.0) -> Audit:
    return attack(noise, **SETTING, longer=longer, seed=7)


@pytest.mark.parametrize("epsilon", [1.0, 4.0])
def test_the_audit_stays_below_the_claim(epsilon: float) -> None:
    found = attacked(noise_for(epsilon, DELTA, SAMPLING, STEPS))
    assert found.epsilon < epsilon
    # The attack is no formality: it is right more often than a coin.
    assert found.correct > 0.55 * found.guesses


def test_without_noise_the_audit_finds_more_than_was_claimed() -> None:
    assert attacked(1e-6).epsilon > 3.5


def test_an_audit_finds_noise_that_is_made_for_a_shorter_clip() -> None:
    """The fault: gradients may be six times as long as the noise is made for."""
    assert attacked(noise_for(1.0, DELTA, SAMPLING, STEPS), longer=6.0).epsilon > 1.0
