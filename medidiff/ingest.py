"""Ingest: whatever a hospital or lab has becomes a clean, de-identified, split dataset.

    result = ingest(["/data/heap"], "/data/project/dataset", IngestOptions(), print)

Every file of the sources ends in one line of ``files.jsonl``. Running it again does only what is new.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from medidiff.config import Config
from medidiff.data.manifest import split_of
from medidiff.errors import EXIT_BAD_INPUT, EXIT_OK, ConfigError, InputError
from medidiff.ingestion.heap import Heap
from medidiff.ingestion.lines import APART, NOT_RETRIEVED, FileLine
from medidiff.ingestion.quality import QualityGate
from medidiff.ingestion.runner import Runner
from medidiff.ingestion.series import Tools
from medidiff.ingestion.spool import Spool
from medidiff.ingestion.state import DatasetState, workshop
from medidiff.ingestion.store import Store
from medidiff.ingestion.summary import finish
from medidiff.io.archives import ArchiveLimits
from medidiff.io.dicom import ReadPolicy
from medidiff.io.source import refuse_root
from medidiff.privacy.keys import PrivacyKey
from medidiff.privacy.policy import DeidentifyPolicy
from medidiff.progress import OnProgress, silent

# Raised when the same settings begin to give other volumes.
_VERSION = 1


class SplitShares(Config):
    """Expected parts of the patients."""

    train: float = Field(0.8, ge=0, le=1)
    validation: float = Field(0.1, ge=0, le=1)
    test: float = Field(0.1, ge=0, le=1)

    def as_tuple(self) -> tuple[float, float, float]:
        return self.train, self.validation, self.test


class IngestOptions(Config):
    """How to ingest; also the schema of a YAML file of ``kind: ingest``.

    Args:
        key: File of the privacy key, made if missing; ``DATASET.key`` beside the dataset if None.
        keep_face: Leave the voxels of faces as they are.
        body_part: What all sources show: ``"head"``, ``"other"`` (no head, so no face), or ``"auto"``.
        keep_characteristics: Keep sex and age (90 and above as 90) in the cleaned headers.
        clean_pixels: Search DICOM pixels for burned-in text.
        tilt: Gantry tilt: ``"shear"`` or ``"refuse"``.
        uneven: Uneven or missing slices: ``"refuse"`` or ``"resample"``.
        subject_pattern: Regular expression on the path of a volume file; its first group is the patient.
        split: Parts of the patients.
        quality: The gate.
        budget: Bytes that one volume may take in memory; half of what is free if None.
        archive_bytes: What all archives together may unpack to.
        workers: Processes that read headers; as many as are worth while if None.
        name: Name of the dataset in its description.
    """

    kind: Literal["ingest"] = "ingest"
    key: Path | None = None
    keep_face: bool = False
    body_part: Literal["auto", "head", "other"] = "auto"
    keep_characteristics: bool = False
    clean_pixels: bool = True
    tilt: Literal["shear", "refuse"] = "shear"
    uneven: Literal["refuse", "resample"] = "refuse"
    subject_pattern: str = ""
    split: SplitShares = SplitShares()
    quality: QualityGate = QualityGate()
    budget: int | None = Field(None, gt=0)
    archive_bytes: int = Field(64 << 30, gt=0)
    workers: int | None = Field(None, gt=0)
    name: str = "medidiff dataset"

    @field_validator("subject_pattern")
    @classmethod
    def _is_pattern(cls, pattern: str) -> str:
        import re

        try:
            groups = re.compile(pattern).groups
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from None
        if pattern and groups < 1:
            raise ValueError("needs a group in brackets that holds the patient")
        return pattern


@dataclass(frozen=True, slots=True)
class IngestResult:
    """What a run did; no identifier in it.

    Args:
        dataset: Where.
        report: The HTML page.
        key: The key file.
        files: Source files looked at.
        kept: Source files that are in a volume.
        set_apart: Source files that are in none, by reason.
        bad: How many of these somebody should look at.
        added: Ids of volumes that were written now.
        volumes: Volumes in the dataset.
        usable: Volumes that passed the gate.
        patients: Patients in the dataset.
        splits: Volumes of each split.
    """

    dataset: Path
    report: Path
    key: Path
    files: int
    kept: int
    set_apart: dict[str, int]
    bad: int
    added: tuple[str, ...]
    volumes: int
    usable: int
    patients: int
    splits: dict[str, int]

    @property
    def exit_code(self) -> int:
        """What the command ends with: bad input if a file was meant to be a scan and could not be used."""
        return EXIT_BAD_INPUT if self.bad or not self.kept else EXIT_OK


def ingest(
    sources: Sequence[str | os.PathLike[str]],
    dataset: str | os.PathLike[str],
    options: IngestOptions | None = None,
    on_progress: OnProgress | None = None,
) -> IngestResult:
    """Bring everything that the sources hold into a dataset.

    Args:
        sources: Files, folders, archives; ``dicomweb://`` and ``dimse://`` addresses. They are only read.
        dataset: Folder, new or of an earlier run.
        options: How.
        on_progress: Called with (done, total, what); total is 0 while it is not known.
    Raises:
        ConfigError: sources and dataset lie inside one another, the dataset is another's, the key does not fit.
        InputError: a source does not exist, or a server cannot be reached.
        OutputError: the dataset cannot be written.
    """
    options = options or IngestOptions()
    split_of("", options.split.as_tuple())
    place = Path(dataset).resolve()
    tell = on_progress or silent
    local, remote = _sources(sources, place)
    key_path = options.key.resolve() if options.key else place.with_name(f"{place.name}.key")
    with workshop(place) as work:
        key = PrivacyKey.load_or_create(key_path, outside=place)
        state = DatasetState.open(place, key)
        heap = Heap(local, work, key, ArchiveLimits(total_bytes=options.archive_bytes))
        with Spool(work / "index.sqlite") as spool:
            _fetch(remote, heap, work, spool, tell)
            heap.index(
                spool,
                budget=options.budget,
                localizers=False,
                workers=options.workers,
                on_file=lambda seen: tell(seen, 0, "looking at files"),
            )
            store = Store(state, options.quality, keep_face=options.keep_face, body_part=options.body_part)
            runner = Runner(state, store, spool, heap, _tools(options, key, work), options.subject_pattern)
            runner.run(tell)
            tell(0, 0, "writing the manifest")
            summary = finish(state, spool, options.quality, options.split.as_tuple(), options.name)
            counts = Counter(line.outcome for line in spool.lines(fresh=True))
            apart = Counter(line.reason for line in spool.lines(fresh=True) if line.outcome != "kept")
            bad = sum(line.is_bad_input for line in spool.lines(fresh=True))
    return IngestResult(
        dataset=place,
        report=summary.report,
        key=key_path,
        files=sum(counts.values()),
        kept=counts["kept"],
        set_apart=dict(sorted(apart.items())),
        bad=bad,
        added=tuple(runner.added),
        volumes=summary.volumes,
        usable=summary.usable,
        patients=summary.patients,
        splits=summary.splits,
    )


def _sources(sources: Iterable[str | os.PathLike[str]], dataset: Path) -> tuple[list[Path], list[str]]:
    local: list[Path] = []
    remote: list[str] = []
    for source in sources:
        name = os.fspath(source)
        if name.startswith(("dicomweb://", "dicomwebs://", "dimse://")):
            remote.append(name)
            continue
        path = Path(name).resolve()
        if not path.exists():
            raise InputError(f"{source}: there is no such file or folder")
        refuse_root(path)
        if path.is_relative_to(dataset) or dataset.is_relative_to(path):
            raise ConfigError(f"{source}: source and dataset lie inside one another; give a dataset folder outside it")
        local.append(path)
    if not local and not remote:
        raise ConfigError("no source was given: name a folder, a file, an archive or a server")
    return local, remote


def _tools(options: IngestOptions, key: PrivacyKey, work: Path) -> Tools:
    policy = DeidentifyPolicy(
        clean_pixels=options.clean_pixels,
        clean_faces=not options.keep_face,
        keep_characteristics=options.keep_characteristics,
    )
    shaping = {
        "version": _VERSION,
        "policy": policy.fingerprint,
        "body_part": options.body_part,
        "tilt": options.tilt,
        "uneven": options.uneven,
        "subject": options.subject_pattern,
        "quality": options.quality.model_dump(),
    }
    fingerprint = hashlib.sha256(json.dumps(shaping, sort_keys=True).encode()).hexdigest()[:16]
    reading = ReadPolicy(tilt=options.tilt, uneven=options.uneven, budget=options.budget)
    return Tools(key, policy, reading, work, fingerprint)


def _fetch(remote: list[str], heap: Heap, work: Path, spool: Spool, tell: OnProgress) -> None:
    """Bring what servers have into the private work folder."""
    if not remote:
        return
    from medidiff.io.pacs import fetch, parse_address

    for number, address in enumerate(remote):
        folder = work / f"fetched-{number:03d}"
        folder.mkdir(mode=0o700)
        report = fetch(address, folder, on_progress=tell)
        server = str(parse_address(address))
        for uid, why in report.failures:
            spool.add_line(FileLine(heap.token(f"{server}!{uid}"), APART, NOT_RETRIEVED, why))
        for uid in report.whole:
            spool.settle(heap.token(f"{server}!{uid}"))
        heap.stage(folder, server)
