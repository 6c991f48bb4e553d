"""The audit in one run: its bound against closed forms, and on DP-SGD as it runs here, whole and broken."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from medidiff.errors import ConfigError
from medidiff.privacy.canaries import Audit, audit, lower_bound, surprise

pytest.importorskip("opacus")

from medidiff.privacy.accountants import noise_for
from medidiff.training.private_noise import KeyedOptimizer, taking_part

CANARIES, LENGTH, STEPS, SAMPLING, DELTA = 600, 4096, 12, 0.5, 1e-4
CLIP = 2.0


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


def attacked(noise: float, *, longer: float = 1.0) -> Audit:
    """DP-SGD on nothing but canaries: each pushes along a direction of its own, the attacker looks along it.

    The attacker sees every noisy gradient, as the guarantee supposes.
    """
    generator = torch.Generator().manual_seed(7)
    directions = torch.nn.functional.normalize(torch.randn(CANARIES, LENGTH, generator=generator), dim=1)
    planted = torch.rand(CANARIES, generator=generator) < 0.5
    weight = torch.nn.Parameter(torch.zeros(LENGTH))
    sgd = torch.optim.SGD([weight], lr=1.0)
    options = {"noise_multiplier": noise, "max_grad_norm": CLIP, "expected_batch_size": 1}
    optimizer = KeyedOptimizer(sgd, b"k" * 32, **options)
    optimizer.max_grad_norm *= longer
    optimizer.noise_multiplier /= longer
    seen = torch.zeros(LENGTH)
    for step in range(STEPS):
        optimizer.zero_grad()
        for canary in taking_part(optimizer.key, step, CANARIES, SAMPLING):
            if planted[canary]:
                optimizer.contribute([100 * directions[canary]])
        optimizer.finish(step)
        assert weight.grad is not None
        seen += weight.grad
    return audit((directions @ seen).numpy(), planted.numpy(), DELTA)


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
