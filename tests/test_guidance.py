"""Guidance rules against the closed-form posterior of Gaussian priors."""

from __future__ import annotations

import re
from functools import partial

import pytest
import torch

from medidiff.diffusion.denoiser import Denoiser, Preconditioned
from medidiff.diffusion.path import sigma_schedule
from medidiff.diffusion.sampler import multistep, posterior_mean, sample
from medidiff.errors import ConfigError
from medidiff.guidance import (
    RULES,
    Guidance,
    Posterior,
    condition_from,
    projection,
    proximal,
    rule,
    tweedie,
    unconditional,
    unguided,
)
from medidiff.operators import Identity, Likelihood, LinearOperator, SliceOperator, SliceProfile
from medidiff.restoration.solve import SAMPLE_FROM, SAMPLE_TO
from medidiff.rng import generators
from tests.diffusion.networks import random_unet
from tests.gaussian_prior import GaussianPrior, correlated_prior, white_prior
from tests.guidance_bias import BEGIN, CASES, END, MEASURED, PAGE, SIGMAS, bias, table

SHAPE = (3, 3, 12)
SLICES = SliceOperator((1, *SHAPE), 2, SliceProfile(4, 4))
exact_tweedie = partial(tweedie, steps=300)


@pytest.mark.parametrize("ratio", SIGMAS)
@pytest.mark.parametrize("case", CASES)
def test_converged_tweedie_is_exact_for_any_gaussian(case: str, ratio: float) -> None:
    assert bias(case, exact_tweedie, ratio) < 1e-5


@pytest.mark.parametrize("ratio", SIGMAS)
@pytest.mark.parametrize("operator", [SLICES, Identity((1, *SHAPE))], ids=["slices", "identity"])
@pytest.mark.parametrize("noise_std", [0.0, 0.1, 1.0])
def test_proximal_is_exact_for_a_white_prior(operator: LinearOperator, noise_std: float, ratio: float) -> None:
    assert _distance(white_prior(SHAPE), operator, noise_std, proximal, ratio) < 1e-5


@pytest.mark.parametrize("ratio", SIGMAS)
def test_projection_is_exact_for_a_white_prior_and_binding_data(ratio: float) -> None:
    assert _distance(white_prior(SHAPE), SLICES, 0.0, projection, ratio) < 1e-5
    assert _distance(white_prior(SHAPE), SLICES, 0.3, projection, ratio) > 1e-3


def _distance(prior: GaussianPrior, operator: LinearOperator, noise_std: float, guide: Guidance, ratio: float) -> float:
    sigma, truth = ratio * prior.spread, prior.draw(8, seed=3)
    generator = torch.Generator().manual_seed(4)
    x = truth + sigma * torch.randn(truth.shape, generator=generator, dtype=torch.float64)
    y = operator.forward(truth)
    y = y + noise_std * torch.randn(y.shape, generator=generator, dtype=torch.float64)
    found = guide(prior, Likelihood(operator, y, noise_std), x, torch.full((8,), sigma, dtype=torch.float64))
    exact, _ = prior.posterior(operator, y, noise_std, x, sigma)
    return float((found.flatten(1) - exact).abs().max())


@pytest.mark.parametrize("case", CASES)
def test_every_rule_that_looks_at_the_data_is_nearer_than_the_prior_alone(case: str) -> None:
    """At high noise, where the data says most; projection may copy more noise than it removes, so it is left out."""
    alone = bias(case, unguided, 10.0)
    assert bias(case, proximal, 10.0) < 0.9 * alone
    assert bias(case, tweedie, 10.0) < 0.65 * alone


def test_the_documented_biases_are_the_measured_ones() -> None:
    documented = PAGE.read_text().split(BEGIN)[1].split(END)[0].strip()
    measured = table()
    words = re.compile(r"\b\d\.\d{3}\b")
    assert words.sub("#", documented) == words.sub("#", measured)
    written = torch.tensor([float(n) for n in words.findall(documented)])
    found = torch.tensor([float(n) for n in words.findall(measured)])
    assert len(found) == len(CASES) * len(MEASURED) * len(SIGMAS)
    # The last digit may differ between machines.
    torch.testing.assert_close(written, found, rtol=0.02, atol=0.0011)


