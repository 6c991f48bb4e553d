"""What a generator must know of its people: how channels are standardised, and what can be asked for."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from medidiff.config import Config
from medidiff.data.cohort import People
from medidiff.diffusion.generator import (
    CategoricalCondition,
    ConditionSpec,
    GeneratorSpec,
    LabelChannel,
    NumericCondition,
    Value,
)
from medidiff.errors import ConfigError
from medidiff.generation.codes import LabelCodec, signed_distance
from medidiff.io.formats import strip_extension

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
        found = [value for value in column_of(source, people) if value is not None]
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


def column_of(source: Column, people: People) -> list[Value]:
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


def _extent(inside: NDArray[np.bool_]) -> list[int]:
    return [int(inside.any(axis=tuple(a for a in range(3) if a != axis)).sum()) for axis in range(3)]


def _round(value: Any, digits: int = 6) -> float:
    return round(float(value), digits)
