"""One DICOM file's header, read up to the pixels: an ``InstanceHeader``, or the reason why there is none."""

from __future__ import annotations

import errno
import io
import os
import re
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from sys import intern
from typing import BinaryIO

from pydicom.dataset import FileDataset
from pydicom.filereader import read_partial
from pydicom.tag import BaseTag

from medidiff.io.dicom import enhanced, marks, tiles
from medidiff.io.dicom import tags as t
from medidiff.io.dicom.model import InstanceHeader, Layout, PixelFormat, Plane
from medidiff.io.dicom.quiet import quiet
from medidiff.io.dicom.reasons import Reason, SeriesRefused, SetAside
from medidiff.io.dicom.values import Header, seconds_of
from medidiff.io.safety import GIB, human_bytes

# A header element beyond this is a document or a private blob; it is skipped, not read.
LONGEST_ELEMENT = 16 * 1024**2
# A deflated dataset is inflated whole, so a small file must not become more than this.
LONGEST_INFLATED = 1 * GIB
# Scanners write a few hundred elements at the top level.
MOST_ELEMENTS = 50_000
# Bytes after the pixels that are mere padding. More of them may mean that Rows or Columns is wrong.
LONGEST_PADDING = 3
# The largest frame that a decoder may be asked for, whatever the header claims.
LARGEST_FRAME = 32768 * 32768

DEFLATED = "1.2.840.10008.1.2.1.99"
IMPLICIT_LITTLE = "1.2.840.10008.1.2"
EXPLICIT_LITTLE = "1.2.840.10008.1.2.1"
EXPLICIT_BIG = "1.2.840.10008.1.2.2"
NATIVE = frozenset({IMPLICIT_LITTLE, EXPLICIT_LITTLE, EXPLICIT_BIG, DEFLATED})

_DIRECTORY = "1.2.840.10008.1.3.10"
_SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
_NOT_SCANS = {
    "1.2.840.10008.5.1.4.1.1.66.4": "a segmentation",
    "1.2.840.10008.5.1.4.1.1.66.7": "a label map segmentation",
    "1.2.840.10008.5.1.4.1.1.481.2": "a radiotherapy dose grid",
    "1.2.840.10008.5.1.4.1.1.4.2": "MR spectroscopy",
}
_SCAN_CLASSES = tuple(
    f"1.2.840.10008.5.1.4.1.1.{part}" for part in ("2", "2.1", "2.2", "4", "4.1", "4.4", "128", "128.1", "130")
)
_PIXEL_TAGS = frozenset({t.PIXEL_DATA, t.FLOAT_PIXEL_DATA, t.DOUBLE_FLOAT_PIXEL_DATA})
_LONG_VRS = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"})
_COLOUR = ("RGB", "PALETTE COLOR", "YBR", "ARGB", "HSV", "CMYK")
_ARCHIVES = (b"PK\x03\x04", b"\x1f\x8b", b"7z\xbc\xaf", b"Rar!", b"BZh", b"\xfd7zXZ")
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


def open_dataset(path: str, *, pixels: bool = False) -> tuple[FileDataset, BinaryIO]:
    """Read a dataset and hand back the open stream, which stands at the pixel element unless ``pixels``.

    Raises:
        SeriesRefused: not DICOM, an archive, or a deflated dataset that is damaged or too large.
    """
    stream: BinaryIO = Path(path).open("rb")  # noqa: SIM115 - handed to the caller
    try:
        _check_is_dicom(stream.read(256))
        if _is_deflated(stream):
            stream.seek(0)
            content = _inflate(stream.read())
            stream.close()
            stream = io.BytesIO(content)
        stream.seek(0)
        with quiet():
            dataset = read_partial(
                stream, _Stop(pixels=pixels), defer_size=None if pixels else LONGEST_ELEMENT, force=True
            )
        return dataset, stream
    except BaseException:
        stream.close()
        raise


