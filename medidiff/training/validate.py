"""Validation during training: the mean reconstruction of a person never trained on."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from medidiff.diffusion.denoiser import Condition, Preconditioned
from medidiff.diffusion.sampler import posterior_mean
from medidiff.operators.likelihood import Likelihood
from medidiff.operators.slices import SliceOperator, SliceProfile
from medidiff.training.degrade import slice_task

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
        return self._psnr(self._reference()[1])

    def __call__(self, model: Preconditioned) -> float:
        """PSNR of the one-evaluation mean, projected onto the data, dB."""
        likelihood, reference = self._reference()
        operator = likelihood.operator
        assert isinstance(operator, SliceOperator)  # noqa: S101 - made three lines below
        known = operator.closeness().to(reference).expand_as(reference).contiguous()
        task = slice_task(self.profile)
        condition = Condition(
            reference, known, task.vector().to(reference)[None], torch.tensor([task.scale], device=reference.device)
        )
        cuda = reference.device.type == "cuda"
        with torch.no_grad(), torch.autocast("cuda", torch.bfloat16, enabled=cuda):
            estimate = posterior_mean(model.given(condition), reference.shape, device=reference.device)
        return self._psnr(likelihood.project(estimate.float()))

    def _reference(self) -> tuple[Likelihood, Tensor]:
        image = self.truth[None, None]
        operator = SliceOperator((1, *self.truth.shape), 2, self.profile)  # type: ignore[arg-type]
        y = operator.forward(image)
        return Likelihood(operator, y), operator.reference(y)

    def _psnr(self, estimate: Tensor) -> float:
        from monai.metrics.regression import PSNRMetric

        inside = self.truth[None, None] > HEAD_THRESHOLD
        metric = PSNRMetric(max_val=1.0)
        return float(metric(estimate[inside][None, None], self.truth[None, None][inside][None, None]).mean())
