"""The quick way over a plain little endian file: its elements up to the pixels, in one buffer, values left in place.

Whatever is not plain (sequences that we look into, other encodings, tags out of order, lengths that lead nowhere) is
left to pydicom, which takes three times as long and knows all of it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from medidiff.io.dicom import tags as t
from medidiff.io.dicom.values import Header

# A header element beyond this is a document or a private blob; it is skipped, not read.
LONGEST_ELEMENT = 64 * 1024**2
# Scanners write a few hundred elements at the top level.
MOST_ELEMENTS = 50_000

DEFLATED = "1.2.840.10008.1.2.1.99"
IMPLICIT_LITTLE = "1.2.840.10008.1.2"
EXPLICIT_LITTLE = "1.2.840.10008.1.2.1"
EXPLICIT_BIG = "1.2.840.10008.1.2.2"
UNDEFINED = 0xFFFFFFFF

PIXEL_TAGS = frozenset({t.PIXEL_DATA, t.FLOAT_PIXEL_DATA, t.DOUBLE_FLOAT_PIXEL_DATA})
LONG_VRS = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"})
_SHORT_VRS = frozenset(
    {b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FD", b"FL", b"IS", b"LO", b"LT", b"PN", b"SH", b"SL", b"SS"}
    | {b"ST", b"TM", b"UI", b"UL", b"US"}
)
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
class Walked:
    """A plain file's elements.

    Args:
        header: The dataset.
        media_class: SOP class in the file meta information; empty if absent.
        syntax: Transfer syntax.
        place: Of the pixels.
    """

    header: Header
    media_class: str
    syntax: str
    place: Place


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
        if vr in LONG_VRS:
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


def walk(stream: Any) -> Walked | None:
    """Walk over a plain file's elements up to its pixels.

    Args:
        stream: The file, open at its start, unbuffered.
    Returns:
        Its elements, or None where pydicom should have a look.
    """
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
            return Walked(header, media_class, syntax, Place(tag, start, length))
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