class _Stop:
    """Tells pydicom where to stop: at the pixels, or where so many elements came that it is no header any more."""

    __slots__ = ("_left", "_pixels")

    def __init__(self, *, pixels: bool) -> None:
        self._left = MOST_ELEMENTS
        self._pixels = pixels

    def __call__(self, tag: BaseTag, vr: str | None, length: int) -> bool:
        del vr, length
        self._left -= 1
        if self._left < 0:
            # Zeros without end are read as empty elements: hours for a large file.
            raise SeriesRefused(Reason.DAMAGED, f"the header has more than {MOST_ELEMENTS} elements")
        return not self._pixels and tag in _PIXEL_TAGS


def _is_deflated(stream: BinaryIO) -> bool:
    """Look for the deflated transfer syntax in the file meta information, before pydicom inflates without a limit."""
    stream.seek(0)
    at = 132 if stream.read(132)[128:] == b"DICM" else 0
    for _ in range(MOST_ELEMENTS):
        stream.seek(at)
        head = stream.read(12)
        if head[:2] == b"\0\0":
            # pydicom reads elements of group 0 (network commands) without a limit; no file has any.
            raise SeriesRefused(Reason.DAMAGED, "zeros where the dataset should begin; copy or export the file again")
        if len(head) < 12 or head[:2] != b"\x02\x00":
            return False
        if head[4:6] in _LONG_VRS:
            start, (length,) = at + 12, struct.unpack("<I", head[8:12])
        else:
            start, (length,) = at + 8, struct.unpack("<H", head[6:8])
        if head[2:4] == b"\x10\x00":
            stream.seek(start)
            if stream.read(min(length, 64)).strip(b"\0 ") == DEFLATED.encode():
                return True
        at = start + length
    return False


def _check_is_dicom(head: bytes) -> None:
    if not head:
        raise SeriesRefused(Reason.EMPTY_FILE, "the file holds nothing")
    if head[128:132] == b"DICM":
        return
    if head.startswith(_ARCHIVES):
        raise SeriesRefused(Reason.ARCHIVE, "an archive is not looked into here; unpack it, or give it to ingest")
    # Without a preamble the file has to begin with an element of group 2 or 8 and a believable length.
    if len(head) >= 16:
        group, element = struct.unpack("<HH", head[:4])
        (length,) = struct.unpack("<I", head[4:8])
        if group in (2, 8) and element < 0x200 and ((head[4:6].isalpha() and head[4:6].isupper()) or length < 512):
            return
    raise SeriesRefused(Reason.NOT_DICOM, "the file has no DICOM preamble and does not begin with a DICOM element")


def _inflate(content: bytes) -> bytes:
    """A deflated dataset as an explicit little endian one, the file meta information kept with its UID changed."""
    if content[128:132] != b"DICM":
        raise SeriesRefused(Reason.DAMAGED, "a deflated dataset without a preamble")
    (length,) = struct.unpack_from("<I", content, 140)
    start = 144 + length
    if content[132:138] != b"\x02\x00\x00\x00UL" or start > len(content):
        raise SeriesRefused(Reason.DAMAGED, "the file meta information of a deflated dataset is damaged")
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        body = inflater.decompress(content[start:], LONGEST_INFLATED)
    except zlib.error as error:
        raise SeriesRefused(Reason.DAMAGED, "the deflated dataset cannot be inflated") from error
    if inflater.unconsumed_tail:
        raise SeriesRefused(Reason.OVER_BUDGET, f"the deflated dataset is larger than {human_bytes(LONGEST_INFLATED)}")
    if not inflater.eof:
        raise SeriesRefused(Reason.TRUNCATED, "the deflated dataset breaks off")
    # Same length, so that the group length stays right; a UID may end in a null byte only once, but pydicom strips all.
    meta = content[:start].replace(DEFLATED.encode(), EXPLICIT_LITTLE.encode().ljust(len(DEFLATED), b"\0"))
    return meta + body


