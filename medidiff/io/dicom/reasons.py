"""Why something in a heap of DICOM files did not become a volume.

Nothing is dropped without one of these. A file name may hold a patient's name, so messages speak of
``file-1a2b3c4d``; the path itself is kept beside it for programs, and never printed from here.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from medidiff.errors import DicomSeriesError


class Reason(StrEnum):
    """What kept a file, or a group of planes, from becoming part of a volume."""

    # about the file
    EMPTY_FILE = "empty file"
    NOT_DICOM = "not DICOM"
    ARCHIVE = "archive"
    UNREADABLE = "unreadable file"
    DAMAGED = "damaged"
    TRUNCATED = "truncated"
    DIRECTORY_RECORD = "DICOMDIR"
    OVER_BUDGET = "over the memory budget"
    # about the object
    NOT_AN_IMAGE = "not an image"
    NOT_A_SCAN = "not a scan"
    SECONDARY_CAPTURE = "secondary capture"
    LOCALIZER = "localizer"
    COLOUR = "colour image"
    MISSING_ATTRIBUTE = "missing attribute"
    INVALID_ATTRIBUTE = "invalid attribute"
    BAD_SCALING = "bad scaling"
    LENGTH_MISMATCH = "pixel data length mismatch"
    NO_GEOMETRY = "no geometry"
    UNSUPPORTED_ENCODING = "unsupported encoding"
    UNDECODABLE = "pixels cannot be decoded"
    DECODER_STOPPED = "decoder stopped"
    # about a group of planes
    DUPLICATE = "duplicate"
    CONFLICTING_POSITIONS = "different images at one position"
    MIXED_ORIENTATION = "mixed orientations"
    MIXED_GRIDS = "mixed grids"
    UNEVEN_SLICES = "uneven slices"
    MISSING_SLICES = "missing slices"
    TILTED = "gantry tilt"
    SKEWED_PLANE = "image axes not perpendicular"
    INCOMPLETE_FRAME = "incomplete frame"
    SEVERAL_VOLUMES = "several volumes"
    NOTHING_FOUND = "nothing found"


def reference_of(path: str | Path) -> str:
    """A name for a file that says nothing about the patient: ``file-`` and eight hexadecimal digits."""
    digest = hashlib.blake2b(str(path).encode("utf-8", "surrogateescape"), digest_size=4).hexdigest()
    return f"file-{digest}"


@dataclass(frozen=True, slots=True)
class SetAside:
    """One file, or one plane of a multi-frame file, that is in no volume.

    Args:
        path: The file; may hold identifiers, not for printing.
        reason: The kind of trouble.
        text: What was expected and found, and what to do; holds no identifier.
        series_uid: Series it belongs to; empty if unknown.
        frame: Frame number inside the file, from 0; None for all of it.
    """

    path: str
    reason: Reason
    text: str
    series_uid: str = ""
    frame: int | None = None

    @property
    def reference(self) -> str:
        """A printable name of the file that holds no identifier."""
        return reference_of(self.path)

    def __str__(self) -> str:
        where = self.reference if self.frame is None else f"{self.reference} frame {self.frame}"
        return f"{where}: {self.reason.value}: {self.text}"


class SeriesRefused(DicomSeriesError):
    """A DICOM series that cannot become one volume, with the reason as a value.

    Args:
        reason: The kind of trouble.
        text: What was expected and found, and what to do.
        path: The file at fault, if one is.
        set_aside: Everything that was found and left out.
    """

    def __init__(
        self, reason: Reason, text: str, *, path: str | None = None, set_aside: tuple[SetAside, ...] = ()
    ) -> None:
        self.reason = reason
        self.text = text
        self.path = path
        self.set_aside = set_aside
        self.series_uid = ""
        where = f"{reference_of(path)}: " if path is not None else ""
        super().__init__(f"{where}{reason.value}: {text}")

    def __reduce__(self) -> tuple[object, ...]:
        # Exception's own way passes the message alone, and a process pool could not hand the error back.
        return _rebuild, (self.reason, self.text, self.path, self.set_aside)


def _rebuild(reason: Reason, text: str, path: str | None, set_aside: tuple[SetAside, ...]) -> SeriesRefused:
    return SeriesRefused(reason, text, path=path, set_aside=set_aside)
