"""What is known of a synthetic set and of each of its items."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import AfterValidator, AwareDatetime, Field, JsonValue, field_validator, model_validator

from medidiff.config import Config
from medidiff.geometry import Geometry
from medidiff.volume import Modality

MOST_LABELS = 255

# An exact age written as a band would be no band.
NARROWEST_BAND_YEARS = 5

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
# Conditions that say more exactly what metadata says in bands: they never leave the set.
EXACT = frozenset({"age", "age_years", "age_band", "birth_date", "birth_year", "sex", "site", "scanner", "contrast"})

# Letters and digits only: what BIDS takes as a label, DICOM as a code string, and every file system as a name.
ItemId = Annotated[str, Field(pattern=r"^[A-Za-z0-9]{1,16}$")]
Line = Annotated[str, Field(min_length=1, max_length=400, pattern=r"^[^\x00-\x1f\x7f]+$")]
Word = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._+-]{0,31}$")]

# What tables and readers in other languages can hold.
Seed = Annotated[int, Field(ge=0, lt=1 << 63)]


def _to_the_second(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(microsecond=0)


Moment = Annotated[AwareDatetime, AfterValidator(_to_the_second)]


class FileRecord(Config):
    """A file of the set.

    Args:
        path: Relative to the set, with forward slashes.
        sha256: Of its bytes.
        size: Bytes.
    """

    path: str
    sha256: Digest
    size: int = Field(gt=0)


class Grid(Config):
    """Where the voxels of an item lie: ``Geometry`` as plain numbers, world RAS+ mm."""

    shape: tuple[int, int, int]
    affine: tuple[tuple[float, ...], ...]

    @classmethod
    def of(cls, geometry: Geometry) -> Grid:
        rows = tuple(tuple(float(value) for value in row) for row in geometry.affine)
        return cls(shape=geometry.shape, affine=rows)

    @property
    def geometry(self) -> Geometry:
        """Raises GeometryError: the numbers are no grid."""
        return Geometry(np.asarray(self.affine, dtype=np.float64), self.shape)


class Metadata(Config):
    """What an item says of the person that it does not show; drawn at random, never copied from anybody.

    Args:
        age_band: In years: ``"30-39"``, ``"90+"``.
        sex: As conditioned on.
        site: Name of a centre or scanner class.
    """

    age_band: str | None = Field(None, pattern=r"^(\d{1,3}-\d{1,3}|\d{1,3}\+)$")
    sex: Literal["female", "male", "other"] | None = None
    site: Word | None = None

    @field_validator("age_band")
    @classmethod
    def _is_a_band(cls, band: str | None) -> str | None:
        if band is None or band.endswith("+"):
            return band
        low, high = (int(end) for end in band.split("-"))
        if high - low + 1 < NARROWEST_BAND_YEARS:
            raise ValueError(f"a band of ages must span {NARROWEST_BAND_YEARS} years or more, got {band}")
        return band


class Intensity(Config):
    """The generator's value is ``slope * stored + intercept``; what is stored are whole numbers."""

    slope: float = Field(1.0, gt=0)
    intercept: float = 0.0


class Item(Config):
    """One synthetic volume.

    Args:
        synthetic: The mark: a record without it is none.
        id: Name within the set.
        seed: Of this item; the same seed and generator give the same bytes.
        model_sha256: Of the generator's weights.
        condition: What the generator was given, by name.
        metadata: Sampled.
        modality: MR or CT.
        suffix: What BIDS calls the image: ``"T1w"``, ``"ct"``.
        image, label: The files; the label map lies on the image's grid.
        grid: Of both.
        intensity: How stored values came from the generator's.
    """

    synthetic: Literal[True] = True
    id: ItemId
    seed: Seed
    model_sha256: Digest
    condition: dict[Word, Word | int | float | bool | None] = Field(default_factory=dict)
    metadata: Metadata = Metadata()
    modality: Modality
    suffix: str = Field(pattern=r"^[A-Za-z0-9]{1,16}$")
    image: FileRecord
    label: FileRecord | None = None
    grid: Grid
    intensity: Intensity = Intensity()

    @model_validator(mode="after")
    def _files_follow_from_the_id(self) -> Item:
        if self.modality not in (Modality.MR, Modality.CT):
            raise ValueError(f"a synthetic image is MR or CT, got {self.modality}")
        if self.image.path != image_path(self.id):
            raise ValueError(f"the image of {self.id} must be {image_path(self.id)}")
        if self.label is not None and self.label.path != label_path(self.id):
            raise ValueError(f"the label map of {self.id} must be {label_path(self.id)}")
        return self

    def line(self) -> str:
        """The item as one line of JSON, without its end."""
        return compact(self.model_dump(mode="json"))


