"""The only place where priors and operators meet.

A *rule* turns a prior's estimate of the clean image into an estimate that also knows the data. A ``Posterior`` binds
prior, likelihood and rule, and is a ``Denoiser`` again: a sampler cannot tell the difference.

How far each rule is from the exact posterior of a Gaussian prior is measured by ``tests/test_guidance.py`` and
recorded in ``docs/guidance.md``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from medidiff.diffusion.denoiser import Condition, Denoiser
from medidiff.errors import ConfigError
from medidiff.operators.base import conjugate_gradients, per_item
from medidiff.operators.likelihood import Likelihood
from medidiff.operators.task import NOTHING_KNOWN, Task

Guidance = Callable[[Denoiser, Likelihood, Tensor, Tensor], Tensor]

# Steps of conjugate gradients with the network's own covariance; each costs one backward pass.
TWEEDIE_STEPS = 4


@runtime_checkable
class Restorable(Protocol):
    """An operator that can tell a network what it did: a reference image, what is known, and the task."""

    def reference(self, y: Tensor) -> Tensor: ...

    def known(self, y: Tensor) -> Tensor: ...

    def task(self, noise_std: float = 0.0) -> Task: ...


def condition_from(operator: Restorable, y: Tensor, noise_std: float = 0.0) -> Condition:
    """What a network is told about measurements ``y`` of shape (b, *operator.out_shape)."""
    reference = operator.reference(y)
    return condition_of(reference, operator.known(y).to(reference), operator.task(noise_std))


def condition_of(reference: Tensor, known: Tensor, task: Task) -> Condition:
    """What a network is told, from its parts: images of shape (b, 1, i, j, k), and one task for all of them."""
    return Condition(
        reference=reference,
        known=known,
        task=task.vector().to(reference).expand(len(reference), -1),
        scale=torch.full((len(reference),), task.scale, dtype=reference.dtype, device=reference.device),
    )


def unconditional(shape: tuple[int, ...], device: torch.device | str = "cpu") -> Condition:
    """The condition of a network that is told nothing: a prior over whole images, shape (b, 1, i, j, k)."""
    nothing = torch.zeros(shape, device=device)
    return condition_of(nothing, nothing, NOTHING_KNOWN)


def unguided(prior: Denoiser, likelihood: Likelihood, x: Tensor, sigma: Tensor) -> Tensor:  # noqa: ARG001
    """The prior alone; right where the condition already says everything about the data."""
    return prior(x, sigma)


def projection(prior: Denoiser, likelihood: Likelihood, x: Tensor, sigma: Tensor) -> Tensor:
    """The nearest image that reproduces the data: exact consistency at every step.

    Source: Wang et al. (2023), Zero-Shot Image Restoration Using Denoising Diffusion Null-Space Model, eq. (10).
    """
    return likelihood.project(prior(x, sigma))


def proximal(prior: Denoiser, likelihood: Likelihood, x: Tensor, sigma: Tensor) -> Tensor:
    """Weigh the prior's estimate against noisy data, by the uncertainty that is left at this noise level.

    With a white prior of standard deviation ``spread`` the clean image given ``x`` has variance
    ``spread^2 sigma^2 / (spread^2 + sigma^2)``; the rule is then the exact posterior mean.
    Source: Zhu et al. (2023), Denoising Diffusion Models for Plug-and-Play Image Restoration (DiffPIR), eq. (12);
    variance as in Song et al. (2023), Pseudoinverse-Guided Diffusion Models, sec. 3.1.
    """
    return likelihood.prox(prior(x, sigma), uncertainty(prior.spread, sigma))


def tweedie(prior: Denoiser, likelihood: Likelihood, x: Tensor, sigma: Tensor, *, steps: int = TWEEDIE_STEPS) -> Tensor:
    """Like ``proximal``, with the covariance taken from the network itself by Tweedie's formula.

    ``Cov[x0 | x] = sigma^2 dD/dx``; the linear system is solved by conjugate gradients, each step one backward pass.
    Exact for every Gaussian prior once the conjugate gradients have converged, and several times the cost.
    Source: Rozet et al. (2024), Learning Diffusion Priors from Observations by Expectation Maximization, eq. (20).
    """
    operator = likelihood.operator
    with torch.enable_grad():
        leaf = x.detach().requires_grad_(True)
        x0 = prior(leaf, sigma)

    def covariance(v: Tensor) -> Tensor:
        (gradient,) = torch.autograd.grad(x0, leaf, v, retain_graph=True)
        return per_item(sigma**2, v) * gradient

    def gram(z: Tensor) -> Tensor:
        return operator.forward(covariance(operator.adjoint(z))) + likelihood.noise_std**2 * z

    misfit = likelihood.y - operator.forward(x0.detach())
    z = conjugate_gradients(gram, misfit, steps=steps)
    return (x0 + covariance(operator.adjoint(z))).detach()


RULES: dict[str, Guidance] = {
    "unguided": unguided,
    "projection": projection,
    "proximal": proximal,
    "tweedie": tweedie,
}


def rule(name: str) -> Guidance:
    """A guidance rule by name.

    Raises:
        ConfigError: no such rule.
    """
    if name not in RULES:
        raise ConfigError(f"unknown guidance rule {name!r}; expected one of {', '.join(RULES)}")
    return RULES[name]


def uncertainty(spread: float, sigma: Tensor) -> Tensor:
    """Standard deviation of a white Gaussian of width ``spread`` once it is seen through noise ``sigma``."""
    return spread * sigma / torch.sqrt(spread**2 + sigma**2)


@dataclass(frozen=True, slots=True)
class Posterior:
    """A prior and the data, used exactly like a prior."""

    prior: Denoiser
    likelihood: Likelihood
    guidance: Guidance = projection

    @property
    def sigma_min(self) -> float:
        return self.prior.sigma_min

    @property
    def sigma_max(self) -> float:
        return self.prior.sigma_max

    @property
    def spread(self) -> float:
        return self.prior.spread

    def __call__(self, x: Float[Tensor, "b c i j k"], sigma: Float[Tensor, " b"]) -> Float[Tensor, "b c i j k"]:
        return self.guidance(self.prior, self.likelihood, x, sigma)
