"""From a file to its elements: where each lies, without reading the pixels.

Two ways give the same result. Most files of a heap are little endian with a plain list of elements before the
pixels; those are walked over in one buffer, values left where they are. Everything else (sequences of undefined
length that have to be parsed to find their end, big endian, deflated, out of order, without preamble, damaged) goes
through pydicom, which is three times slower a file and knows all of it.
"""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from pydicom.dataset import FileDataset
from pydicom.filereader import read_partial
from pydicom.tag import BaseTag

from medidiff.io.dicom import tags as t
from medidiff.io.dicom.quiet import quiet
from medidiff.io.dicom.reasons import Reason, SeriesRefused
from medidiff.io.dicom.values import Header
from medidiff.io.safety import GIB, human_bytes

# A header element beyond this is a document or a private blob; it is skipped, not read.
LONGEST_ELEMENT = 64 * 1024**2
# A deflated dataset is inflated whole, so a small file must not become more than this.
LONGEST_INFLATED = 1 * GIB
# Scanners write a few hundred elements at the top level.
MOST_ELEMENTS = 50_000
# Reads of pydicom in one header, about two an element: 10,000 frames with 100 elements each stay below.
MOST_READS = 4_000_000

DEFLATED = "1.2.840.10008.1.2.1.99"
IMPLICIT_LITTLE = "1.2.840.10008.1.2"
EXPLICIT_LITTLE = "1.2.840.10008.1.2.1"
EXPLICIT_BIG = "1.2.840.10008.1.2.2"
UNDEFINED = 0xFFFFFFFF

