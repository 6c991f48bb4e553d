"""The straight path from image to noise, and where on it to stand.

Rectified flow moves along ``x_t = (1 - t) x0 + t n``; dividing by (1 - t) shows that this is ``x0 + sigma n`` with
``sigma = t / (1 - t)``. A logit-normal ``t`` is therefore a log-normal ``sigma``, and the two languages are one.

Source: Liu et al. (2023), Flow Straight and Fast; Esser et al. (2024), Scaling Rectified Flow Transformers, sec. 3.1.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor

from medidiff.diffusion.denoiser import BLIND_RATIO, SMALLEST_RATIO
from medidiff.errors import ConfigError


def t_to_sigma(t: Tensor) -> Tensor:
    return t / (1 - t)


def draw_ratios(
    count: int, blind_share: float, *, mean: float, std: float, generator: torch.Generator
) -> Float[Tensor, " b"]:
    """Noise-to-signal ratios for a training batch: log-normal, with a share of blind items (t = 1).

    The blind share is an exact part of the batch, not a probability, so that every step trains the posterior mean.
    """
    device = generator.device
    ratios = torch.exp(mean + std * torch.randn(count, generator=generator, device=device))
    ratios = ratios.clamp(SMALLEST_RATIO, 0.99 * BLIND_RATIO)
    ratios[: math.ceil(blind_share * count)] = BLIND_RATIO
    return ratios


def sigma_schedule(sigma_min: float, sigma_max: float, steps: int, *, rho: float = 7.0) -> Float[Tensor, " n"]:
    """Noise levels from ``sigma_max`` to ``sigma_min``, then 0: ``steps + 1`` values.

    Raises:
        ConfigError: no step at all, or levels that are not positive and rising from ``sigma_min`` to ``sigma_max``.
    Source: Karras et al. (2022), eq. (5).
    """
    if steps < 1 or not 0 < sigma_min < sigma_max < math.inf:
        raise ConfigError(
            f"a schedule needs steps >= 1 and 0 < sigma_min < sigma_max, got {steps}, {sigma_min:g} and {sigma_max:g}"
        )
    if steps == 1:
        return torch.tensor([sigma_max, 0.0], dtype=torch.float64)
    ramp = torch.linspace(0, 1, steps, dtype=torch.float64)
    sigmas = (sigma_max ** (1 / rho) + ramp * (sigma_min ** (1 / rho) - sigma_max ** (1 / rho))) ** rho
    return torch.cat([sigmas, sigmas.new_zeros(1)])