def test_the_page_describes_every_rule() -> None:
    page = PAGE.read_text()
    assert all(f"| `{name}` |" in page for name in RULES)


def test_samples_of_the_posterior_have_its_mean_and_covariance() -> None:
    """The whole line: prior, likelihood, rule, sampler; noise in, and what comes out is distributed as it must be."""
    shape, count, noise_std = (2, 2, 6), 4000, 0.2
    prior = correlated_prior(shape)
    operator = SliceOperator((1, *shape), 2, SliceProfile(3, 3))
    y = operator.forward(prior.draw(1, seed=5)) + 0.1
    exact_mean, exact_covariance = prior.posterior(operator, y, noise_std)
    posterior = Posterior(prior, Likelihood(operator, y.expand(count, *y.shape[1:]), noise_std), exact_tweedie)
    drawn = sample(
        posterior,
        (count, 1, *shape),
        sigma_schedule(0.01 * prior.spread, 60 * prior.spread, 30),
        generators=generators(6, count),
        solver=multistep,
        start=prior.mean.reshape(1, 1, *shape).expand(count, -1, -1, -1, -1),
    ).flatten(1)
    deviation = exact_covariance.diagonal().sqrt()
    # 24 means: four standard errors.
    assert float(((drawn.mean(0) - exact_mean[0]) / deviation).abs().max()) < 4 / count**0.5
    found = torch.cov(drawn.T)
    assert float((found - exact_covariance).norm() / exact_covariance.norm()) < 0.1
    assert float((found.diagonal() / exact_covariance.diagonal()).log().mean().abs()) < 0.04
    # The prior's own covariance would not have passed.
    assert float((prior.covariance - exact_covariance).norm() / exact_covariance.norm()) > 0.5


@pytest.mark.parametrize("solver_steps", [1, 4])
def test_projected_samples_reproduce_the_data_whatever_the_network_says(solver_steps: int) -> None:
    operator = SliceOperator((1, 8, 8, 24), 2, SliceProfile(3, 3))
    y = operator.forward(torch.rand(2, 1, 8, 8, 24, generator=torch.Generator().manual_seed(0)))
    likelihood = Likelihood(operator, y)
    prior = Preconditioned(random_unet()).given(condition_from(operator, y))
    posterior = Posterior(prior, likelihood)
    drawn = sample(
        posterior,
        (2, 1, 8, 8, 24),
        sigma_schedule(SAMPLE_TO * prior.spread, SAMPLE_FROM * prior.spread, solver_steps),
        generators=generators(0, 2),
        solver=multistep,
        start=prior.condition.reference,
    )
    assert float(likelihood.misfit(drawn).max()) < 1e-4
    assert float(likelihood.misfit(posterior_mean(posterior, (2, 1, 8, 8, 24))).max()) < 1e-4
    assert float((drawn - prior.condition.reference).std()) > 0.1 * prior.spread


def test_a_posterior_is_a_denoiser_with_its_priors_range() -> None:
    prior = correlated_prior(SHAPE)
    posterior = Posterior(prior, Likelihood(SLICES, torch.zeros(1, *SLICES.out_shape, dtype=torch.float64)))
    assert isinstance(posterior, Denoiser)
    assert (posterior.sigma_min, posterior.sigma_max, posterior.spread) == (
        prior.sigma_min,
        prior.sigma_max,
        prior.spread,
    )


def test_a_condition_says_what_the_operator_did() -> None:
    operator = SliceOperator((1, 4, 4, 16), 2, SliceProfile(4, 2, "gaussian"))
    y = torch.rand(2, *operator.out_shape)
    condition = condition_from(operator, y, noise_std=0.05)
    torch.testing.assert_close(operator.forward(condition.reference), y, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(condition.task[1], torch.tensor([2 / 3, 0.5, 1.0, 0.0, 0.5, 0.0, 0.0, 1.0]))
    assert condition.scale.tolist() == pytest.approx([operator.task(0.05).scale] * 2)
    nothing = unconditional((2, 1, 4, 4, 4))
    assert nothing.task.abs().max() == 0
    assert nothing.scale.tolist() == pytest.approx([0.35, 0.35])


def test_rules_are_found_by_name() -> None:
    assert all(rule(name) is guide for name, guide in RULES.items())
    with pytest.raises(ConfigError, match="projection"):
        rule("magic")
