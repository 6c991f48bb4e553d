"""Random appearance: other scanners, other contrasts, other noise, on the truth itself.

A network trained on four people must not learn their scanners. Everything here acts on the clean patch before it is
degraded, so that truth and measurement stay consistent.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional


def contrast(x: Tensor, rng: np.random.Generator) -> Tensor:
    """Gain, gamma, and for a third of the patches an arbitrary tone curve as another sequence would have."""
    x = x * float(np.exp(rng.normal(0, 0.15)))
    if rng.random() < 0.5:
        x = x.clamp_min(0) ** float(np.exp(rng.normal(0, 0.25)))
    if rng.random() < 0.3:
        values = torch.tensor(np.concatenate([[0.0], rng.uniform(0.05, 1.1, 6)]), device=x.device, dtype=x.dtype)
        if rng.random() < 0.5:
            values = values.sort().values
        position = (x / 0.25).clamp(0, 5.999)
        lower = position.long()
        share = position - lower
        x = values[lower] * (1 - share) + values[lower + 1] * share
    return x


def bias_field(x: Tensor, rng: np.random.Generator) -> Tensor:
    """Smooth multiplicative shading of a surface coil."""
    coarse = torch.tensor(rng.normal(0, 0.25, (1, 1, 3, 3, 3)), device=x.device, dtype=x.dtype)
    field = functional.interpolate(coarse, size=x.shape, mode="trilinear", align_corners=True)[0, 0]
    return x * torch.exp(field)


def extra_noise(x: Tensor, rng: np.random.Generator, generator: torch.Generator) -> Tensor:
    """Rician noise of a worse scanner in the truth itself: it cannot be predicted, and must not be invented."""
    from medidiff.training.degrade import rician

    return rician(x, float(rng.uniform(0.002, 0.025)), generator)


def synthesize_from_labels(
    labels: Tensor,
    highest: int,
    rng: np.random.Generator,
    generator: torch.Generator,
    *,
    means: np.ndarray | None = None,
) -> Tensor:
    """An image with random contrast from a label map, with texture and a soft partial-volume edge.

    Args:
        means: Mean of each label instead of a random one, shape (highest + 1,).
    Source: Billot et al. (2023), SynthSeg, Medical Image Analysis 86, 102789.
    """
    size = highest + 1
    drawn = torch.tensor(rng.uniform(0.1, 1.1, size), device=labels.device, dtype=torch.float32)
    stds = torch.tensor(rng.uniform(0.0, 0.08, size), device=labels.device, dtype=torch.float32)
    drawn[0] = float(rng.uniform(0, 0.05)) if rng.random() < 0.8 else drawn[0]
    if means is not None:
        drawn = torch.from_numpy(means).to(drawn)
    index = labels.long()
    white = torch.randn(labels.shape, generator=generator, device=labels.device)
    texture = smooth(white, float(rng.uniform(0.5, 1.2))) * float(rng.uniform(1.0, 2.5))
    return smooth(drawn[index] + stds[index] * texture, float(rng.uniform(0.35, 0.75))).clamp_min(0)


def smooth(x: Tensor, std: float) -> Tensor:
    """Separable Gaussian filter, shape (i, j, k), edges replicated."""
    radius = max(1, int(np.ceil(2.5 * std)))
    taps = torch.exp(-0.5 * (torch.arange(-radius, radius + 1, device=x.device, dtype=x.dtype) / std) ** 2)
    taps = taps / taps.sum()
    out = x[None, None]
    for axis in range(3):
        pad = [0, 0, 0, 0, 0, 0]
        pad[2 * (2 - axis)] = pad[2 * (2 - axis) + 1] = radius
        shape = [1, 1, 1, 1, 1]
        shape[axis + 2] = -1
        out = functional.conv3d(functional.pad(out, pad, mode="replicate"), taps.view(shape))
    return out[0, 0]
