"""Samplers on a Gaussian, where the probability-flow equation has a solution that can be written down."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from medidiff.diffusion.path import sigma_schedule
from medidiff.diffusion.sampler import (
    SOLVERS,
    Solver,
    draw_noise,
    euler,
    heun,
    multistep,
    posterior_mean,
    renoise,
    sample,
    stochastic,
)
from medidiff.errors import ConfigError
from medidiff.rng import generators

SHAPE = (1, 1, 4, 4, 4)


@dataclass(frozen=True)
class Gaussian:
    """The exact denoiser of independent voxels with one mean and standard deviation."""

    mean: float = 0.7
    std: float = 0.5
    sigma_min: float = 1e-4
    sigma_max: float = 1e4

    @property
    def spread(self) -> float:
        return self.std

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        gain = self.std**2 / (self.std**2 + sigma.view(-1, 1, 1, 1, 1) ** 2)
        return self.mean + gain * (x - self.mean)

    def flow(self, x: Tensor, sigma: float) -> Tensor:
        """Where the equation carries ``x`` from ``sigma`` to 0: deviations shrink as sqrt(std^2 + sigma^2)."""
        return self.mean + (x - self.mean) * self.std / math.hypot(self.std, sigma)


def geometric(steps: int) -> Tensor:
    levels = torch.logspace(math.log10(20), math.log10(1e-4), steps, dtype=torch.float64)
    return torch.cat([levels, torch.zeros(1, dtype=torch.float64)])


def error(solver: Solver, steps: int) -> float:
    prior, start = Gaussian(), torch.full(SHAPE, 0.2, dtype=torch.float64)
    found = sample(prior, SHAPE, geometric(steps), generators=generators(0, 1), solver=solver, start=start)
    begin = start + 20 * draw_noise(SHAPE, generators(0, 1)).double()
    return float((found - prior.flow(begin, 20)).abs().max())


@pytest.mark.parametrize(
    ("solver", "order"), [(euler, 1), (heun, 2), (multistep, 2)], ids=["euler", "heun", "multistep"]
)
def test_the_order_of_convergence_is_the_claimed_one(solver: Solver, order: int) -> None:
    steps = np.array([64, 128, 256, 512])
    errors = np.array([error(solver, int(n)) for n in steps])
    slope = -np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert slope == pytest.approx(order, abs=0.15)


def test_every_solver_has_its_order_tested() -> None:
    assert set(SOLVERS.values()) == {euler, heun, multistep}


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
def test_samples_have_the_priors_mean_and_spread(solver: Solver) -> None:
    drawn = sample(
        Gaussian(), (2, 1, 20, 20, 20), sigma_schedule(0.01, 50, 60), generators=generators(3, 2), solver=solver
    )
    # 16000 voxels: standard errors 0.004 and 0.003; Euler is 60 steps away from exact.
    assert float(drawn.mean()) == pytest.approx(0.7, abs=0.02)
    assert float(drawn.std()) == pytest.approx(0.5, rel=0.06)


def test_renoising_loses_the_variance_that_theory_says() -> None:
    """Each step maps variance v to a^2 (v + sigma^2), a the gain of the denoiser: a few steps give too little."""
    sigmas, prior = sigma_schedule(0.05, 5.0, 12), Gaussian()
    variance = 0.0
    for sigma in sigmas[:-1].tolist():
        variance = (prior.std**2 / (prior.std**2 + sigma**2)) ** 2 * (variance + sigma**2)
    drawn = sample(
        prior,
        (1, 1, 24, 24, 24),
        sigmas,
        generators=generators(4, 1),
        solver=renoise(generators(5, 1)),
        start=torch.full((1, 1, 24, 24, 24), prior.mean),
    )
    assert float(drawn.std()) == pytest.approx(math.sqrt(variance), rel=0.03)
    assert math.sqrt(variance) < 0.8 * prior.std


def test_without_churn_the_stochastic_solver_is_the_multistep_one() -> None:
    plain = sample(Gaussian(), SHAPE, geometric(12), generators=generators(0, 1), solver=multistep)
    own = generators(0, 1)
    churned = sample(Gaussian(), SHAPE, geometric(12), generators=own, solver=stochastic(own, 0.0))
    torch.testing.assert_close(churned, plain)


@pytest.mark.parametrize("churn", [0.5, 1.0, 2.0])
def test_churn_keeps_the_priors_spread_and_forgets_where_it_began(churn: float) -> None:
    shape, sigmas = (1, 1, 24, 24, 24), sigma_schedule(1e-3, 80, 80)
    own = generators(3, 1)
    found = sample(Gaussian(), shape, sigmas, generators=own, solver=stochastic(own, churn))
    assert float(found.mean()) == pytest.approx(0.7, abs=0.02)
    assert float(found.std()) == pytest.approx(0.5, rel=0.03)
    begun = draw_noise(shape, generators(3, 1))
    likeness = float(torch.corrcoef(torch.stack([found.ravel(), begun.ravel()]))[0, 1])
    # Standing still, the equation remembers all; of deviations, exp(-churn h) a step is left: sigma to the churn.
    assert abs(likeness) < 0.05 if churn >= 1 else likeness < 0.2


def test_churn_drowns_what_a_denoiser_gets_wrong_at_high_noise() -> None:
    @dataclass(frozen=True)
    class Wrong(Gaussian):
        def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
            x0 = super().__call__(x, sigma)
            return x0 + 0.3 * (sigma > 2).view(-1, 1, 1, 1, 1)

    def bias(churn: float) -> float:
        own = generators(1, 1)
        shape = (1, 1, 20, 20, 20)
        found = sample(Wrong(), shape, sigma_schedule(1e-3, 80, 30), generators=own, solver=stochastic(own, churn))
        return abs(float(found.mean()) - 0.7)

    assert bias(1.0) < 0.5 * bias(0.0)


def test_an_items_sample_does_not_depend_on_its_batch() -> None:
    sigmas = sigma_schedule(0.01, 10, 8)
    together = sample(Gaussian(), (3, *SHAPE[1:]), sigmas, generators=generators(7, 3))
    for item in range(3):
        alone = sample(Gaussian(), SHAPE, sigmas, generators=[generators(7, 3)[item]])
        assert torch.equal(together[item], alone[0])
    assert not torch.equal(together[0], together[1])
    assert torch.equal(together, sample(Gaussian(), (3, *SHAPE[1:]), sigmas, generators=generators(7, 3)))


def test_a_start_is_where_sampling_begins() -> None:
    """With little noise on the start, the flow hardly moves it."""
    start = torch.full(SHAPE, 5.0)
    near = sample(Gaussian(), SHAPE, torch.tensor([1e-3, 0.0]), generators=generators(1, 1), start=start)
    torch.testing.assert_close(near, start, rtol=0, atol=0.02)


def test_progress_is_told_after_each_step() -> None:
    told: list[tuple[int, int]] = []
    sample(
        Gaussian(),
        SHAPE,
        sigma_schedule(0.01, 10, 5),
        generators=generators(0, 1),
        on_step=lambda done, total: told.append((done, total)),
    )
    assert told == [(n, 5) for n in range(1, 6)]


@pytest.mark.parametrize(
    "levels", [[], [0.0], [1.0], [1.0, 0.5], [0.5, 1.0, 0.0], [1.0, 1.0, 0.0], [math.nan, 0.0], [math.inf, 1.0, 0.0]]
)
def test_bad_noise_levels_are_refused(levels: list[float]) -> None:
    with pytest.raises(ConfigError, match="noise levels"):
        sample(Gaussian(), SHAPE, torch.tensor(levels), generators=generators(0, 1))


def test_a_generator_for_each_item_is_demanded() -> None:
    with pytest.raises(ConfigError, match="generators"):
        sample(Gaussian(), (2, *SHAPE[1:]), torch.tensor([1.0, 0.0]), generators=generators(0, 1))


def test_the_posterior_mean_asks_at_the_top_of_the_range() -> None:
    estimate = posterior_mean(Gaussian(), (2, *SHAPE[1:]))
    torch.testing.assert_close(estimate, torch.full((2, *SHAPE[1:]), 0.7), rtol=0, atol=1e-5)


def distance_from_a_start(solver: Solver, evaluations: int) -> float:
    """From a start near the mean, as after a classical reconstruction, to where the flow really ends."""
    asked: list[float] = []

    @dataclass(frozen=True)
    class Counted(Gaussian):
        def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
            asked.append(float(sigma[0]))
            return Gaussian.__call__(self, x, sigma)

    prior, steps = Counted(), (evaluations + 1) // 2 if solver is heun else evaluations
    start, levels = torch.full(SHAPE, 0.6, dtype=torch.float64), sigma_schedule(0.01, 4.0, steps)
    found = sample(prior, SHAPE, levels, generators=generators(0, 1), solver=solver, start=start)
    assert len(asked) == (2 * steps - 1 if solver is heun else steps) <= evaluations
    exact = prior.flow(start + 4.0 * draw_noise(SHAPE, generators(0, 1)).double(), 4.0)
    return float((found - exact).abs().max())


@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
def test_one_to_twenty_evaluations_work_and_more_are_better(solver: Solver) -> None:
    few = [distance_from_a_start(solver, n) for n in range(1, 8)]
    more = [distance_from_a_start(solver, n) for n in (8, 13, 20)]
    # One evaluation is the expectation, two standard deviations from an outlying voxel. A few steps of Heun overshoot.
    assert few[0] < 1.0
    assert max(few) < (4.0 if solver is heun else 1.0)
    assert more[0] > more[1] > more[2]
    assert more[2] < 0.1


def test_the_default_solver_is_the_best_for_few_evaluations() -> None:
    for evaluations in (3, 5, 8):
        others = [distance_from_a_start(solver, evaluations) for solver in (euler, heun)]
        assert distance_from_a_start(multistep, evaluations) < 0.6 * min(others)