def _read(path: str, budget: int, localizers: bool) -> InstanceHeader:
    size = os.stat(path).st_size  # noqa: PTH116 - half the cost of Path.stat, 100,000 times
    dataset, stream = open_dataset(path)
    with stream:
        header = Header(dataset)
        place = _find_pixels(dataset, stream)
        stored = stream.seek(0, os.SEEK_END)
        deflated = isinstance(stream, io.BytesIO)
    try:
        return _describe(path, header, dataset, place, _Sizes(size, stored, budget, deflated), localizers)
    except SeriesRefused as refusal:
        refusal.series_uid = header.text(t.SERIES_UID)
        raise


@dataclass(frozen=True, slots=True)
class _Sizes:
    """Bytes: of the file, of its content once inflated, and of what its voxels may take."""

    file: int
    content: int
    budget: int
    deflated: bool


def _describe(
    path: str, header: Header, dataset: FileDataset, place: _Place | None, sizes: _Sizes, localizers: bool
) -> InstanceHeader:
    syntax = _transfer_syntax(dataset)
    _check_kind(header, dataset, has_pixels=place is not None)
    if place is None:
        raise SeriesRefused(Reason.MISSING_ATTRIBUTE, _no_pixels(header, dataset))
    image_type = tuple(intern(part.upper()) for part in header.texts(t.IMAGE_TYPE))
    protocol = header.text(t.SERIES_DESCRIPTION) or header.text(t.PROTOCOL_NAME)
    if not localizers and (_LOCALIZER_TYPES.intersection(image_type) or _LOCALIZER_NAME.search(protocol)):
        raise SeriesRefused(Reason.LOCALIZER, "a scout for planning, by its image type or its name")
    notes = _doubts(dataset)
    pixels = _pixel_format(header, place, syntax, notes)
    _check_size(pixels, place, sizes, syntax)
    layout, planes, rows, columns = _planes(header, pixels, image_type, notes)
    native = syntax in NATIVE and not sizes.deflated and syntax != EXPLICIT_BIG and pixels.bits_allocated % 8 == 0
    return InstanceHeader(
        path=path,
        size=sizes.file,
        sop_class=intern(header.text(t.SOP_CLASS_UID)),
        sop_uid=header.text(t.SOP_INSTANCE_UID),
        series_uid=intern(header.text(t.SERIES_UID) or f"none:{Path(path).parent}:{header.text(t.SERIES_NUMBER)}"),
        study_uid=intern(header.text(t.STUDY_UID)),
        frame_of_reference=intern(header.text(t.FRAME_OF_REFERENCE)),
        modality=intern(header.text(t.MODALITY).upper()),
        layout=layout,
        series_number=header.integer(t.SERIES_NUMBER, "IS"),
        instance_number=header.integer(t.INSTANCE_NUMBER, "IS"),
        acquisition_number=header.integer(t.ACQUISITION_NUMBER, "IS"),
        time=_time(header),
        rows=rows,
        columns=columns,
        pixels=pixels,
        offset=place.offset if native else -1,
        length=place.length,
        planes=planes,
        protocol=intern(protocol),
        notes=tuple(notes),
    )


class _Place:
    """Where the pixel element lies: its tag, and the offset and length of its value."""

    __slots__ = ("length", "offset", "tag")

    def __init__(self, tag: int, offset: int, length: int) -> None:
        self.tag = tag
        self.offset = offset
        self.length = length


UNDEFINED = 0xFFFFFFFF


def _find_pixels(dataset: FileDataset, stream: BinaryIO) -> _Place | None:
    """Decode the element header at which pydicom stopped."""
    start = stream.tell()
    head = stream.read(12)
    implicit, little = dataset.original_encoding
    order = "<" if little or little is None else ">"
    if len(head) < 8:
        return None
    group, element = struct.unpack(f"{order}HH", head[:4])
    tag = (group << 16) | element
    if tag not in _PIXEL_TAGS:
        return None
    if implicit:
        (length,) = struct.unpack(f"{order}I", head[4:8])
        return _Place(tag, start + 8, length)
    if len(head) < 12:
        return None
    (length,) = struct.unpack(f"{order}I", head[8:12])
    return _Place(tag, start + 12, length)


