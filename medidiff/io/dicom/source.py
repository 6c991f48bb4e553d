"""From a file to its elements, without the pixels: the quick way where it is plain, by pydicom elsewhere."""

from __future__ import annotations

import io
import os
import struct
import zlib
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
from medidiff.io.dicom.walk import (
    DEFLATED,
    EXPLICIT_BIG,
    EXPLICIT_LITTLE,
    IMPLICIT_LITTLE,
    LONG_VRS,
    LONGEST_ELEMENT,
    MOST_ELEMENTS,
    PIXEL_TAGS,
    UNDEFINED,
    Place,
    walk,
)
from medidiff.io.safety import GIB, human_bytes

# A deflated dataset is inflated whole, so a small file must not become more than this.
LONGEST_INFLATED = 1 * GIB
# Reads of pydicom in one header, about two an element: 10,000 frames with 100 elements each stay below.
MOST_READS = 4_000_000

_ARCHIVES = (b"PK\x03\x04", b"\x1f\x8b", b"7z\xbc\xaf", b"Rar!", b"BZh", b"\xfd7zXZ")


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
        quick = walk(unbuffered)
    if quick is not None:
        return Source(quick.header, quick.media_class, quick.syntax, True, True, quick.place, size)
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
        if head[4:6] in LONG_VRS:
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
        raise SeriesRefused(
            Reason.ARCHIVE, "an archive, or what is left of one, is not a DICOM file; unpack it, or fetch it again"
        )
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
