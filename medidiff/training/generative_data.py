"""People as a generator sees them: channels, conditions, gentle distortions; every draw a function of (seed, step)."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from medidiff.config import Config
from medidiff.data.cohort import People
from medidiff.diffusion.generator import (
    CategoricalCondition,
    Conditions,
    ConditionSpec,
    GeneratorSpec,
    LabelChannel,
    NumericCondition,
    Value,
)
from medidiff.errors import ConfigError
from medidiff.generation.codes import LabelCodec, signed_distance
from medidiff.io.formats import strip_extension
from medidiff.rng import derive_seed

# Of people, a specification tells no minimum and no maximum: both would be values of one person.
RANGE_PERCENTILES = (2.0, 98.0)
MISSING = ("", "n/a", "nan", "unknown")


class LabelVolume(Config):
    """Condition: the volume of some label classes together, ml."""

    kind: Literal["label_volume"] = "label_volume"
    name: str = "volume_ml"
    values: tuple[int, ...] = Field(min_length=1)


class LabelShare(Config):
    """Condition: the share of one label class in all that is labelled."""

    kind: Literal["label_share"] = "label_share"
    name: str
    value: int


class Column(Config):
    """Condition: a column of a table with a row a person (age, sex, class, contrast); ``n/a`` is unknown.

    Args:
        table: Tab-separated, with a head line; its first column is the name of the person's image without suffixes.
        number: The column holds numbers; else words.
    """

    kind: Literal["column"] = "column"
    name: str
    table: Path
    column: str
    number: bool = False


Source = Annotated[LabelVolume | LabelShare | Column, Field(discriminator="kind")]


class LabelName(Config):
    """What a value of the label maps is."""

    value: int = Field(ge=1, le=255)
    name: str


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


def measure_spec(
    people: People,
    labels: tuple[LabelName, ...],
    sources: tuple[Source, ...],
    *,
    suffix: str,
    modality: Literal["MR", "CT"] = "MR",
    clip_voxels: float = 4.0,
    sigma_min: float = 0.02,
    sigma_max: float = 160.0,
) -> GeneratorSpec:
    """What a generator of these people must know: how channels are standardised, what can be asked for.

    Raises:
        ConfigError: label classes are named but nobody has a label map, or a table lacks a person's column.
    """
    if labels and people.labels is None:
        raise ConfigError("labels: classes are named, but not everybody has a label map")
    inside = people.inside
    image = people.images[inside]
    channels = []
    for label in labels:
        maps = np.stack([signed_distance(each[0] == label.value, clip_voxels) for each in people.labels])[inside[:, 0]]  # type: ignore[union-attr]
        channels.append(
            LabelChannel(value=label.value, name=label.name, mean=_round(maps.mean()), std=_round(maps.std()))
        )
    extents = np.array([_extent(each[0]) for each in inside], dtype=np.float64)
    covariance = np.cov(extents.T) if len(extents) > 1 else np.zeros((3, 3))
    return GeneratorSpec(
        shape=people.geometry.shape,
        spacing_mm=tuple(float(step) for step in people.geometry.spacing),
        modality=modality,
        suffix=suffix,
        intensity_mean=_round(image.mean()),
        intensity_std=_round(image.std()),
        labels=tuple(channels),
        clip_voxels=clip_voxels,
        conditions=tuple(_condition(source, people) for source in sources),
        extent_mean=tuple(_round(value) for value in extents.mean(0)),
        extent_covariance=tuple(tuple(_round(value) for value in row) for row in covariance),
        extent_low=tuple(int(value) for value in np.percentile(extents, RANGE_PERCENTILES[0], axis=0)),
        sigma_min=sigma_min,
        sigma_max=sigma_max,
    )


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
    tables = {source.name: _column(source, people) for source in sources if isinstance(source, Column)}
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


def measured(label_channels: Tensor, spec: GeneratorSpec, sources: tuple[Source, ...]) -> dict[str, Value]:
    """The conditions that a label map has in itself, of its channels, shape (l, i, j, k)."""
    wanted = [source for source in sources if not isinstance(source, Column)]
    if not wanted:
        return {}
    labels = LabelCodec.of(spec).decode(label_channels.numpy())
    return {source.name: of_labels(source, labels, spec.spacing_mm) for source in wanted}


def of_labels(source: LabelVolume | LabelShare, labels: NDArray[np.uint8], spacing: tuple[float, ...]) -> float | None:
    """A condition measured on a label map."""
    if isinstance(source, LabelVolume):
        return float(np.isin(labels, source.values).sum() * math.prod(spacing) / 1000)
    whole = int((labels > 0).sum())
    return float((labels == source.value).sum() / whole) if whole else None


def encode_values(spec: GeneratorSpec, values: dict[str, Value]) -> list[float]:
    """As ``GeneratorSpec.vector``, but people of training may lie beyond the range that may be asked for."""
    vector: list[float] = []
    for entry in spec.conditions:
        value = values.get(entry.name)
        if isinstance(entry, NumericCondition) and isinstance(value, int | float):
            vector += entry.encode(float(value))
        else:
            vector += entry.vector(value)
    return vector


def _condition(source: Source, people: People) -> ConditionSpec:
    if isinstance(source, Column):
        found = [value for value in _column(source, people) if value is not None]
        if not source.number:
            return CategoricalCondition(name=source.name, values=tuple(sorted({str(value) for value in found})))
        numbers = np.array(found, dtype=np.float64)
    else:
        if people.labels is None:
            raise ConfigError(f"{source.name}: measured on label maps, but not everybody has one")
        spacing = people.geometry.spacing
        each = (of_labels(source, labels[0], tuple(spacing)) for labels in people.labels)
        numbers = np.array([value for value in each if value is not None], dtype=np.float64)
    low, high = np.percentile(numbers, RANGE_PERCENTILES)
    return NumericCondition(
        name=source.name,
        mean=_round(numbers.mean()),
        std=_round(max(float(numbers.std()), 1e-6)),
        low=_round(low, 3),
        high=_round(high, 3),
    )


def _column(source: Column, people: People) -> list[Value]:
    """A column in the order of the people."""
    try:
        with source.table.open(newline="", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream, delimiter="\t"))
    except OSError as error:
        raise ConfigError(f"{source.table}: cannot read the table: {error.strerror}") from error
    if not rows or source.column not in rows[0]:
        raise ConfigError(f"{source.table}: expected a head line with the column {source.column!r}")
    first = next(iter(rows[0]))
    by_name = {row[first]: (row[source.column] or "").strip() for row in rows}
    texts = [by_name.get(strip_extension(person.image.name), "") for person in people.persons]
    known = [None if text.lower() in MISSING else text for text in texts]
    if all(text is None for text in known):
        raise ConfigError(f"{source.table}: nobody of the training people has a value of {source.column!r}")
    try:
        return [text if text is None or not source.number else float(text) for text in known]
    except ValueError:
        raise ConfigError(f"{source.table}: {source.column}: expected numbers or n/a") from None


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


def _extent(inside: NDArray[np.bool_]) -> list[int]:
    return [int(inside.any(axis=tuple(a for a in range(3) if a != axis)).sum()) for axis in range(3)]


def _round(value: Any, digits: int = 6) -> float:
    return round(float(value), digits)
