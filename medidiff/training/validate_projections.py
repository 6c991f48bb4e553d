"""Validation of a CT prior during training: planes of a person never trained on, from few views."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from medidiff.diffusion.denoiser import Preconditioned
from medidiff.operators.projection import ParallelBeam, views
from medidiff.restoration.looks import look_again

# Denser than this, over 2.048 times water, is body and not air.
BODY_THRESHOLD = 0.25


@dataclass(frozen=True, slots=True)
class ProjectionValidation:
    """Reconstruct some planes from few views and score them inside the body.

    Args:
        truth: Model units whose zero is air, shape (i, j, planes), on the training device.
        views: Equally spaced over a half turn.
        noise_std: White noise in the line integrals, model units times pixels.
        looks: Looks of the network.
    """

    truth: Tensor
    views: int = 40
    noise_std: float = 0.05
    looks: int = 1

    def baseline(self) -> float:
        """PSNR of the classical image, dB."""
        operator, y = self._measure()
        return self._psnr(operator.reference(y))

    def __call__(self, model: Preconditioned) -> float:
        """PSNR of the mean after the last look, dB."""
        operator, y = self._measure()
        with torch.no_grad():
            return self._psnr(look_again(model, operator, y, self.noise_std, looks=self.looks)[-1])

    def _measure(self) -> tuple[ParallelBeam, Tensor]:
        operator = ParallelBeam((1, *self.truth.shape), views(self.views))
        clean = operator.forward(self.truth[None, None])
        white = torch.randn(clean.shape, generator=torch.Generator().manual_seed(0)).to(clean)
        return operator, clean + self.noise_std * white

    def _psnr(self, estimate: Tensor) -> float:
        inside = self.truth > BODY_THRESHOLD
        return -10 * math.log10(float((estimate[0, 0] - self.truth)[inside].square().mean()))
