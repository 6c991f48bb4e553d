"""Validation during training: the mean reconstruction of a person never trained on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from medidiff.diffusion.denoiser import Preconditioned
from medidiff.diffusion.sampler import posterior_mean
from medidiff.guidance import Posterior, condition_from, projection
from medidiff.operators.likelihood import Likelihood
from medidiff.operators.slices import SliceOperator, SliceProfile

# Voxels darker than this share of the bright end are air; a score over air says nothing about anatomy.
HEAD_THRESHOLD = 0.1


@dataclass(frozen=True, slots=True)
class SliceValidation:
    """Reconstruct one head from thick slices and score it inside the head.

    Args:
        truth: Model units, shape (i, j, k), sides divisible by the network's multiple, on the training device.
        profile: How it is sliced along the last axis.
    """

    truth: Tensor
    profile: SliceProfile

    def baseline(self) -> float:
        """PSNR of cubic plus exact projection, dB."""
        operator, y = self._measure()
        return self._psnr(operator.reference(y))

    def __call__(self, model: Preconditioned) -> float:
        """PSNR of the one-evaluation mean, projected onto the data, dB."""
        operator, y = self._measure()
        device = self.truth.device
        posterior = Posterior(model.given(condition_from(operator, y)), Likelihood(operator, y), projection)
        with torch.no_grad(), torch.autocast("cuda", torch.bfloat16, enabled=device.type == "cuda"):
            estimate = posterior_mean(posterior, (1, *operator.in_shape), device=device)
        return self._psnr(estimate)

    def _measure(self) -> tuple[SliceOperator, Tensor]:
        i, j, k = self.truth.shape
        operator = SliceOperator((1, i, j, k), 2, self.profile)
        return operator, operator.forward(self.truth[None, None])

    def _psnr(self, estimate: Tensor) -> float:
        from monai.metrics.regression import PSNRMetric

        inside = self.truth[None, None] > HEAD_THRESHOLD
        score: Any = PSNRMetric(max_val=1.0)(estimate[inside][None, None], self.truth[None, None][inside][None, None])
        return float(score.mean())
