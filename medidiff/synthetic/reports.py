"""What was found out about a synthetic set: quality and privacy, each a verdict with its reasons and figures.

``evaluate`` and ``audit`` write these files; ``release`` reads them and believes nothing that does not name the set by
its hash. The seal shows a change made by accident or by hand. It is no signature: who can write the file can seal it.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BeforeValidator, Field, PlainSerializer, ValidationError, model_validator

from medidiff.config import Config
from medidiff.errors import InputError
from medidiff.io.atomic import atomic_write_json
from medidiff.synthetic.records import Digest, ItemId, Line, Moment, compact
from medidiff.synthetic.stored import PRIVACY, QUALITY, first_problem, load_json, own_only

_MOST_BYTES = 256 << 20
_SEAL = "seal"


def _png(value: object) -> bytes:
    try:
        content = base64.b64decode(value, validate=True) if isinstance(value, str) else value
    except ValueError as error:
        raise ValueError("a picture must be a PNG in base64") from error
    if not isinstance(content, bytes) or not content.startswith(b"\x89PNG\r\n\x1a\n"):
        raise ValueError("a picture must be a PNG")
    return content


Png = Annotated[
    bytes, BeforeValidator(_png), PlainSerializer(lambda content: base64.b64encode(content).decode(), when_used="json")
]


class Outcome(StrEnum):
    """How a check ended. Inconclusive refuses as failed does: too few cases prove nothing."""

    PASSED = "passed"
    FAILED = "failed"
    INCONCLUSIVE = "inconclusive"


class Family(StrEnum):
    """What a figure is about."""

    FIDELITY = "fidelity"
    DIVERSITY = "diversity"
    STRUCTURE = "structure"
    UTILITY = "utility"
    MEMORISATION = "memorisation"
    MEMBERSHIP = "membership"
    DIFFERENTIAL_PRIVACY = "differential privacy"


class Metric(Config):
    """One figure.

    Args:
        name: E.g. ``"KID"``, ``"membership AUC (loss)"``.
        family: What it is about.
        value: None if it could not be computed.
        n: How many of ``unit`` it rests on.
        unit: What was counted: patients wherever patients are known.
        interval: Of the value, at ``level``.
        ceiling: The same figure real against real: the best that can be had.
        floors: The same figure of sets known to be bad: blur, noise, copies, collapse.
        limit: What had to be reached, in words: ``"at most 0.60 at the interval's upper end"``.
        better: Which way is good.
        outcome: None if it is only told.
        note: What a reader must know.
    """

    name: Line
    family: Family
    value: float | None
    n: int = Field(ge=0)
    unit: Literal["items", "patients"]
    interval: tuple[float, float] | None = None
    level: float = Field(0.95, gt=0, lt=1)
    ceiling: float | None = None
    floors: dict[str, float] = Field(default_factory=dict)
    limit: str = ""
    better: Literal["higher", "lower", "neither"] = "neither"
    outcome: Outcome | None = None
    note: str = ""

    @model_validator(mode="after")
    def _passes_on_evidence(self) -> Self:
        if self.interval is not None and self.interval[0] > self.interval[1]:
            raise ValueError("an interval's lower end is above its upper end")
        if self.outcome is Outcome.PASSED and (self.value is None or self.n == 0):
            raise ValueError("a figure without a value or without cases cannot pass")
        return self


class _Report(Config):
    """What both reports have.

    Args:
        set_sha256: Of the set that was examined (``SyntheticSet.sha256``).
        created: When it was examined.
        code_version: Of medidiff.
        config_sha256: Of the resolved settings.
        verdict: Of the whole.
        reasons: Why it did not pass; empty if it did.
        metrics: Every figure.
        notes: What a reader must know: which features, which segmenter, how many patients.
    """

    synthetic: Literal[True] = True
    schema_version: Literal[1] = 1
    set_sha256: Digest
    created: Moment
    code_version: Line
    config_sha256: Digest
    verdict: Outcome
    reasons: tuple[Line, ...] = ()
    metrics: tuple[Metric, ...] = ()
    notes: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> Self:
        worst = {metric.outcome for metric in self.metrics} - {None, Outcome.PASSED}
        if self.verdict is Outcome.PASSED and (self.reasons or worst):
            raise ValueError("the verdict is passed, though a figure or a reason says otherwise")
        if self.verdict is not Outcome.PASSED and not self.reasons:
            raise ValueError("a verdict other than passed needs a reason")
        return self

    @classmethod
    def conclude(cls, metrics: Iterable[Metric], reasons: Iterable[str] = (), **rest: Any) -> Self:
        """A report whose verdict follows from its figures: failed before inconclusive before passed.

        Args:
            metrics: Every figure.
            reasons: Why the whole is inconclusive, beyond single figures: too few patients.
            rest: The other fields.
        """
        figures = tuple(metrics)
        told = list(reasons)
        verdict = Outcome.INCONCLUSIVE if told else Outcome.PASSED
        for outcome in (Outcome.INCONCLUSIVE, Outcome.FAILED):
            worse = [metric for metric in figures if metric.outcome is outcome]
            told += [f"{metric.name}: {outcome.value} ({metric.limit or 'no limit stated'})" for metric in worse]
            verdict = outcome if worse else verdict
        return cls(verdict=verdict, reasons=tuple(reason[:400] for reason in told), metrics=figures, **rest)


class QualityReport(_Report):
    """How good the set is."""

    kind: Literal["quality"] = "quality"


class Neighbour(Config):
    """A synthetic item and the training volume nearest to it.

    Pictures show a real person: they are for the page that stays in the house, never for a release.

    Args:
        item: Its name.
        distance: To the nearest training volume, in the audit's own measure.
        limit: Below which an item counts as a copy.
        held_out: Distance to the nearest volume of a person who was not trained on.
        under: Transformation under which it was nearest: ``"flipped left to right"``.
        sample_png, nearest_png: Pictures.
    """

    item: ItemId
    distance: float = Field(ge=0)
    limit: float | None = None
    held_out: float | None = Field(None, ge=0)
    under: str = Field("", max_length=80)
    sample_png: Png | None = None
    nearest_png: Png | None = None


class DifferentialPrivacy(Config):
    """The guarantee that training was run with.

    Args:
        epsilon, delta: Of the guarantee, per patient.
        people: How many it holds for.
        accountant: Which one computed it, and what a second one says.
    """

    epsilon: float = Field(gt=0)
    delta: float = Field(gt=0, lt=1)
    people: int = Field(gt=0)
    accountant: Line


class PrivacyReport(_Report):
    """What the set leaks.

    Args:
        training_split_sha256: Of the list of what the generator was trained on, as audited; must be the set's.
        members, non_members: Patients on either side of the membership tests.
        neighbours: The items nearest to training volumes, nearest first.
        differential_privacy: None if training gave no such guarantee.
    """

    kind: Literal["privacy"] = "privacy"
    training_split_sha256: Digest
    members: int = Field(ge=0)
    non_members: int = Field(ge=0)
    neighbours: tuple[Neighbour, ...] = ()
    differential_privacy: DifferentialPrivacy | None = None

    def without_pictures(self) -> PrivacyReport:
        """The same report with no picture of anybody."""
        bare = tuple(n.model_copy(update={"sample_png": None, "nearest_png": None}) for n in self.neighbours)
        return self.model_copy(update={"neighbours": bare})


R = TypeVar("R", QualityReport, PrivacyReport)

FILES: dict[type[QualityReport | PrivacyReport], str] = {QualityReport: QUALITY, PrivacyReport: PRIVACY}


def write_report(report: QualityReport | PrivacyReport, folder: str | os.PathLike[str]) -> Path:
    """Write a report into the folder of its set, sealed.

    Raises:
        OutputError: it cannot be written.
    """
    path = Path(folder) / FILES[type(report)]
    atomic_write_json(path, sealed(report))
    return path


def sealed(report: QualityReport | PrivacyReport) -> dict[str, Any]:
    """The report as JSON holds it, with the hash of all else in it."""
    value = report.model_dump(mode="json")
    return {_SEAL: _seal(value), **value}


def read_report(kind: type[R], folder: str | os.PathLike[str]) -> R:
    """Read a report from the folder of a set.

    Raises:
        InputError: there is none, its seal is broken, or it contradicts itself.
    """
    path = Path(folder) / FILES[kind]
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise InputError(f"{path.name}: larger than any report")
        with open(path, "rb", opener=own_only) as stream:
            content = stream.read(_MOST_BYTES)
    except FileNotFoundError as error:
        raise InputError(f"{path.name}: there is no such report") from error
    except OSError as error:
        raise InputError(f"{path.name}: cannot be read ({error.strerror})") from error
    try:
        value = load_json(content)
        whole = isinstance(value, dict) and value.pop(_SEAL, None) == _seal(value)
    except (InputError, ValueError) as error:  # ValueError: 1e999 is a number to JSON, and infinite to us
        raise InputError(f"{path.name}: {error}") from None
    if not whole:
        raise InputError(f"{path.name}: altered since it was written (its seal is broken)")
    try:
        return kind.model_validate_json(compact(value))
    except ValidationError as error:
        raise InputError(f"{path.name}: {first_problem(error)}") from None


def _seal(value: object) -> str:
    return hashlib.sha256(compact(value).encode()).hexdigest()
