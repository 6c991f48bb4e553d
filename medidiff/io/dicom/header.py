"""One DICOM file's header, read up to the pixels: an ``InstanceHeader``, or the reason why there is none."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path
from sys import intern

from medidiff.io.dicom import enhanced, marks, tiles
from medidiff.io.dicom import tags as t
from medidiff.io.dicom.model import NO_UID, InstanceHeader, Layout, PixelFormat, Plane
from medidiff.io.dicom.reasons import Reason, SeriesRefused, SetAside, reference_of
from medidiff.io.dicom.source import Source, open_source
from medidiff.io.dicom.values import Header, seconds_of
from medidiff.io.dicom.walk import EXPLICIT_BIG, EXPLICIT_LITTLE, IMPLICIT_LITTLE, UNDEFINED, Place
from medidiff.io.safety import human_bytes

# Bytes after the pixels that are mere padding. More of them may mean that Rows or Columns is wrong.
LONGEST_PADDING = 3
# The largest frame that a decoder may be asked for, whatever the header claims.
LARGEST_FRAME = 32768 * 32768

RLE = "1.2.840.10008.1.2.5"
# PackBits makes at most 128 bytes of two. An empty frame in JPEG 2000 may be a thousand times smaller, hardly more.
RLE_RATIO = 64
MOST_RATIO = 20_000
NATIVE = frozenset({IMPLICIT_LITTLE, EXPLICIT_LITTLE, EXPLICIT_BIG})

_DIRECTORY = "1.2.840.10008.1.3.10"
_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
_NOT_SCANS = {
    "1.2.840.10008.5.1.4.1.1.66.4": "a segmentation",
    "1.2.840.10008.5.1.4.1.1.66.7": "a label map segmentation",
    "1.2.840.10008.5.1.4.1.1.481.2": "a radiotherapy dose grid",
    "1.2.840.10008.5.1.4.1.1.4.2": "MR spectroscopy",
}
_MODALITY_OF = {
    f"1.2.840.10008.5.1.4.1.1.{part}": modality
    for modality, parts in {"CT": ("2", "2.1", "2.2"), "MR": ("4", "4.1", "4.4"), "PT": ("128", "128.1", "130")}.items()
    for part in parts
}
_COLOUR = ("RGB", "PALETTE COLOR", "YBR", "ARGB", "HSV", "CMYK")
_LOCALIZER_TYPES = frozenset({"LOCALIZER", "SCOUT", "SURVIEW", "TOPOGRAM"})
_LOCALIZER_NAME = re.compile(
    r"(?<![a-z])(locali[sz]er|(aa)?(h|head)?[ _]?scout|survey|surview|topogram|scanogram|(3|three|tri)[ _-]?plane|loc)"
    r"(?![a-z])",
    re.IGNORECASE,
)


def read_header(path: str | Path, budget: int, *, localizers: bool = False) -> InstanceHeader | SetAside:
    """Read one file's header.

    Args:
        path: The file.
        budget: Bytes that the object's pixels may take once decoded.
        localizers: Take scouts for scans.
    Returns:
        The header, or why the file is no part of a scan. Nothing is raised for a bad file.
    """
    name = str(path)
    try:
        return _read(name, budget, localizers)
    except SeriesRefused as refusal:
        return SetAside(name, refusal.reason, refusal.text, refusal.series_uid)
    except OSError as error:
        if error.errno in (None, errno.EINVAL):
            # pydicom seeks by the lengths that the file states; a system that cannot read has another number.
            return SetAside(name, Reason.DAMAGED, "the header states lengths that lead nowhere; export the file again")
        return SetAside(
            name, Reason.UNREADABLE, f"the system cannot read it ({error.strerror or type(error).__name__})"
        )
    except (MemoryError, RecursionError):
        return SetAside(name, Reason.DAMAGED, "the header is nested or sized beyond reason; export the file again")
    except Exception as error:  # noqa: BLE001 - a damaged header leaks about ten exception types from pydicom
        return SetAside(
            name, Reason.DAMAGED, f"the header cannot be parsed ({type(error).__name__}); export the file again"
        )


def _read(path: str, budget: int, localizers: bool) -> InstanceHeader:
    size = os.stat(path).st_size  # noqa: PTH116 - half the cost of Path.stat, 100,000 times
    if not size:  # before it is opened: what a system shows as an empty file (/proc/kmsg) may keep a reader waiting
        raise SeriesRefused(Reason.EMPTY_FILE, "the file holds nothing")
    source = open_source(path, size)
    try:
        return _describe(path, size, source, budget, localizers)
    except SeriesRefused as refusal:
        refusal.series_uid = source.header.text(t.SERIES_UID)
        raise


def _describe(path: str, size: int, source: Source, budget: int, localizers: bool) -> InstanceHeader:
    header, place, syntax = source.header, source.place, intern(source.syntax)
    _check_kind(source)
    if place is None:
        raise _no_pixels(source)
    image_type = tuple(intern(part.upper()) for part in header.texts(t.IMAGE_TYPE))
    protocol = header.text(t.SERIES_DESCRIPTION) or header.text(t.PROTOCOL_NAME)
    if not localizers and (_LOCALIZER_TYPES.intersection(image_type) or _LOCALIZER_NAME.search(protocol)):
        raise SeriesRefused(Reason.LOCALIZER, "a scout for planning, by its image type or its name")
    notes = _doubts(source)
    pixels = _pixel_format(header, place, syntax, notes)
    _check_size(pixels, place, source, budget)
    layout, planes, rows, columns = _planes(header, pixels, image_type, notes)
    native = syntax in NATIVE and not source.is_inflated and syntax != EXPLICIT_BIG and pixels.bits_allocated % 8 == 0
    return InstanceHeader(
        path=path,
        size=size,
        sop_class=intern(header.text(t.SOP_CLASS_UID)),
        sop_uid=header.text(t.SOP_INSTANCE_UID),
        series_uid=intern(header.text(t.SERIES_UID) or f"{NO_UID}{reference_of(Path(path).parent)}"),
        study_uid=intern(header.text(t.STUDY_UID)),
        frame_of_reference=intern(header.text(t.FRAME_OF_REFERENCE)),
        modality=_modality(header),
        layout=layout,
        series_number=header.integer(t.SERIES_NUMBER, "IS"),
        instance_number=header.integer(t.INSTANCE_NUMBER, "IS"),
        time=_time(header),
        rows=rows,
        columns=columns,
        pixels=pixels,
        offset=place.offset if native else -1,
        length=place.length,
        planes=planes,
        protocol=intern(protocol),
        notes=tuple(notes),
        patient=(_stored(header, t.PATIENT_ID), _stored(header, t.PATIENT_NAME), _stored(header, t.PATIENT_BIRTH_DATE)),
    )


def _stored(header: Header, tag: int) -> str:
    """A string byte for character: two names in another script must not become one by what ASCII lacks."""
    return intern((header.raw(tag) or b"").decode("latin-1").strip("\0 "))


def _modality(header: Header) -> str:
    """As stated, else by the SOP class."""
    return intern(header.text(t.MODALITY).upper() or _MODALITY_OF.get(header.text(t.SOP_CLASS_UID), ""))


def _doubts(source: Source) -> list[str]:
    """What the file leaves unsaid about its own encoding."""
    notes = []
    if not source.has_preamble:
        notes.append("the file has no DICOM preamble: read by the look of its first element")
    if not source.is_stated:
        notes.append("the file names no transfer syntax: read by the look of its first element, as uncompressed")
    return notes


def _check_kind(source: Source) -> None:
    """Set apart what is DICOM but not an image of a scan."""
    header = source.header
    sop_class = header.text(t.SOP_CLASS_UID) or source.media_class
    if sop_class == _DIRECTORY or t.DIRECTORY_RECORDS in header:
        raise SeriesRefused(Reason.DIRECTORY_RECORD, "a list of other files; the files themselves are read instead")
    looks_like_image = t.ROWS in header or sop_class in _MODALITY_OF
    if source.place is None and not looks_like_image:
        if not sop_class:
            raise SeriesRefused(Reason.NOT_DICOM, "the file names no SOP class and holds no image")
        raise SeriesRefused(Reason.NOT_AN_IMAGE, "a DICOM object without pixels (report, presentation state, raw data)")
    if sop_class in _NOT_SCANS:
        raise SeriesRefused(Reason.NOT_A_SCAN, f"{_NOT_SCANS[sop_class]}, not an acquired image")
    colour = header.text(t.PHOTOMETRIC).upper()
    if (header.integer(t.SAMPLES_PER_PIXEL) or 1) > 1 or colour.startswith(_COLOUR):
        raise SeriesRefused(Reason.COLOUR, "colours are not intensities; a scan has one sample a voxel")
    if sop_class == _SECONDARY_CAPTURE or sop_class.startswith(f"{_SECONDARY_CAPTURE}."):
        raise SeriesRefused(Reason.SECONDARY_CAPTURE, "a screen picture or a converted image, not an acquisition")


def _no_pixels(source: Source) -> SeriesRefused:
    if source.breaks_off:
        return SeriesRefused(Reason.TRUNCATED, "the file breaks off inside its header; copy or export it again")
    if t.ROWS not in source.header:
        text = "the header ends before it describes an image; copy or export it again"
        return SeriesRefused(Reason.TRUNCATED, text)
    text = "an image without PixelData; the file may be cut off, export it again"
    return SeriesRefused(Reason.MISSING_ATTRIBUTE, text)


def _need(header: Header, tag: int, keyword: str) -> int:
    value = header.integer(tag)
    if value is None:
        raise SeriesRefused(Reason.MISSING_ATTRIBUTE, f"{keyword} is absent or not a number")
    return value


def _pixel_format(header: Header, place: Place, syntax: str, notes: list[str]) -> PixelFormat:
    rows, columns = _need(header, t.ROWS, "Rows"), _need(header, t.COLUMNS, "Columns")
    frames = header.integer(t.NUMBER_OF_FRAMES, "IS")
    frames = 1 if frames is None else frames
    allocated = _need(header, t.BITS_ALLOCATED, "BitsAllocated")
    if min(rows, columns, frames) < 1:
        raise SeriesRefused(Reason.INVALID_ATTRIBUTE, f"an image of {rows} x {columns} x {frames} voxels")
    if rows * columns > LARGEST_FRAME:
        raise SeriesRefused(Reason.OVER_BUDGET, f"a frame of {rows} x {columns} voxels is beyond any scanner")
    float_type = {t.FLOAT_PIXEL_DATA: "f4", t.DOUBLE_FLOAT_PIXEL_DATA: "f8"}.get(place.tag, "")
    stored = header.integer(t.BITS_STORED)
    for tag, keyword, guess in (
        (t.BITS_STORED, "BitsStored", "all bits count"),
        (t.PIXEL_REPRESENTATION, "PixelRepresentation", "numbers have no sign"),
    ):
        if tag not in header and not float_type:
            notes.append(f"{keyword} is absent: read as if {guess}")
    stored = allocated if stored is None else stored
    high = header.integer(t.HIGH_BIT)
    high = stored - 1 if high is None else high
    if allocated not in (1, 8, 16, 32, 64) or not 1 <= stored <= allocated or not stored - 1 <= high < allocated:
        text = f"bits allocated {allocated}, stored {stored}, high bit {high} do not fit together"
        raise SeriesRefused(Reason.INVALID_ATTRIBUTE, text)
    # A Hounsfield unit or a PET activity is what it is, however it is to be displayed.
    physical = _modality(header) in ("CT", "PT")
    inverted = header.text(t.PHOTOMETRIC).upper() == "MONOCHROME1" and not physical
    if inverted:
        notes.append("MONOCHROME1: stored values were turned over, so that more signal is a larger number")
    return PixelFormat(
        rows=rows,
        columns=columns,
        frames=frames,
        bits_allocated=allocated,
        bits_stored=stored,
        high_bit=high,
        signed=header.integer(t.PIXEL_REPRESENTATION) == 1,
        inverted=inverted,
        float_type=float_type,
        transfer_syntax=syntax,
    )


def _check_size(pixels: PixelFormat, place: Place, source: Source, budget: int) -> None:
    """Compare what the header claims with the budget and with the bytes that are there, before anything is read."""
    needed, stored = pixels.rows * pixels.columns * pixels.frames * 4, source.content
    if needed > budget:
        text = f"the header claims {human_bytes(needed)} of voxels, the memory budget is {human_bytes(budget)}"
        raise SeriesRefused(Reason.OVER_BUDGET, text)
    if source.syntax not in NATIVE:
        if place.length != UNDEFINED:
            raise SeriesRefused(Reason.UNSUPPORTED_ENCODING, "compressed pixels that are not encapsulated")
        if place.offset + 16 > stored:
            raise SeriesRefused(Reason.TRUNCATED, "the compressed pixels break off; copy or export the file again")
        _check_ratio(pixels, stored - place.offset)
        return
    if place.length == UNDEFINED:
        raise SeriesRefused(Reason.UNSUPPORTED_ENCODING, "the transfer syntax says native, the pixels are encapsulated")
    expected = pixels.native_bytes
    if not expected <= place.length <= expected + LONGEST_PADDING:
        shape = f"{pixels.frames} frames of {pixels.rows} x {pixels.columns}"
        text = f"{shape} take {expected} bytes, the file declares {place.length}"
        raise SeriesRefused(Reason.LENGTH_MISMATCH, text)
    if place.offset + expected > stored:
        text = f"{expected} bytes of pixels declared, {max(stored - place.offset, 0)} present; copy or export it again"
        raise SeriesRefused(Reason.TRUNCATED, text)


def _check_ratio(pixels: PixelFormat, present: int) -> None:
    """Refuse a claim that no encoder can have fulfilled in the bytes that are there."""
    most = RLE_RATIO if pixels.transfer_syntax == RLE else MOST_RATIO
    if pixels.native_bytes > most * present:
        declared, there = human_bytes(pixels.native_bytes), human_bytes(present)
        text = f"{declared} of voxels declared in {there} of compressed data: wrong, or cut short"
        raise SeriesRefused(Reason.LENGTH_MISMATCH, text)


def _planes(
    header: Header, pixels: PixelFormat, image_type: tuple[str, ...], notes: list[str]
) -> tuple[Layout, tuple[Plane, ...], int, int]:
    """The object's planes, and the size of each."""
    if t.PER_FRAME_GROUPS in header or t.SHARED_GROUPS in header:
        return Layout.ENHANCED, enhanced.planes(header, pixels, image_type), pixels.rows, pixels.columns
    sheet = tiles.find(header, pixels, image_type, notes)
    if sheet is not None:
        return sheet.layout, sheet.planes, sheet.rows, sheet.columns
    if pixels.frames > 1:
        raise SeriesRefused(
            Reason.NO_GEOMETRY, f"{pixels.frames} frames without functional groups: no frame has a place"
        )
    if _modality(header) not in ("MR", "CT", "PT") and t.IMAGE_POSITION not in header:
        raise SeriesRefused(Reason.NO_GEOMETRY, "an image without a place in space")
    return Layout.CLASSIC, (classic_plane(header, image_type),), pixels.rows, pixels.columns


def classic_plane(header: Header, image_type: tuple[str, ...]) -> Plane:
    """The plane of a classic object.

    Raises:
        SeriesRefused: an attribute of the geometry is absent or not valid.
    """
    slope, intercept = marks.scaling(header)
    return Plane(
        index=0,
        position=marks.position(header),
        orientation=marks.orientation(header),
        spacing=marks.pixel_spacing(header),
        thickness=header.number(t.SLICE_THICKNESS),
        gap=header.number(t.SPACING_BETWEEN_SLICES),
        slope=slope,
        intercept=intercept,
        stack="",
        marks=marks.of_classic(header, image_type),
    )


def _time(header: Header) -> float | None:
    for tag in (t.ACQUISITION_TIME, t.ACQUISITION_DATETIME, t.CONTENT_TIME):
        seconds = seconds_of(header.text(tag))
        if seconds is not None:
            return seconds
    return None
