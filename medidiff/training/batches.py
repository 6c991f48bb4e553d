"""From conformed scans to training batches, every draw a function of (seed, step)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional

from medidiff.config import Config
from medidiff.diffusion.denoiser import Condition
from medidiff.operators.task import NOTHING_KNOWN
from medidiff.rng import derive_seed
from medidiff.training import augment
from medidiff.training.degrade import Degraded, SliceBank, degrade_inpaint, degrade_noise, degrade_slices
from medidiff.training.kspace_simulation import KSpaceBank, undersample
from medidiff.training.volumes import TrainingVolume


class Shares(Config):
    """How often each degradation is drawn; relative weights."""

    slices: float = Field(1.0, ge=0)
    noise: float = Field(0.0, ge=0)
    inpaint: float = Field(0.0, ge=0)
    nothing: float = Field(0.0, ge=0)
    kspace: float = Field(0.0, ge=0, le=1, description="share of the steps; such a batch holds whole planes")

    @model_validator(mode="after")
    def _something(self) -> Shares:
        if self.slices + self.noise + self.inpaint + self.nothing <= 0:
            raise ValueError("one of slices, noise, inpaint or nothing must be above 0")
        return self


class BatchConfig(Config):
    """Sizes in voxels, shares and ranges of a training batch."""

    size: int = Field(32, ge=1, description="patches in a batch")
    patch: int = Field(64, ge=16, description="side of a patch")
    line: int = Field(128, ge=16, description="length of the block along which slices are simulated")
    plane: tuple[int, int, int] = Field((192, 192, 8), description="block on which k-space is simulated")
    factors: tuple[float, float] = (1.5, 10.0)
    operators: int = Field(512, ge=1, description="slice operators drawn for a run")
    shares: Shares = Shares()

    @model_validator(mode="after")
    def _fits(self) -> BatchConfig:
        if self.patch > self.line:
            raise ValueError(f"line ({self.line}) must be at least as long as patch ({self.patch})")
        if not 1 <= self.factors[0] <= self.factors[1]:
            raise ValueError(f"factors must rise from at least 1, got {list(self.factors)}")
        return self


@dataclass(frozen=True, slots=True)
class Batch:
    """Truth and condition of a step, shapes (b, 1, i, j, k)."""

    truth: Tensor
    condition: Condition

    def __getitem__(self, items: slice) -> Batch:
        return Batch(self.truth[items], self.condition[items])


class Batches:
    """Endless training batches; ``batches[step]`` is always the same for the same seed."""

    def __init__(self, volumes: Sequence[TrainingVolume], config: BatchConfig, seed: int, device: torch.device) -> None:
        self.volumes, self.config, self.seed, self.device = list(volumes), config, seed, device
        weights = np.array([volume.weight for volume in volumes])
        self._weights = weights / weights.sum()
        self.bank = SliceBank(config.line, config.factors, seed, device, config.operators)
        self.acquisitions = KSpaceBank(
            config.plane[:2], seed, device, config.operators // 4 if config.shares.kspace else 0
        )
        shares = config.shares
        kinds = {"slices": shares.slices, "noise": shares.noise, "inpaint": shares.inpaint, "nothing": shares.nothing}
        self._kinds, raw = list(kinds), np.array(list(kinds.values()))
        self._kind_weights = raw / raw.sum()

    def __getitem__(self, step: int) -> Batch:
        rng = np.random.default_rng([self.seed, step])
        generator = torch.Generator(device=self.device).manual_seed(derive_seed(self.seed, step))
        if rng.random() < self.config.shares.kspace:
            # Whole planes hold more voxels than a patch; as many as keep the step's size.
            count = max(1, self.config.size * self.config.patch**3 // math.prod(self.config.plane))
            items = [self._kspace_item(rng, generator) for _ in range(count)]
        else:
            items = [self._patch_item(rng, generator) for _ in range(self.config.size)]
        return collate(items, self.device)

    def _patch_item(self, rng: np.random.Generator, generator: torch.Generator) -> Degraded:
        kind = self._kinds[int(rng.choice(len(self._kinds), p=self._kind_weights))]
        side, length = self.config.patch, self.config.line if kind == "slices" else self.config.patch
        block = self._clean_block((side, side, length), rng, generator)
        if kind == "slices":
            return degrade_slices(block, self.bank.draw(rng), rng, side, generator)
        if kind == "noise":
            return degrade_noise(block, rng, generator)
        if kind == "inpaint":
            return degrade_inpaint(block, rng)
        return Degraded(block, torch.zeros_like(block), torch.zeros_like(block), NOTHING_KNOWN)

    def _kspace_item(self, rng: np.random.Generator, generator: torch.Generator) -> Degraded:
        block = self._clean_block(self.config.plane, rng, generator)
        simulated = undersample(block, self.acquisitions.draw(rng), rng, generator)
        return Degraded(block, simulated.reference, simulated.known, simulated.task)

    def _clean_block(self, shape: tuple[int, int, int], rng: np.random.Generator, generator: torch.Generator) -> Tensor:
        """A randomly placed, laid and coloured block of a random scan."""
        volume = self.volumes[int(rng.choice(len(self.volumes), p=self._weights))]
        order = rng.permutation(3)
        wanted = [0, 0, 0]
        for new, old in enumerate(order):
            wanted[old] = shape[new]
        block = crop(volume, wanted, rng).permute(*(int(axis) for axis in order))
        block = block.flip([axis for axis in range(3) if rng.random() < 0.5])
        if volume.labels:
            block = augment.synthesize_from_labels(block, volume.labels, rng, generator)
        else:
            block = augment.contrast(block.float(), rng)
        if rng.random() < 0.4:
            block = augment.bias_field(block, rng)
        if rng.random() < 0.25:
            block = augment.extra_noise(block, rng, generator)
        return block.contiguous()


def crop(volume: TrainingVolume, shape: Sequence[int], rng: np.random.Generator) -> Tensor:
    """A box around a random point of the head, moved inside the scan; what does not fit is padded with air."""
    centre = volume.foreground[int(rng.integers(len(volume.foreground)))]
    box, padding = [], []
    for middle, wanted, size in zip(centre, shape, volume.data.shape, strict=True):
        if wanted >= size:
            before = int(rng.integers(0, wanted - size + 1))
            box.append(slice(0, size))
            padding.append((before, wanted - size - before))
        else:
            start = int(np.clip(int(middle) - rng.integers(0, wanted), 0, size - wanted))
            box.append(slice(start, start + wanted))
            padding.append((0, 0))
    block = volume.data[tuple(box)]
    return functional.pad(block, [n for pair in reversed(padding) for n in pair])


def collate(items: Sequence[Degraded], device: torch.device) -> Batch:
    """Stack items to (b, 1, i, j, k)."""
    stack = {
        name: torch.stack([getattr(item, name) for item in items])[:, None] for name in ("truth", "reference", "known")
    }
    condition = Condition(
        reference=stack["reference"],
        known=stack["known"],
        task=torch.stack([item.task.vector() for item in items]).to(device),
        scale=torch.tensor([item.task.scale for item in items], device=device),
    )
    return Batch(stack["truth"], condition)
