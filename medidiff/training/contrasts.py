"""Training a translation between contrasts: patches of one person's scans, one contrast given, another wanted.

The network is told the given scan as a side channel, and which contrast is wanted by the numbers that otherwise say
what damaged a scan. It starts from nothing, not from a reference: no classical map leads from one contrast to another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor

from medidiff.config import Config
from medidiff.data.intensity import IntensityCodec
from medidiff.diffusion.denoiser import TASK_SIZE
from medidiff.errors import ConfigError
from medidiff.generation.translate import translation_condition
from medidiff.io import read_volume
from medidiff.rng import derive_seed
from medidiff.training.batches import Batch
from medidiff.volume import Volume

# The last of the numbers that a network is told says whether it has a reference: here it never has.
MOST_CONTRASTS = TASK_SIZE - 1
# Scans of one person on one grid differ by what a header rounds, mm.
SAME_PLACE_MM = 1e-2


class ContrastConfig(Config):
    """Patches of scans that show the same people in several contrasts, on one grid each person."""

    people: tuple[dict[str, str], ...] = Field(min_length=1, description="each: contrast name to file below the root")
    size: int = Field(8, ge=1, description="patches in a batch")
    patch: int = Field(48, ge=16, description="side of a patch")
    told: float = Field(0.9, gt=0, le=1, description="how often the network is told which contrast is wanted")
    gain: float = Field(0.05, ge=0, description="of the given scan: standard deviation of its logarithm")

    @model_validator(mode="after")
    def _same_contrasts(self) -> ContrastConfig:
        names = [tuple(sorted(person)) for person in self.people]
        if len(set(names)) > 1 or not 2 <= len(names[0]) <= MOST_CONTRASTS:
            raise ValueError(f"everybody needs the same 2 to {MOST_CONTRASTS} contrasts, got {sorted(set(names))}")
        return self

    @property
    def contrasts(self) -> tuple[str, ...]:
        """Names, in the order in which the network is told of them."""
        return tuple(sorted(self.people[0]))


@dataclass(frozen=True, slots=True)
class ContrastedPerson:
    """One person in every contrast.

    Args:
        images: Model units, shape (contrasts, i, j, k), half precision.
        inside: Voxel indices within the body, shape (n, 3).
    """

    images: Tensor
    inside: np.ndarray


def load_person(root: Path, files: dict[str, str], device: torch.device) -> ContrastedPerson:
    """Read the scans of one person, each to model units by itself.

    Raises:
        ConfigError: two of them lie on different grids, or one has several frames.
    """
    volumes = [_single(root / files[name]) for name in sorted(files)]
    first = volumes[0].geometry
    for name, volume in zip(sorted(files), volumes, strict=True):
        if volume.geometry.shape != first.shape or volume.geometry.distance(first) > SAME_PLACE_MM:
            raise ConfigError(f"{name} of a person lies on another grid than the other contrasts: resample it first")
    data = [IntensityCodec.fit(v.data, v.modality).encode(v.data[0].astype(np.float32)) for v in volumes]
    inside = np.argwhere(np.min(data, axis=0) > 0.05).astype(np.int16)
    if not len(inside):
        raise ConfigError("two contrasts of a person share no bright voxel: they show different places")
    return ContrastedPerson(torch.from_numpy(np.stack(data)).to(device, torch.float16), inside)


def _single(path: Path) -> Volume:
    volume = read_volume(path).reoriented()
    if len(volume.data) != 1:
        raise ConfigError(f"a contrast is a scan with one frame, got {len(volume.data)}")
    return volume


class ContrastBatches:
    """Endless batches; ``batches[step]`` is always the same for the same seed."""

    def __init__(self, people: Sequence[ContrastedPerson], config: ContrastConfig, seed: int) -> None:
        self.people, self.config, self.seed = list(people), config, seed

    def __getitem__(self, step: int) -> Batch:
        rng = np.random.default_rng(derive_seed(self.seed, step))
        truths, given, wanted = [], [], []
        for _ in range(self.config.size):
            person = self.people[int(rng.integers(len(self.people)))]
            source, target = (int(n) for n in rng.permutation(len(person.images))[:2])
            block = self._block(person, rng)
            truths.append(block[target])
            given.append(block[source] * float(np.exp(rng.normal(0, self.config.gain))))
            wanted.append(target if rng.random() < self.config.told else None)
        return Batch(torch.stack(truths)[:, None], translation_condition(torch.stack(given)[:, None], wanted))

    def _block(self, person: ContrastedPerson, rng: np.random.Generator) -> Tensor:
        """All contrasts of a random box that holds some of the body, mirrored left to right half of the time."""
        centre = person.inside[int(rng.integers(len(person.inside)))]
        box = []
        for middle, size in zip(centre, person.images.shape[1:], strict=True):
            start = int(np.clip(int(middle) - rng.integers(0, self.config.patch), 0, size - self.config.patch))
            box.append(slice(start, start + self.config.patch))
        block = person.images[(slice(None), *box)].float()
        return block.flip(1) if rng.random() < 0.5 else block
