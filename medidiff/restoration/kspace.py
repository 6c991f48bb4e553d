"""From under-sampled k-space to images: the classical image, one look of the network, and back to the data."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from medidiff.data.intensity import IntensityCodec
from medidiff.diffusion.denoiser import Preconditioned
from medidiff.diffusion.sampler import posterior_mean
from medidiff.diffusion.tiling import TiledDenoiser, Tiling
from medidiff.errors import ConfigError
from medidiff.guidance import condition_from
from medidiff.operators.kspace import CartesianKSpace
from medidiff.operators.likelihood import Likelihood

# The outer share of the samples in which noise is looked for: a head has next to nothing there.
OUTER_SHARE = 0.1


@dataclass(frozen=True, slots=True)
class RestoredKSpace:
    """What came out, in the units of the k-space that went in.

    Args:
        image: Complex estimate, shape (1, 1, i, j, k).
        classical: Zero-filled (one coil) or CG-SENSE (several), without a network, likewise complex.
        misfit: Relative data-consistency error ``|A image - y| / |y|``.
    """

    image: Tensor
    classical: Tensor
    misfit: float

    @property
    def magnitude(self) -> Tensor:
        """Shape (1, 1, i, j, k), real."""
        return self.image.abs()


@torch.no_grad()
def restore_kspace(
    model: Preconditioned,
    operator: CartesianKSpace,
    y: Tensor,
    *,
    noise_std: float | None = None,
    tiling: Tiling | None = None,
) -> RestoredKSpace:
    """Estimate the image from measured k-space, in one evaluation of the network.

    The network knows magnitudes alone. It is shown the classical magnitude; its answer takes the phase of the classical
    image, which is smooth and survives under-sampling, and is then moved to the nearest complex image that agrees with
    the samples, as far as noise allows.

    Args:
        model: Prior.
        operator: How k-space was sampled.
        y: Samples, zero where none was taken, shape (1, *operator.out_shape), complex, any units.
        noise_std: Root mean squared modulus of the complex noise in ``y``, in its units; estimated if None, 0 makes the
            data binding.
    Raises:
        ConfigError: a negative or infinite noise level.
        InputError: the image is constant: no sample holds anything.
    """
    if noise_std is not None and not 0 <= noise_std < math.inf:
        raise ConfigError(f"noise_std must be a finite number, at least 0, got {noise_std:g}")
    classical = operator.classical(y)
    codec = IntensityCodec.fit(classical.abs().cpu().numpy())
    # k-space has no offset: the transform of one would be a spike in the middle.
    scale = codec.scale + codec.offset
    noise = (kspace_noise(operator, y) if noise_std is None else noise_std) / scale
    condition = condition_from(operator, y / scale, noise)
    prior = TiledDenoiser(model, condition, tiling or Tiling())
    magnitude = posterior_mean(prior, (1, *operator.in_shape), device=y.device).clamp_min(0)
    estimate = torch.polar(magnitude, classical.angle())
    # Half of the complex noise lies in each part.
    likelihood = Likelihood(operator, y / scale, noise / math.sqrt(2))
    image = likelihood.prox(estimate, prior.spread)
    return RestoredKSpace(scale * image, classical, float(likelihood.misfit(image).max()))


def kspace_noise(operator: CartesianKSpace, y: Tensor) -> float:
    """Root mean squared modulus of the complex noise, from the samples of the highest frequencies.

    The median of a squared modulus of complex Gaussian noise is ``ln 2`` times its mean, and anatomy in a few samples
    does not move it.

    Args:
        operator: How k-space was sampled.
        y: Samples, shape (b, *operator.out_shape).
    """
    shape = operator.in_shape[1:3]
    axes = [torch.fft.fftshift(torch.fft.fftfreq(n)) if operator.centred else torch.fft.fftfreq(n) for n in shape]
    radius = torch.hypot(axes[0][:, None], axes[1][None, :])
    taken = operator.taken.any(dim=-1).cpu()
    outer = taken & (radius >= torch.quantile(radius[taken], 1 - OUTER_SHARE))
    samples = y[:, :, outer.to(y.device)]
    # Where masks differ from plane to plane, some of these were not taken.
    power = samples[samples != 0].abs().square()
    return math.sqrt(float(power.median()) / math.log(2)) if power.numel() else 0.0
