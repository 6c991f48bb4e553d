"""Samplers: from noise to an image, along the probability-flow equation of any ``Denoiser``.

The equation is ``dx/dsigma = (x - D(x, sigma)) / sigma`` (Karras et al. 2022, eq. 1 with s = 1, sigma(t) = t). A solver
takes one step of it; it never learns whether D is a prior or a posterior.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from medidiff.diffusion.denoiser import Denoiser
from medidiff.errors import ConfigError

Volume5D = Float[Tensor, "b c i j k"]
OnStep = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Step:
    """One step from ``sigma`` to ``sigma_next``, with what the last one knew."""

    sigma: float
    sigma_next: float
    sigma_before: float | None = None
    x0_before: Tensor | None = None


Solver = Callable[[Denoiser, Tensor, Step], tuple[Tensor, Tensor]]


def _denoise(denoiser: Denoiser, x: Tensor, sigma: float) -> Tensor:
    return denoiser(x, x.new_full((x.shape[0],), sigma))


def euler(denoiser: Denoiser, x: Tensor, step: Step) -> tuple[Tensor, Tensor]:
    """First order, one evaluation (DDIM; Song et al. 2021, eq. 12)."""
    x0 = _denoise(denoiser, x, step.sigma)
    return x0 + step.sigma_next / step.sigma * (x - x0), x0


def heun(denoiser: Denoiser, x: Tensor, step: Step) -> tuple[Tensor, Tensor]:
    """Second order, two evaluations, one in the last step (Karras et al. 2022, algorithm 1)."""
    predicted, x0 = euler(denoiser, x, step)
    if step.sigma_next == 0:
        return predicted, x0
    slope = (x - x0) / step.sigma
    x0_next = _denoise(denoiser, predicted, step.sigma_next)
    slope_next = (predicted - x0_next) / step.sigma_next
    return x + (step.sigma_next - step.sigma) * (slope + slope_next) / 2, x0_next


def multistep(denoiser: Denoiser, x: Tensor, step: Step) -> tuple[Tensor, Tensor]:
    """Second order, one evaluation: the last estimate is reused (Lu et al. 2022, DPM-Solver++, algorithm 2)."""
    x0 = _denoise(denoiser, x, step.sigma)
    direction = x0
    if step.x0_before is not None and step.sigma_before is not None and step.sigma_next > 0:
        h, h_before = math.log(step.sigma / step.sigma_next), math.log(step.sigma_before / step.sigma)
        direction = x0 + h / (2 * h_before) * (x0 - step.x0_before)
    return direction + step.sigma_next / step.sigma * (x - direction), x0


def renoise(generators: Sequence[torch.Generator]) -> Solver:
    """Estimate, then add fresh noise of the next level: forgets its errors, at the price of more steps.

    Source: Chung et al. (2022), Come-Closer-Diffuse-Faster; Zhu et al. (2023), DiffPIR, algorithm 1 with zeta = 1.
    """

    def solve(denoiser: Denoiser, x: Tensor, step: Step) -> tuple[Tensor, Tensor]:
        x0 = _denoise(denoiser, x, step.sigma)
        if step.sigma_next == 0:
            return x0, x0
        return x0 + step.sigma_next * draw_noise(x0.shape, generators).to(x0), x0

    return solve


def stochastic(generators: Sequence[torch.Generator], churn: float = 1.0) -> Solver:
    """Second order, one evaluation, with fresh noise beside the estimate's own: ``multistep`` for ``churn`` 0.

    The equation without noise carries what a denoiser gets wrong on to the end, as a mottle that no level of noise
    explains; with it, errors of earlier levels are drowned and estimated anew.

    Args:
        generators: One an item.
        churn: Strength of the noise; 1 is the reverse diffusion itself.
    Source: Lu et al. (2022), DPM-Solver++, sec. 4.3 (SDE-DPM-Solver++ (2M)); Song et al. (2021), eq. (6).
    """

    def solve(denoiser: Denoiser, x: Tensor, step: Step) -> tuple[Tensor, Tensor]:
        x0 = _denoise(denoiser, x, step.sigma)
        if step.sigma_next == 0:
            return x0, x0
        h = math.log(step.sigma / step.sigma_next)
        direction = x0
        if step.x0_before is not None and step.sigma_before is not None:
            direction = x0 + h / (2 * math.log(step.sigma_before / step.sigma)) * (x0 - step.x0_before)
        kept = math.exp(-(1 + churn) * h)
        fresh = step.sigma_next * math.sqrt(-math.expm1(-2 * churn * h))
        return direction + kept * (x - direction) + fresh * draw_noise(x.shape, generators).to(x), x0

    return solve


SOLVERS: dict[str, Solver] = {"euler": euler, "heun": heun, "multistep": multistep}


def draw_noise(shape: Sequence[int], generators: Sequence[torch.Generator]) -> Tensor:
    """Unit white noise, one generator an item: an item's noise does not depend on its batch."""
    if len(generators) != shape[0]:
        raise ConfigError(f"a batch of {shape[0]} needs as many generators, got {len(generators)}")
    return torch.stack([torch.randn(*shape[1:], generator=g, device=g.device) for g in generators])


def sample(
    denoiser: Denoiser,
    shape: Sequence[int],
    sigmas: Float[Tensor, " n"],
    *,
    generators: Sequence[torch.Generator],
    solver: Solver = heun,
    start: Volume5D | None = None,
    on_step: OnStep | None = None,
) -> Volume5D:
    """Draw images.

    Args:
        denoiser: Prior or posterior.
        shape: (b, c, i, j, k).
        sigmas: Decreasing noise levels that end in 0.
        generators: One an item.
        start: Image to begin from instead of zero, with noise of the first level added (t0 < 1).
        on_step: Called with (done, total) after each step.
    Returns:
        Images, shape (b, c, i, j, k), on the device of ``start``, else of the generators.
    Raises:
        ConfigError: the levels do not decrease to 0, or the generators are not one an item.
    """
    levels = [float(s) for s in sigmas]
    falling = all(a > b for a, b in itertools.pairwise(levels))
    if len(levels) < 2 or levels[-1] != 0 or not falling or not math.isfinite(levels[0]):
        raise ConfigError(f"noise levels must be finite, decrease strictly and end in 0, got {levels}")
    x = levels[0] * draw_noise(shape, generators)
    if start is not None:
        # Generators of the CPU give the same noise on every machine; the work is done where the image lies.
        x = start + x.to(start)
    before: tuple[float, Tensor] | None = None
    for index, (sigma, sigma_next) in enumerate(itertools.pairwise(levels)):
        step = Step(sigma, sigma_next, *(before or (None, None)))
        x, x0 = solver(denoiser, x, step)
        before = (sigma, x0)
        if on_step is not None:
            on_step(index + 1, len(levels) - 1)
    return x


def posterior_mean(denoiser: Denoiser, shape: Sequence[int], *, device: torch.device | str = "cpu") -> Volume5D:
    """One evaluation at the top of the noise range, where the image says nothing and the condition all."""
    sigma = torch.full((shape[0],), denoiser.sigma_max, device=device)
    return denoiser(torch.zeros(*shape, device=device), sigma)
