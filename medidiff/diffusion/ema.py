"""An exponential moving average of the weights: what a diffusion model is used with."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class EMA:
    """Averaged copy of a module's parameters.

    The average is short at first and grows to ``decay``: early weights are forgotten, whatever the length of the run.
    Source: Karras et al. (2024), Analyzing and Improving the Training Dynamics of Diffusion Models, sec. 3.1.
    """

    def __init__(self, module: nn.Module, decay: float = 0.999) -> None:
        self.decay = decay
        self.average = {name: p.detach().clone() for name, p in module.named_parameters()}

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Take in the weights after ``step`` (from 0)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        parameters = dict(module.named_parameters())
        averages = list(self.average.values())
        torch._foreach_lerp_(averages, [parameters[name].detach() for name in self.average], 1 - decay)

    def copy_to(self, module: nn.Module) -> None:
        """Write the average into a module of the same form."""
        with torch.no_grad():
            for name, parameter in module.named_parameters():
                parameter.copy_(self.average[name])

    def tensors(self) -> dict[str, Tensor]:
        return dict(self.average)
