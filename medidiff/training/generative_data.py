"""People as a generator sees them: channels, conditions, gentle distortions; every draw a function of (seed, step)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from medidiff.config import Config
from medidiff.data.cohort import People
from medidiff.diffusion.generator import Conditions, GeneratorSpec, Value
from medidiff.generation.codes import LabelCodec
from medidiff.rng import derive_seed
from medidiff.training.generative_spec import Column, Source, column_of, encode_values, measured


class WarpConfig(Config):
    """How people are bent so that none of them can be learned by heart.

    The network is told which items were bent, and when drawing it is told that none is: what comes out is not bent.
    Source: Karras et al. (2020), Training Generative Adversarial Networks with Limited Data; Jun et al. (2020),
    Distribution Augmentation for Generative Modeling (the network is told).
    """

    share: float = Field(0.6, ge=0, le=1, description="of the items that are bent")
    degrees: float = Field(8.0, ge=0)
    scale: float = Field(0.1, ge=0, lt=0.5)
    shear: float = Field(0.05, ge=0)
    contrast: float = Field(0.25, ge=0, lt=1, description="gamma between 1 / (1 + this) and 1 + this")
    crop: int = Field(4, ge=0, description="voxels that may be cut off a face")
    shift: int = Field(2, ge=0, description="whole voxels, of every item, bent or not")


class ItemConfig(Config):
    """What a batch holds, and what the network is told of it."""

    size: int = Field(8, ge=1)
    labels_given: float = Field(0.35, ge=0, le=1, description="share of the items whose label map is given")
    drop: float = Field(0.2, ge=0, le=1, description="how often a condition is left out by itself")
    drop_all: float = Field(0.2, ge=0, le=1, description="how often all are")
    warp: WarpConfig = WarpConfig()


@dataclass(frozen=True, slots=True)
class GenerativeBatch:
    """Clean channels of a step, shape (b, c, i, j, k), and what the network is told of them."""

    truth: Tensor
    conditions: Conditions

    def __len__(self) -> int:
        return len(self.truth)

    def __getitem__(self, items: slice) -> GenerativeBatch:
        return GenerativeBatch(self.truth[items], self.conditions[items])


class GenerativeBatches:
    """Endless batches of labelled people; ``batches[step]`` is always the same for the same seed."""

    def __init__(
        self,
        people: People,
        spec: GeneratorSpec,
        sources: tuple[Source, ...],
        config: ItemConfig,
        seed: int,
        device: torch.device,
    ) -> None:
        self.spec, self.sources, self.config, self.seed, self.device = spec, sources, config, seed, device
        self.codec = LabelCodec.of(spec)
        self.items = encode_people(people, spec, sources)
        self._warp = _warper(config.warp)

    def __getitem__(self, step: int) -> GenerativeBatch:
        places = (step * self.config.size + place for place in range(self.config.size))
        drawn = [self._item(self._person(place), derive_seed(self.seed, step, place)) for place in places]
        return collate(drawn, self.device)

    def of_person(self, person: int, seeds: Sequence[int]) -> GenerativeBatch:
        """So many draws of one person, a seed each."""
        return collate([self._item(person, seed) for seed in seeds], self.device)

    def _person(self, place: int) -> int:
        """Everybody once in an epoch, in another order each time."""
        epoch, within = divmod(place, len(self.items))
        return int(np.random.default_rng([self.seed, epoch]).permutation(len(self.items))[within])

    def _item(self, person: int, seed: int) -> _Drawn:
        rng, config, item = np.random.default_rng(seed), self.config, self.items[person]
        channels, inside = item.channels, item.inside
        warped = rng.random() < config.warp.share
        if warped:
            channels, inside = self._bend(channels, inside, seed, rng)
        channels, inside = _shift((channels, inside), rng, config.warp.shift)
        values = item.values | measured(channels[1:], self.spec, self.sources)
        told = (
            {} if rng.random() < config.drop_all else {k: v for k, v in values.items() if rng.random() >= config.drop}
        )
        given = bool(self.spec.labels) and rng.random() < config.labels_given
        return _Drawn(channels, inside, encode_values(self.spec, told), given, warped)

    def _bend(self, channels: Tensor, inside: Tensor, seed: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        self._warp.set_random_state(seed & 0xFFFFFFFF)
        bent = self._warp(
            {"image": channels[:1], "labels": channels[1:], "inside": _cut(inside, rng, self.config.warp)}
        )
        inside = bent["inside"].as_tensor()
        out = torch.cat([bent["image"].as_tensor(), bent["labels"].as_tensor()])
        return out, inside


@dataclass(frozen=True, slots=True)
class EncodedPerson:
    """Channels (c, i, j, k), what was acquired (1, i, j, k), and what is known from tables."""

    channels: Tensor
    inside: Tensor
    values: dict[str, Value]


@dataclass(frozen=True, slots=True)
class _Drawn:
    channels: Tensor
    inside: Tensor
    vector: list[float]
    given: bool
    warped: bool


def encode_people(people: People, spec: GeneratorSpec, sources: tuple[Source, ...] = ()) -> list[EncodedPerson]:
    """Everybody as channels at unit variance."""
    codec = LabelCodec.of(spec)
    tables = {source.name: column_of(source, people) for source in sources if isinstance(source, Column)}
    encoded = []
    for place in range(len(people)):
        image = (people.images[place] - spec.intensity_mean) / spec.intensity_std
        parts = [image]
        if spec.labels and people.labels is not None:
            parts.append(codec.encode(people.labels[place, 0]))
        channels = torch.from_numpy(np.concatenate(parts).astype(np.float32))
        inside = torch.from_numpy(people.inside[place].astype(np.float32))
        encoded.append(EncodedPerson(channels, inside, {name: column[place] for name, column in tables.items()}))
    return encoded


def collate(items: list[_Drawn], device: torch.device) -> GenerativeBatch:
    """Stack items to a batch."""
    truth = torch.stack([item.channels for item in items])
    given = torch.tensor([float(item.given) for item in items])
    conditions = Conditions(
        vector=torch.tensor([item.vector for item in items]).reshape(len(items), -1),
        inside=torch.stack([item.inside for item in items]),
        labels=truth[:, 1:] * given.view(-1, 1, 1, 1, 1),
        labels_given=given,
        warped=torch.tensor([float(item.warped) for item in items]),
    )
    return GenerativeBatch(truth.to(device), conditions.to(device))


def _warper(config: WarpConfig) -> Any:
    """MONAI's transforms that bend an item, all drawn from one random state."""
    from monai.transforms.compose import Compose
    from monai.transforms.intensity.dictionary import RandAdjustContrastd
    from monai.transforms.spatial.dictionary import RandAffined

    angle = math.radians(config.degrees)
    keys = ("image", "labels", "inside")
    return Compose(
        [
            RandAffined(
                keys,
                prob=1.0,
                rotate_range=(angle,) * 3,
                scale_range=(config.scale,) * 3,
                shear_range=(config.shear,) * 6,
                mode=("bilinear", "bilinear", "nearest"),
                padding_mode=("border", "border", "zeros"),
            ),
            RandAdjustContrastd("image", prob=1.0, gamma=(1 / (1 + config.contrast), 1 + config.contrast)),
        ]
    )


def _cut(inside: Tensor, rng: np.random.Generator, config: WarpConfig) -> Tensor:
    """Up to ``crop`` voxels less on each face of what was acquired."""
    low = inside[0].nonzero().min(0).values
    high = inside[0].nonzero().max(0).values + 1
    cuts = rng.integers(0, config.crop + 1, size=6)
    out = torch.zeros_like(inside)
    i, j, k = (slice(int(low[a]) + int(cuts[2 * a]), int(high[a]) - int(cuts[2 * a + 1])) for a in range(3))
    out[:, i, j, k] = inside[:, i, j, k]
    return out


def _shift(tensors: tuple[Tensor, Tensor], rng: np.random.Generator, most: int) -> tuple[Tensor, Tensor]:
    """Move by whole voxels; what comes in at the other side counts as not acquired."""
    steps = [int(step) for step in rng.integers(-most, most + 1, size=3)]
    channels, inside = (torch.roll(tensor, steps, (1, 2, 3)) for tensor in tensors)
    for axis, step in enumerate(steps, start=1):
        if step:
            inside.narrow(axis, 0 if step > 0 else inside.shape[axis] + step, abs(step)).zero_()
    return channels, inside