def _transfer_syntax(dataset: FileDataset) -> str:
    """The transfer syntax; where the file meta information names none, what the bytes look like."""
    declared = Header(dataset.file_meta).text(t.TRANSFER_SYNTAX_UID)
    if declared:
        return intern(EXPLICIT_LITTLE if declared == DEFLATED else declared)
    implicit, little = dataset.original_encoding
    if little is False:
        return EXPLICIT_BIG
    return IMPLICIT_LITTLE if implicit else EXPLICIT_LITTLE


def _doubts(dataset: FileDataset) -> list[str]:
    """What the file leaves unsaid about its own encoding."""
    notes = []
    if not dataset.preamble:
        notes.append("the file has no DICOM preamble: read by the look of its first element")
    if not Header(dataset.file_meta).text(t.TRANSFER_SYNTAX_UID):
        notes.append("the file names no transfer syntax: read by the look of its first element, as uncompressed")
    return notes


def _check_kind(header: Header, dataset: FileDataset, *, has_pixels: bool) -> None:
    """Set apart what is DICOM but not an image of a scan."""
    sop_class = header.text(t.SOP_CLASS_UID) or Header(dataset.file_meta).text(t.MEDIA_SOP_CLASS_UID)
    if sop_class == _DIRECTORY or t.DIRECTORY_RECORDS in header:
        raise SeriesRefused(Reason.DIRECTORY_RECORD, "a list of other files; the files themselves are read instead")
    looks_like_image = t.ROWS in header or sop_class in _SCAN_CLASSES
    if not has_pixels and not looks_like_image:
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


def _no_pixels(header: Header, dataset: FileDataset) -> str:
    elements = list(dataset.values())
    last = elements[-1] if elements else None
    value, length = getattr(last, "value", None), getattr(last, "length", 0)
    if isinstance(value, bytes) and length != UNDEFINED and len(value) < length:
        raise SeriesRefused(Reason.TRUNCATED, "the file breaks off inside its header; copy or export it again")
    if t.ROWS not in header:
        raise SeriesRefused(Reason.TRUNCATED, "the header ends before it describes an image; copy or export it again")
    return "an image without PixelData; the file may be cut off, export it again"


def _need(header: Header, tag: int, keyword: str) -> int:
    value = header.integer(tag)
    if value is None:
        raise SeriesRefused(Reason.MISSING_ATTRIBUTE, f"{keyword} is absent or not a number")
    return value


def _pixel_format(header: Header, place: _Place, syntax: str, notes: list[str]) -> PixelFormat:
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
    stored = allocated if stored is None else stored
    high = header.integer(t.HIGH_BIT)
    high = stored - 1 if high is None else high
    if allocated not in (1, 8, 16, 32, 64) or not 1 <= stored <= allocated or not stored - 1 <= high < allocated:
        text = f"bits allocated {allocated}, stored {stored}, high bit {high} do not fit together"
        raise SeriesRefused(Reason.INVALID_ATTRIBUTE, text)
    # A Hounsfield unit or a PET activity is what it is, however it is to be displayed.
    physical = header.text(t.MODALITY).upper() in ("CT", "PT")
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
        big_endian=syntax == EXPLICIT_BIG,
    )


def _check_size(pixels: PixelFormat, place: _Place, sizes: _Sizes, syntax: str) -> None:
    """Compare what the header claims with the budget and with the bytes that are there, before anything is read."""
    needed, stored = pixels.rows * pixels.columns * pixels.frames * 4, sizes.content
    if needed > sizes.budget:
        text = f"the header claims {human_bytes(needed)} of voxels, the memory budget is {human_bytes(sizes.budget)}"
        raise SeriesRefused(Reason.OVER_BUDGET, text)
    if syntax not in NATIVE:
        if place.length != UNDEFINED:
            raise SeriesRefused(Reason.UNSUPPORTED_ENCODING, "compressed pixels that are not encapsulated")
        if place.offset + 16 > stored:
            raise SeriesRefused(Reason.TRUNCATED, "the compressed pixels break off; copy or export the file again")
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
    if header.text(t.MODALITY).upper() not in ("MR", "CT", "PT") and t.IMAGE_POSITION not in header:
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
