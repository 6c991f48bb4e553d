"""What is remembered of a DICOM object once its header is closed: small records, no dataset.

An object is a tuple of planes, whatever way it was stored: a classic file holds one, an enhanced one holds a frame
each, a Siemens mosaic or UIH grid a tile each. Everything after this file knows planes only.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

Vector = tuple[float, float, float]
Mark = tuple[str, float | str]


# Where a series has no UID its folder stands for it, by a printable reference.
NO_UID = "none-"


class Layout(StrEnum):
    """How an object holds its planes."""

    CLASSIC = "one slice a file"
    ENHANCED = "enhanced multi-frame"
    MOSAIC = "Siemens mosaic"
    GRID = "UIH grid"


@dataclass(frozen=True, slots=True)
class PixelFormat:
    """How stored numbers are laid out, shared by the files of a series.

    Args:
        rows, columns: Size of a stored frame; of the whole sheet for a mosaic or grid.
        frames: Frames in the object.
        bits_allocated, bits_stored, high_bit: As in PS3.5 section 8.
        signed: Two's complement.
        inverted: MONOCHROME1, and the values have no physical meaning that forbids turning them over.
        float_type: ``"f4"`` or ``"f8"`` for (Double) Float Pixel Data, else empty.
        transfer_syntax: UID.
    """

    rows: int
    columns: int
    frames: int
    bits_allocated: int
    bits_stored: int
    high_bit: int
    signed: bool
    inverted: bool
    float_type: str
    transfer_syntax: str

    @property
    def frame_bytes(self) -> int:
        """Bytes of one native frame; of all frames together for 1-bit data, whose frames may share a byte."""
        if self.bits_allocated == 1:
            return (self.rows * self.columns * self.frames + 7) // 8
        return self.rows * self.columns * self.bits_allocated // 8

    @property
    def native_bytes(self) -> int:
        return self.frame_bytes if self.bits_allocated == 1 else self.frame_bytes * self.frames


@dataclass(frozen=True, slots=True)
class Plane:
    """One slice. Positions and directions are DICOM's own (LPS); ``geometry.py`` turns them to RAS.

    Args:
        index: Frame or tile number inside the object, from 0.
        position: Centre of the first voxel, mm, LPS.
        orientation: Directions of a row and of a column, LPS, unit length.
        spacing: Distance between rows and between columns, mm.
        thickness: Nominal slice thickness, mm; None if not stated.
        gap: Declared distance between neighbouring slice centres, mm; None if not stated.
        slope, intercept: Stored number to physical value.
        stack: Stack of an enhanced object; empty if not stated.
        marks: What tells planes at one place apart: (name, value).
    """

    index: int
    position: Vector
    orientation: tuple[float, ...]
    spacing: tuple[float, float]
    thickness: float | None
    gap: float | None
    slope: float
    intercept: float
    stack: str
    marks: tuple[Mark, ...]


@dataclass(frozen=True, slots=True)
class InstanceHeader:
    """One DICOM object that holds planes of a scan.

    Args:
        path: The file; may hold identifiers.
        size: Bytes of the file.
        sop_class, sop_uid, series_uid, study_uid, frame_of_reference: UIDs.
        modality: As stored, e.g. ``"MR"``.
        layout: How the planes are held.
        series_number, instance_number: None if absent.
        time: Acquisition (else content) time, s of the day.
        rows, columns: Size of a plane.
        pixels: How the numbers are stored.
        offset, length: Where native pixel data lies in the file, bytes; offset -1 where a decoder is needed.
        planes: What it holds.
        protocol: Series description or protocol name; may hold identifiers.
        notes: What a careful reader should know; no identifiers.
        patient: ID, name and birth date as stored, byte for character (identifying: not for sharing).
    """

    path: str
    size: int
    sop_class: str
    sop_uid: str
    series_uid: str
    study_uid: str
    frame_of_reference: str
    modality: str
    layout: Layout
    series_number: int | None
    instance_number: int | None
    time: float | None
    rows: int
    columns: int
    pixels: PixelFormat
    offset: int
    length: int
    planes: tuple[Plane, ...]
    protocol: str
    notes: tuple[str, ...] = ()
    patient: tuple[str, str, str] = ("", "", "")
