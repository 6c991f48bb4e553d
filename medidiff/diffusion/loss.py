"""The training loss: how wrong the network is, in units in which every noise level weighs the same."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from medidiff.diffusion.denoiser import BLIND_RATIO, BLIND_TOLERANCE, Condition, Preconditioned


def denoising_loss(
    model: Preconditioned, truth: Tensor, condition: Condition, ratios: Tensor, noise: Tensor
) -> Float[Tensor, " b"]:
    """Squared error of the network's own output, one value an item.

    Dividing the denoiser's error by its output scale gives every noise level unit weight, which is the weight
    ``(s^2 + 1) / s^2`` of Karras et al. (2022), table 1, for sigma_data = 1. Blind items (t = 1) reduce to plain
    regression of the residual.

    Args:
        truth: Clean images, shape (b, 1, i, j, k).
        condition: What the network is told of them.
        ratios: Noise over expected residual, shape (b,).
        noise: White, unit variance, the shape of ``truth``.
    """
    u = (truth - condition.reference) / condition.scale.view(-1, 1, 1, 1, 1)
    s = ratios.view(-1, 1, 1, 1, 1)
    noisy = u + s * noise
    blind = s >= BLIND_RATIO * (1 - BLIND_TOLERANCE)
    inward = torch.rsqrt(1 + s**2)
    shown = torch.where(blind, torch.zeros_like(u), noisy * inward)
    target = torch.where(blind, u, (u - noisy / (1 + s**2)) / (s * inward))
    error = model.raw(shown, ratios, condition).float() - target
    return error.square().flatten(1).mean(1)
