"""What the training loop trains: how a model is built, what it is wrong about, and the file it becomes.

The loop itself draws batches, steps, averages and survives being killed; it knows nothing of restoration or generation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from pydantic import Field
from torch import Tensor, nn

from medidiff.config import Config
from medidiff.diffusion.checkpoint import load_model, save_model
from medidiff.diffusion.denoiser import Preconditioned
from medidiff.diffusion.loss import denoising_loss
from medidiff.diffusion.network import build_network
from medidiff.diffusion.path import draw_ratios
from medidiff.training.privacy_budget import Budget


class AnyBatch(Protocol):
    """Items of a step: ``truth`` has shape (b, c, i, j, k); what the network is told of them is the objective's own."""

    @property
    def truth(self) -> Tensor: ...

    def __getitem__(self, items: slice) -> AnyBatch: ...


class AnyBatches(Protocol):
    """Batches without end; ``batches[step]`` is always the same."""

    def __getitem__(self, step: int) -> Any:
        """An ``AnyBatch``; of a private run, a function that gives the one of a person."""
        ...


class PathConfig(Config):
    """Where on the diffusion path to train."""

    blind_share: float = Field(0.34, ge=0, le=1, description="share of each batch at t = 1; 1 is plain regression")
    mean: float = Field(-0.4, description="mean of log(sigma / residual scale)")
    std: float = Field(1.4, gt=0)


class Objective(Protocol):
    """What is trained."""

    @property
    def score_name(self) -> str:
        """What validation measures, as the column of the loss curve is called."""
        ...

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
        path: Where on the diffusion path to train.
    """

    network: Mapping[str, Any]
    path: PathConfig

    @property
    def score_name(self) -> str:
        return "validation_psnr_db"

    def build(self) -> nn.Module:
        return Preconditioned(build_network(**self.network))

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        path = self.path
        return draw_ratios(count, path.blind_share, mean=path.mean, std=path.std, generator=generator)

    def losses(self, model: Any, batch: Any, levels: Tensor, noise: Tensor) -> Tensor:
        return denoising_loss(model, batch.truth, batch.condition, levels, noise)

    def read(self, path: Path, device: torch.device) -> nn.Module:
        return load_model(path, device)[0]

    def write(self, path: Path, tensors: Mapping[str, Tensor], card: Mapping[str, Any]) -> None:
        save_model(path, self.network, tensors, card)


@dataclass(frozen=True, slots=True)
class Plan:
    """A training run that was made ready: what the loop is given, and what becomes of its result.

    Args:
        identity: Digest of all that determines the weights.
        validate: Measures the averaged model; ``baseline`` is what needs no model.
        every: Steps between two validations.
        card: What the model's card says, of the steps done, the number of processes and the scores.
        budget: Of a run under differential privacy; its batches are told for one person at a time.
    """

    objective: Objective
    batches: AnyBatches
    identity: str
    validate: Callable[[Any], float] | None
    baseline: Callable[[], float] | None
    every: int
    card: Callable[[int, float | None, float | None], dict[str, Any]]
    budget: Budget | None = None
