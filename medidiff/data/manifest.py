"""The list of what a dataset holds: one JSON object a line, a volume each, without identifiers."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, cast

from medidiff.errors import ConfigError, InputError
from medidiff.io.atomic import atomic_file

MANIFEST = "manifest.jsonl"
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True, slots=True)
class ManifestRecord:
    """One volume of a dataset.

    Args:
        id: Keyed hash of where it came from; stable over runs.
        path: The NIfTI file, relative to the dataset, with forward slashes.
        subject, session: Pseudonyms, without the ``sub-`` and ``ses-`` of BIDS.
        modality: ``"MR"``, ``"CT"``, ``"LABEL"`` or ``"OTHER"``.
        suffix: What BIDS calls the image: ``"T1w"``, ``"bold"``, ``"ct"``.
        split: ``"train"``, ``"validation"`` or ``"test"``: the patient's.
        usable: Whether the quality gate lets it into training.
        reasons: Why it is not usable.
        sha256: Of the file.
        voxels_sha256: Of the voxels in RAS+ order with their grid: equal for equal scans, however they are stored.
        shape: Voxels along (i, j, k).
        frames: Time points, echoes or directions.
        spacing: Between voxel centres along (i, j, k), mm.
        slice_thickness: Nominal, mm; None if the source does not say.
        orientation: Nearest anatomical directions, e.g. ``"LAS"``.
        acquired: Date and time, moved by the patient's own shift; empty if unknown.
        quality: Figures of the gate.
        source: Format, and counts of files and planes.
        deidentification: What was done, in fixed words and counts.
        notes: What a careful reader should know.
    """

    id: str
    path: str
    subject: str
    session: str
    modality: str
    suffix: str
    split: str
    usable: bool
    reasons: tuple[str, ...]
    sha256: str
    voxels_sha256: str
    shape: tuple[int, int, int]
    frames: int
    spacing: tuple[float, float, float]
    slice_thickness: float | None
    orientation: str
    acquired: str = ""
    quality: dict[str, float | int | str | None] = field(default_factory=dict)
    source: dict[str, int | str] = field(default_factory=dict)
    deidentification: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> ManifestRecord:
        """The record of a parsed line.

        Raises:
            InputError: fields are missing or unknown.
        """
        known = {item.name for item in fields(cls)}
        if set(value) - known:
            raise InputError("a manifest line has fields that this version does not know; ingest again")
        values = {name: tuple(item) if isinstance(item, list) else item for name, item in value.items()}
        try:
            return cls(**cast(Any, values))
        except TypeError as error:
            raise InputError(f"a manifest line is not complete ({error}); ingest again") from error


def write_manifest(records: Iterable[ManifestRecord], path: Path) -> None:
    """Write the records in order of their paths, atomically; the same records give the same bytes."""
    with atomic_file(path) as temporary, temporary.open("w", encoding="utf-8") as stream:
        for record in sorted(records, key=lambda record: (record.path, record.id)):
            stream.write(json.dumps(record.to_json(), ensure_ascii=False, allow_nan=False) + "\n")


def read_manifest(dataset: str | os.PathLike[str]) -> Iterator[ManifestRecord]:
    """The records of a dataset folder or of a manifest file, one after the other.

    Raises:
        InputError: there is no manifest, or a line is damaged.
    """
    path = Path(dataset)
    path = path / MANIFEST if path.is_dir() else path
    try:
        stream = path.open(encoding="utf-8")
    except OSError as error:
        raise InputError(f"{path}: no manifest can be read there ({error.strerror})") from error
    with stream:
        for number, line in enumerate(stream, 1):
            try:
                yield ManifestRecord.from_json(dict(json.loads(line)))
            except (ValueError, TypeError, InputError) as error:
                raise InputError(f"{path}:{number}: {error}") from error


def split_of(subject: str, shares: tuple[float, float, float] = (0.8, 0.1, 0.1)) -> str:
    """The split of a patient: a hash of the pseudonym, so that others who come or go don't move anybody.

    The pseudonym is a keyed hash itself, so the split tells nothing about the person, and all scans of a patient are
    on one side.

    Args:
        subject: Pseudonym.
        shares: Expected parts of train, validation and test; their sum is 1.
    Raises:
        ConfigError: the shares are no parts of one.
    """
    if len(shares) != len(SPLITS) or min(shares) < 0 or abs(sum(shares) - 1) > 1e-9:
        raise ConfigError(f"the shares of train, validation and test must be three parts of 1, got {shares}")
    place = int.from_bytes(hashlib.sha256(f"split {subject}".encode()).digest()[:8]) / 2**64
    if place < shares[0]:
        return SPLITS[0]
    return SPLITS[1] if place < shares[0] + shares[1] else SPLITS[2]
