"""What the harness needs of a generator: networks, one step, and images drawn."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from benchmarks.generators.people import Scale

Settings = Mapping[str, float]
BATCH = 8


class Contestant(ABC):
    """A generator in training.

    Args:
        settings: What tuning chose, by name.
        scale: Of the training images.
        shape: Of the images.
        seed: Of the initial weights.

    The convolutions run in bfloat16, as far as the processor has it: 1.6 times faster for each of the three here.
    """

    name: ClassVar[str]
    ema: ClassVar[float] = 0.995
    batch: ClassVar[int] = BATCH

    def __init__(self, settings: Settings, scale: Scale, shape: tuple[int, int, int], seed: int) -> None:
        self.settings, self.scale, self.shape = settings, scale, shape
        with torch.random.fork_rng(devices=[]):
            torch.random.default_generator.manual_seed(seed)
            self.networks: nn.ModuleDict = self.build()

    @property
    def parameters(self) -> int:
        """All that is trained, also what is thrown away afterwards (critic, encoder)."""
        return sum(p.numel() for p in self.networks.parameters())

    @property
    @abstractmethod
    def drawing(self) -> nn.Module:
        """The part that draws, whose weights are averaged."""

    @abstractmethod
    def build(self) -> nn.ModuleDict:
        """Networks with fresh weights."""

    @abstractmethod
    def step(self, images: Tensor, rate: float, done: float, generator: torch.Generator) -> float:
        """One step of training.

        Args:
            images: Standardised, shape (b, 1, i, j, k).
            rate: What the learning rates are multiplied by (warm-up and descent).
            done: Share of the time that is used up.
        Returns:
            A loss to look at.
        """

    @abstractmethod
    def draw(self, count: int, generators: list[torch.Generator]) -> Tensor:
        """Standardised images by the weights that ``drawing`` now has, shape (count, 1, i, j, k)."""


def autocast() -> torch.autocast:
    """bfloat16 where the processor multiplies it; elsewhere it would be many times slower.

    On grids much smaller than the benchmark's, torch 2.13 gave gradients of strided convolutions that are no numbers.
    """
    return torch.autocast("cpu", torch.bfloat16, enabled=torch.cpu._is_avx512_bf16_supported())


def adam(module: nn.Module, lr: float, betas: tuple[float, float]) -> torch.optim.Adam:
    return torch.optim.Adam(module.parameters(), lr=lr, betas=betas)


def descend(optimizer: torch.optim.Optimizer, loss: Tensor, lr: float, clip: float | None = None) -> None:
    """One step of an optimiser at a rate of its own."""
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    if clip is not None:
        torch.nn.utils.clip_grad_norm_(parameters, clip)
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.step()
