"""What the config of an exported MONAI bundle constructs: networks of one tensor, and the engine that runs it.

MONAI's tools give a network one tensor. Ours are told more than that, so the rest is bound here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from medidiff.diffusion.checkpoint import load_model
from medidiff.diffusion.denoiser import BLIND_RATIO, Condition
from medidiff.diffusion.generator import load_generator
from medidiff.operators.task import Task


class OneLook(nn.Module):
    """A restoring prior as a network of two channels: the posterior mean, in one evaluation.

    Args:
        model: A model file.
        task: What degraded the image, as ``medidiff.operators.task.Task`` has it; all items share it.
    Raises:
        CheckpointError: no such model file.
    """

    def __init__(self, model: str, task: Mapping[str, float]) -> None:
        super().__init__()
        self.model, _ = load_model(Path(model))
        self.task = Task(**task)

    def forward(self, x: Float[Tensor, "b 2 i j k"]) -> Float[Tensor, "b 1 i j k"]:
        """The clean image from a classical reconstruction and how directly each voxel was measured.

        Args:
            x: Channel 0 in model units, channel 1 from 0 to 1; axes divisible by what the metadata says.
        """
        reference, known = x[:, :1], x[:, 1:]
        scale = torch.full((len(x),), self.task.scale, device=x.device)
        condition = Condition(reference, known, self.task.vector().to(x.device).expand(len(x), -1), scale)
        out: Tensor = self.model(reference, BLIND_RATIO * scale, condition)
        return out


class DenoiserAt(nn.Module):
    """A generator as a network of its channels: what it expects behind noisy ones when nothing is asked for.

    Args:
        model: A generator file.
        sigma: Standard deviation of the noise.
    Raises:
        CheckpointError: no such generator file.
    """

    def __init__(self, model: str, sigma: float) -> None:
        super().__init__()
        self.model, _ = load_generator(Path(model))
        self.sigma = sigma

    def forward(self, x: Float[Tensor, "b c i j k"]) -> Float[Tensor, "b c i j k"]:
        """Shapes: that of the generator's grid."""
        conditions = self.model.conditions([{}] * len(x)).to(x.device)
        out: Tensor = self.model(x, torch.full((len(x),), self.sigma, device=x.device), conditions)
        return out


class Engine:
    """One call for each item. MONAI's engines need Ignite, and batches that no use case of ours has."""

    def __init__(self, items: Sequence[Any], call: Callable[[Any], Any]) -> None:
        self.items, self.call = items, call

    def run(self) -> list[Any]:
        return [self.call(item) for item in self.items]