class Source(Config):
    """A dataset that the generator was trained on.

    Args:
        name: As its authors call it.
        licence: SPDX identifier where there is one.
        people: How many persons of it trained the generator.
        citation, url: How to name and find it.
    """

    name: Line
    licence: Line
    people: int = Field(ge=0)
    citation: str = ""
    url: str = Field("", pattern=r"^(https?://\S+)?$")


class Generator(Config):
    """The model that made the set.

    Args:
        name, sha256: Of the model file.
        card: Its card: data, licences, validation, limits.
        sampler: Steps, guidance and whatever else decides what comes out.
    """

    name: Line
    sha256: Digest
    card: dict[str, JsonValue] = Field(default_factory=dict)
    sampler: dict[str, JsonValue] = Field(default_factory=dict)


class Code(Config):
    """A coded concept of DICOM, e.g. ``85756007, SCT, Tissue``."""

    value: str = Field(pattern=r"^\S{1,16}$")
    scheme: str = Field(pattern=r"^\S{1,16}$")
    meaning: str = Field(min_length=1, max_length=64)


class LabelClass(Config):
    """What a value of the label maps means.

    Args:
        value: From 1 on; 0 is background.
        name: For people and for nnU-Net.
        code: Of the structure; tissue in general if None.
    """

    value: int = Field(ge=1, le=MOST_LABELS)
    name: str = Field(pattern=r"^[A-Za-z][A-Za-z0-9 _-]{0,47}$")
    code: Code | None = None


class SetPlan(Config):
    """All that is decided before the first item is made.

    Args:
        synthetic: The mark.
        name: Of the set, e.g. ``"hippocampus-synthetic"``.
        description: What it shows, in a sentence or two.
        note: What everybody must be told, e.g. that it is a fixture of a test.
        created: When generation began, to the second; every date of a release is this one.
        code_version: Of medidiff.
        config_sha256: Of the resolved configuration.
        seed: From which the items' seeds follow.
        generator, sources: What made it, from what.
        training_split_sha256: Of the list of what the generator was trained on.
        licence: Of the set: SPDX identifier where there is one.
        labels: Meaning of the label maps; empty if there are none.
        metadata_model: How metadata was drawn.
        public_conditions: Names of conditions that a release may tell: none that say age, sex, site or contrast.
        body_part: As DICOM has it, e.g. ``"BRAIN"``; None where images show several.
        skull_stripped: Whether images of heads show the brain alone.
    """

    synthetic: Literal[True] = True
    schema_version: Literal[1] = 1
    name: str = Field(pattern=r"^[A-Za-z][A-Za-z0-9 _-]{0,63}$")
    description: str = Field(max_length=2000)
    note: str = Field("", max_length=2000)
    created: Moment
    code_version: Line
    config_sha256: Digest
    seed: Seed
    generator: Generator
    sources: tuple[Source, ...] = Field(min_length=1)
    training_split_sha256: Digest
    licence: Line
    labels: tuple[LabelClass, ...] = ()
    metadata_model: Line = "none: no item has metadata"
    public_conditions: tuple[Word, ...] = ()
    body_part: str | None = Field(None, pattern=r"^[A-Z][A-Z0-9_]{0,15}$")
    skull_stripped: bool = False

    @field_validator("public_conditions")
    @classmethod
    def _say_nothing_exact(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        exact = sorted(name for name in names if name.lower() in EXACT)
        if exact:
            raise ValueError(f"{', '.join(exact)} would say more exactly what metadata says in bands")
        return names

    @field_validator("labels")
    @classmethod
    def _labels_differ(cls, labels: tuple[LabelClass, ...]) -> tuple[LabelClass, ...]:
        if len({label.value for label in labels}) < len(labels) or len({label.name for label in labels}) < len(labels):
            raise ValueError("two label classes have the same value or name")
        if any(label.name.lower() == "background" for label in labels):
            raise ValueError("background is the name of value 0, and needs no class")
        return tuple(sorted(labels, key=lambda label: label.value))


class SetRecord(SetPlan):
    """A finished set.

    Args:
        items: How many.
        items_sha256: Of ``synthetic.jsonl``, which has the hash of every other file.
    """

    items: int = Field(gt=0)
    items_sha256: Digest


def image_path(item: str) -> str:
    return f"images/{item}.nii.gz"


def label_path(item: str) -> str:
    return f"labels/{item}.nii.gz"


def sidecar_path(item: str) -> str:
    return f"images/{item}.json"


def compact(value: Any) -> str:
    """Canonical JSON on one line: sorted keys, no space, ASCII."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def slug(name: str) -> str:
    """A name as folders and identifiers have it: letters and digits in CamelCase."""
    return "".join(part[:1].upper() + part[1:] for part in re.split(r"[^A-Za-z0-9]+", name) if part)