PIXEL_TAGS = frozenset({t.PIXEL_DATA, t.FLOAT_PIXEL_DATA, t.DOUBLE_FLOAT_PIXEL_DATA})
_LONG_VRS = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"})
_SHORT_VRS = frozenset(
    {b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FD", b"FL", b"IS", b"LO", b"LT", b"PN", b"SH", b"SL", b"SS"}
    | {b"ST", b"TM", b"UI", b"UL", b"US"}
)
_ARCHIVES = (b"PK\x03\x04", b"\x1f\x8b", b"7z\xbc\xaf", b"Rar!", b"BZh", b"\xfd7zXZ")
# Sequences whose items we look into: pydicom parses those.
_LOOKED_INTO = frozenset({t.SHARED_GROUPS, t.PER_FRAME_GROUPS, t.REAL_WORLD_MAPPING, t.DIRECTORY_RECORDS})
_UIH_GROUP = 0x0065
_ITEM, _ITEM_END, _SEQUENCE_END = b"\xfe\xff\x00\xe0", b"\xfe\xff\x0d\xe0", b"\xfe\xff\xdd\xe0"
_DEEPEST = 16
_FIRST_READ = 32 * 1024
_LONGEST_WALK = 16 * 1024**2


@dataclass(frozen=True, slots=True)
class Place:
    """Where the pixel element's value lies.

    Args:
        tag: Which of the three pixel elements.
        offset: Of the value, bytes from the start of the content.
        length: Of the value; ``UNDEFINED`` for encapsulated pixels.
    """

    tag: int
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Source:
    """A file's elements and what they say of its encoding.

    Args:
        header: The dataset.
        media_class: SOP class in the file meta information; empty if absent.
        syntax: Transfer syntax; what the bytes look like where none is stated.
        is_stated: The file states its transfer syntax.
        has_preamble: It begins as a DICOM file should.
        place: Of the pixels; None without any.
        content: Bytes of the file, once inflated.
        is_inflated: Offsets are those of the inflated content.
        breaks_off: The last element is shorter than it says.
    """

    header: Header
    media_class: str
    syntax: str
    is_stated: bool
    has_preamble: bool
    place: Place | None
    content: int
    is_inflated: bool = False
    breaks_off: bool = False


def open_source(path: str, size: int) -> Source:
    """Find a file's elements.

    Args:
        path: The file.
        size: Its bytes.
    Raises:
        SeriesRefused: not DICOM, an archive, damaged, or larger than sense allows.
    """
    with Path(path).open("rb", buffering=0) as unbuffered:
        quick = _walk(unbuffered, size)
    if quick is not None:
        return quick
    dataset, stream = open_dataset(path)
    with stream:
        place = _pixels_at(dataset, stream)
        content = stream.seek(0, os.SEEK_END)
    meta = Header(dataset.file_meta)
    stated = meta.text(t.TRANSFER_SYNTAX_UID)
    elements = list(dataset.values())
    return Source(
        header=Header(dataset),
        media_class=meta.text(t.MEDIA_SOP_CLASS_UID),
        syntax=EXPLICIT_LITTLE if stated == DEFLATED else stated or _look(dataset),
        is_stated=bool(stated),
        has_preamble=bool(dataset.preamble),
        place=place,
        content=content,
        is_inflated=isinstance(stream, io.BytesIO),
        breaks_off=bool(elements) and _is_short(elements[-1]),
    )


def open_dataset(path: str, *, pixels: bool = False) -> tuple[FileDataset, BinaryIO]:
    """Read a dataset with pydicom and hand back the open stream, which stands at the pixels unless ``pixels``.

    Raises:
        SeriesRefused: not DICOM, an archive, or a deflated dataset that is damaged or too large.
    """
    stream: BinaryIO = _Bounded(io.FileIO(path))
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


class _Bounded(io.BufferedReader):
    """A file that ends the reading when pydicom goes on for too long: sequences can nest millions of elements."""

    left = MOST_READS

    def read(self, size: int | None = -1, /) -> bytes:
        self.left -= 1
        if self.left < 0:
            raise SeriesRefused(Reason.DAMAGED, f"the header takes more than {MOST_READS} reads")
        return super().read(size)


class _Element:
    """A value where it lies in the buffer, in the shape of pydicom's raw elements."""

    __slots__ = ("VR", "is_little_endian", "value")

    def __init__(self, vr: str | None, value: bytes) -> None:
        self.VR = vr
        self.value = value
        self.is_little_endian = True


class _Elements(Mapping[int, _Element]):
    """Elements by tag, cut out of the buffer when asked for."""

    __slots__ = ("_buffer", "_places")

    def __init__(self, buffer: bytes, places: dict[int, tuple[bytes, int, int]]) -> None:
        self._buffer = buffer
        self._places = places

    def __getitem__(self, tag: int) -> _Element:
        vr, start, length = self._places[tag]
        return _Element(vr.decode("ascii") if vr else None, self._buffer[start : start + length])

    def __contains__(self, tag: object) -> bool:
        return tag in self._places

    def __iter__(self) -> Iterator[int]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


class _Walker:
    """Steps over elements in a buffer that grows as it is needed. ``None`` from any step means: leave it to pydicom."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.buffer = stream.read(_FIRST_READ)

    def reach(self, end: int) -> bool:
        """Whether the buffer holds bytes up to ``end``, after reading on if it must."""
        if len(self.buffer) < end <= _LONGEST_WALK:
            # Twice as much each time: a long header is copied a few times, not thousands.
            self.buffer += self._stream.read(max(end - len(self.buffer), len(self.buffer)))
        return end <= len(self.buffer)

    def meta(self) -> tuple[dict[int, bytes], int] | None:
        """Values of the file meta information, and where the dataset begins."""
        if self.buffer[128:132] != b"DICM":
            return None
        found: dict[int, bytes] = {}
        at = 132
        while self.buffer[at : at + 2] == b"\x02\x00" and self.reach(at + 12):
            step = self.explicit(at)
            if step is None:
                return None
            _, start, length = step
            if length > _FIRST_READ or not self.reach(start + length):
                return None
            found[0x00020000 | self.buffer[at + 2] | self.buffer[at + 3] << 8] = self.buffer[start : start + length]
            at = start + length
        return found, at

    def explicit(self, at: int) -> tuple[bytes, int, int] | None:
        """VR, start and length of the value of the element at ``at``."""
        buffer = self.buffer
        vr = buffer[at + 4 : at + 6]
        if vr in _SHORT_VRS:
            return vr, at + 8, buffer[at + 6] | buffer[at + 7] << 8
        if vr in _LONG_VRS:
            return vr, at + 12, _LENGTH.unpack_from(buffer, at + 8)[0]
        return None

    def implicit(self, at: int) -> tuple[bytes, int, int] | None:
        """As ``explicit``, with no VR in the file."""
        return b"", at + 8, _LENGTH.unpack_from(self.buffer, at + 4)[0]

    def past_sequence(self, at: int, step_over: _Step, depth: int = 0) -> int | None:
        """The end of a sequence of undefined length whose first item begins at ``at``."""
        for _ in range(MOST_ELEMENTS):
            if depth > _DEEPEST or not self.reach(at + 8):
                return None
            tag, length = self.buffer[at : at + 4], _LENGTH.unpack_from(self.buffer, at + 4)[0]
            at += 8
            if tag == _SEQUENCE_END:
                return at
            if tag != _ITEM:
                return None
            if length != UNDEFINED:
                at += length
                continue
            after = self._past_item(at, step_over, depth)
            if after is None:
                return None
            at = after
        return None

    def _past_item(self, at: int, step_over: _Step, depth: int) -> int | None:
        """The end of an item of undefined length whose first element begins at ``at``."""
        for _ in range(MOST_ELEMENTS):
            if not self.reach(at + 12):
                return None
            if self.buffer[at : at + 4] == _ITEM_END:
                return at + 8
            step = step_over(at)
            if step is None:
                return None
            vr, start, length = step
            after: int | None = start + length
            if length == UNDEFINED:
                after = self.past_sequence(start, step_over, depth + 1) if vr in (b"SQ", b"") else None
            if after is None:
                return None
            at = after
        return None


_Step = Callable[[int], tuple[bytes, int, int] | None]
_LENGTH = struct.Struct("<I")
_TAG = struct.Struct("<HH")


def _walk(stream: Any, size: int) -> Source | None:
    """Walk over a plain file's elements up to its pixels; None where pydicom should have a look."""
    walker = _Walker(stream)
    began = walker.meta()
    if began is None:
        return None
    meta, at = began
    syntax = meta.get(t.TRANSFER_SYNTAX_UID, b"").strip(b"\0 ").decode("ascii", "replace")
    if syntax in ("", DEFLATED, EXPLICIT_BIG) or not syntax.startswith("1.2.840.10008.1.2"):
        return None
    step_over = walker.implicit if syntax == IMPLICIT_LITTLE else walker.explicit
    places: dict[int, tuple[bytes, int, int]] = {}
    last, most = 0, MOST_ELEMENTS
    while len(places) < most and walker.reach(at + 12):
        group, element = _TAG.unpack_from(walker.buffer, at)
        tag = (group << 16) | element
        step = step_over(at)
        # Tags ascend in a sound file; a length that leads nowhere is seen when the next one does not.
        if step is None or tag <= last or tag in _LOOKED_INTO:
            return None
        _, start, length = step
        if tag in PIXEL_TAGS:
            header = Header.of_elements(_Elements(walker.buffer, places))
            media_class = meta.get(t.MEDIA_SOP_CLASS_UID, b"").strip(b"\0 ").decode("ascii", "replace")
            return Source(header, media_class, syntax, True, True, Place(tag, start, length), size)
        if length == UNDEFINED and step[0] == b"SQ" and group != _UIH_GROUP:
            end = walker.past_sequence(start, step_over)
            if end is None:
                return None
            places[tag] = (b"SQ", start, 0)
            last, at = tag, end
            continue
        if length > LONGEST_ELEMENT or (group == _UIH_GROUP and step[0] in (b"SQ", b"UN", b"")):
            return None
        if not walker.reach(start + length):
            return None
        places[tag] = step
        last, at = tag, start + length
    return None


def _pixels_at(dataset: FileDataset, stream: BinaryIO) -> Place | None:
    """Decode the element header at which pydicom stopped."""
    start = stream.tell()
    head = stream.read(12)
    implicit, little = dataset.original_encoding
    order = "<" if little or little is None else ">"
    if len(head) < 8:
        return None
    group, element = struct.unpack(f"{order}HH", head[:4])
    tag = (group << 16) | element
    if tag not in PIXEL_TAGS:
        return None
    if implicit:
        (length,) = struct.unpack(f"{order}I", head[4:8])
        return Place(tag, start + 8, length)
    if len(head) < 12:
        return None
    (length,) = struct.unpack(f"{order}I", head[8:12])
    return Place(tag, start + 12, length)


def _look(dataset: FileDataset) -> str:
    """The transfer syntax that the bytes look like."""
    implicit, little = dataset.original_encoding
    if little is False:
        return EXPLICIT_BIG
    return IMPLICIT_LITTLE if implicit else EXPLICIT_LITTLE


def _is_short(element: Any) -> bool:
    value, length = getattr(element, "value", None), getattr(element, "length", 0)
    return isinstance(value, bytes) and length != UNDEFINED and len(value) < length


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
        return not self._pixels and tag in PIXEL_TAGS


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
