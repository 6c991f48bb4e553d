"""Training a generator of labelled volumes: its configuration, its loss, and what the loop needs of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from medidiff.config import Config
from medidiff.data.cohort import Cohort
from medidiff.diffusion.generator import Conditions, GenerativeModel, GeneratorSpec, load_generator, save_generator
from medidiff.diffusion.network import build_network
from medidiff.training.generative_data import GenerativeBatch, ItemConfig, LabelName, Source
from medidiff.training.loop import OptimizerConfig


class GeneratorNetwork(Config):
    """Which network, and how wide."""

    kind: Literal["residual_unet", "monai_unet"] = "residual_unet"
    channels: tuple[int, ...] = (48, 128, 160)
    blocks: int = Field(1, ge=1)
    split: tuple[int, int, int] = (2, 2, 2)

    def options(self, spec: GeneratorSpec) -> dict[str, Any]:
        """What ``build_network`` takes."""
        sizes = {"image": spec.channels, "side": spec.side, "embedding": spec.embedding}
        return {**self.model_dump(mode="json"), **sizes}


class NoiseConfig(Config):
    """Which noise levels are trained: log-normal, in units of the channels' own variance."""

    mean: float = 0.2
    std: float = Field(1.6, gt=0)
    low: float = Field(0.02, gt=0)
    high: float = Field(160.0, gt=0)

    def draw(self, count: int, generator: torch.Generator) -> Float[Tensor, " b"]:
        """Noise levels, one from each of ``count`` equally likely bands: batches differ less than by free draws."""
        device = generator.device
        bands = torch.randperm(count, generator=generator, device=device)
        share = (bands + torch.rand(count, generator=generator, device=device)) / count
        normal = torch.erfinv((2 * share - 1).clamp(-1 + 1e-6, 1 - 1e-6)) * 2**0.5
        return torch.exp(self.mean + self.std * normal).clamp(self.low, self.high)


def generative_loss(
    model: GenerativeModel,
    x0: Float[Tensor, "b c i j k"],
    conditions: Conditions,
    sigma: Float[Tensor, " b"],
    noise: Float[Tensor, "b c i j k"],
    inside: Tensor | None = None,
) -> Float[Tensor, " b"]:
    """Squared error of the network's own output, one value an item, every noise level at unit weight.

    It counts voxels that were acquired, and label channels only where they were not given.

    Args:
        x0: Clean channels.
        conditions: What the network is told.
        sigma: Noise levels.
        noise: White, unit variance.
        inside: 1 where the loss counts, shape (b, 1, i, j, k); if None, what the conditions call acquired.
    Source: Karras et al. (2022), table 1, sigma_data = 1.
    """
    s = sigma.view(-1, 1, 1, 1, 1)
    inward = torch.rsqrt(1 + s**2)
    noisy = x0 + s * noise
    target = (x0 - noisy / (1 + s**2)) / (s * inward)
    error = (model.raw(noisy * inward, sigma, conditions) - target).square()
    counted = (conditions.inside if inside is None else inside).expand_as(error).clone()
    counted[:, 1:] *= (1 - conditions.labels_given).view(-1, 1, 1, 1, 1)
    return (error * counted).flatten(1).sum(1) / counted.flatten(1).sum(1).clamp(min=1)


class HeldOut(Config):
    """People whom the run never trains on: their loss is watched, beside that of as many training people."""

    people: Cohort
    every: int = Field(500, ge=1, description="steps")


class GenerativeTrainConfig(Config):
    """A whole training run of a generator."""

    kind: Literal["train-generator"] = "train-generator"
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    seed: int = Field(0, ge=0)
    people: Cohort
    shape: tuple[int, int, int] = Field(description="voxels of the grid")
    modality: Literal["MR", "CT"] = "MR"
    suffix: str = Field("T1w", pattern=r"^[A-Za-z0-9]{1,16}$")
    labels: tuple[LabelName, ...] = ()
    clip_voxels: float = Field(4.0, gt=0.5)
    conditions: tuple[Source, ...] = ()
    network: GeneratorNetwork = GeneratorNetwork()
    items: ItemConfig = ItemConfig()
    noise: NoiseConfig = NoiseConfig()
    optimizer: OptimizerConfig
    bfloat16: bool = Field(False, description="half precision on a processor that has it (AVX512-BF16): 1.7x as fast")
    held_out: HeldOut | None = None
    begin_from: Path | None = Field(None, description="generator file whose weights are gone on from")
    card: dict[str, Any] = Field(default_factory=dict, description="what the model card says of data and limits")


@dataclass(frozen=True, slots=True)
class Generation:
    """What the training loop needs to train a generator: an ``Objective``."""

    network: Mapping[str, Any]
    spec: GeneratorSpec
    noise: NoiseConfig

    def build(self) -> nn.Module:
        return GenerativeModel(build_network(**self.network), self.spec)

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        return self.noise.draw(count, generator)

    def losses(self, model: Any, batch: GenerativeBatch, levels: Tensor, noise: Tensor) -> Tensor:
        return generative_loss(model, batch.truth, batch.conditions, levels, noise)

    def read(self, path: Path, device: torch.device) -> nn.Module:
        return load_generator(path, device)[0]

    def write(self, path: Path, tensors: Mapping[str, Tensor], card: Mapping[str, Any]) -> None:
        save_generator(path, self.network, self.spec, tensors, card)
