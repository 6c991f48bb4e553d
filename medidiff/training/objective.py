"""What the training loop trains: how a model is built, what it is wrong about, and the file it becomes.

The loop itself draws batches, steps, averages and survives being killed; it knows nothing of restoration or generation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from medidiff.diffusion.checkpoint import load_model, save_model
from medidiff.diffusion.denoiser import Preconditioned
from medidiff.diffusion.loss import denoising_loss
from medidiff.diffusion.network import build_network
from medidiff.diffusion.path import draw_ratios


class Objective(Protocol):
    """What is trained. A batch is cut by slices; its ``truth`` has shape (b, c, i, j, k)."""

    def build(self) -> nn.Module:
        """A model with fresh weights."""
        ...

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Noise levels of a whole batch, shape (b,)."""
        ...

    def losses(self, model: Any, batch: Any, levels: Tensor, noise: Tensor) -> Tensor:
        """One value an item."""
        ...

    def read(self, path: Path, device: torch.device) -> nn.Module:
        """The model of a file, to go on from."""
        ...

    def write(self, path: Path, tensors: Mapping[str, Tensor], card: Mapping[str, Any]) -> None:
        """The file that is used afterwards."""
        ...


@dataclass(frozen=True, slots=True)
class Restoration:
    """A prior that restores: the residual to a classical reference.

    Args:
        network: ``{"kind": ..., **options}``.
        blind_share, mean, std: Where on the diffusion path to train.
    """

    network: Mapping[str, Any]
    blind_share: float
    mean: float
    std: float

    def build(self) -> nn.Module:
        return Preconditioned(build_network(**self.network))

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        return draw_ratios(count, self.blind_share, mean=self.mean, std=self.std, generator=generator)

    def losses(self, model: Any, batch: Any, levels: Tensor, noise: Tensor) -> Tensor:
        return denoising_loss(model, batch.truth, batch.condition, levels, noise)

    def read(self, path: Path, device: torch.device) -> nn.Module:
        return load_model(path, device)[0]

    def write(self, path: Path, tensors: Mapping[str, Tensor], card: Mapping[str, Any]) -> None:
        save_model(path, self.network, tensors, card)
