"""What both ways in, DICOM series and volume files, hand to the store."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from medidiff.errors import InputError
from medidiff.export.bids import Kind
from medidiff.volume import Volume


class SetApart(InputError):
    """A source that does not become a volume, with a fixed word for why.

    Args:
        reason: One of ``medidiff.ingestion.lines``.
        text: What was expected and found; no identifier.
    """

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(f"{reason}: {text}")
        self.reason = reason
        self.text = text


@dataclass(frozen=True, slots=True)
class Gradients:
    """Diffusion weighting of each frame: s/mm2, and the direction as DICOM gives it (LPS)."""

    b_values: tuple[float | None, ...]
    directions: tuple[tuple[float, ...] | None, ...]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A clean volume on its way into the dataset.

    Args:
        id: Keyed hash of where it comes from.
        digest: Keyed hash of what it is made from, and of the policy.
        planes: How many planes it is made from.
        subject, session: Pseudonyms.
        volume: Text is blanked; a face may still be there.
        kind: Its place in BIDS.
        sidecar: Clean facts of the acquisition.
        slice_thickness: mm; None if unknown.
        frame_step: Time between frames, s.
        acquired: Shifted date and time.
        body_part: As stated, a defined term; empty if not.
        source: Format, and counts.
        deidentification: What was done.
        notes: For the manifest; no identifiers.
        gradients: For diffusion images.
    """

    id: str
    digest: str
    planes: int
    subject: str
    session: str
    volume: Volume
    kind: Kind
    sidecar: dict[str, Any]
    slice_thickness: float | None = None
    frame_step: float | None = None
    acquired: str = ""
    body_part: str = ""
    source: dict[str, int | str] = field(default_factory=dict)
    deidentification: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    gradients: Gradients | None = None
