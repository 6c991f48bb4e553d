"""One value at a time: is it what its VR and its attribute say it is?

Every value of a clean dataset is made anew from a checked value; no byte is handed through unread.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Iterable
from functools import cache
from itertools import pairwise
from typing import Any

from pydicom.datadict import DicomDictionary, RepeatersDictionary
from pydicom.uid import UID_dictionary
from pydicom.valuerep import PersonName, format_number_as_ds

NUMERIC_VRS = frozenset({"US", "SS", "UL", "SL", "UV", "SV", "FL", "FD", "DS", "IS", "AT"})

_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")
_PACK = {"US": "H", "SS": "h", "UL": "I", "SL": "i", "UV": "Q", "SV": "q", "FL": "f", "FD": "d"}

# A whole number with more digits than this is a date, a telephone number or an identifier, not physics. Injected
# activity in becquerel is the exception.
_MAX_DIGITS = 6
_LARGE_NUMBERS = frozenset({"RadionuclideTotalDose"})
_MAX_FLOAT, _MIN_FLOAT = 1e7, 1e-100


def numbers(value: Any, vr: str, keyword: str = "") -> list[Any] | None:
    """The values of a numeric attribute, checked, ready to be stored again; None if any is not plausible.

    Decimal strings keep their text, so that geometry stays exact to the last digit.

    Args:
        value: What pydicom gives for the element: one value, several, or nothing.
        vr: One of ``NUMERIC_VRS``.
        keyword: The attribute's keyword, for its limits.
    """
    items = as_list(value)
    checked = [_string_number(item, vr, keyword) if vr in ("DS", "IS") else _binary_number(item, vr) for item in items]
    if any(item is None for item in checked) or _spells_text(checked, vr):
        return None
    return checked


def as_list(value: Any) -> list[Any]:
    """One value or several as a list; nothing as an empty one."""
    if value is None or (isinstance(value, (str, bytes)) and not value):
        return []
    if isinstance(value, (str, bytes, PersonName)) or not isinstance(value, Iterable):  # a PersonName iterates letters
        return [value]
    return list(value)


def fits_multiplicity(count: int, multiplicity: str) -> bool:
    """Whether so many values are allowed; fewer than said are let pass, as real headers have them."""
    last = multiplicity.rsplit("-", maxsplit=1)[-1].split(" ", maxsplit=1)[0]
    return not last.isdigit() or count <= int(last)


@cache
def dictionary_entry(tag: int) -> tuple[frozenset[str], str, str] | None:
    """The VRs, multiplicity and keyword of a public attribute; None for an unknown or repeating one."""
    entry = DicomDictionary.get(tag)
    if entry is None or not entry[4]:
        return None
    return frozenset(entry[0].split(" or ")), entry[1], entry[4]


def is_registered_uid(uid: str) -> bool:
    """Whether DICOM itself gave this UID out (SOP classes, transfer syntaxes); such a UID names no one."""
    return uid in UID_dictionary


def is_repeating(tag: int) -> bool:
    """Curves (50xx) and overlays (60xx) in all their groups, known or not."""
    return tag >> 24 in (0x50, 0x60, 0x70) or f"{tag:08X}" in RepeatersDictionary


def looks_like_text(data: bytes) -> bool:
    """Whether bytes that should be numbers spell words; the smooth ramps of lookup tables do not count as words."""
    for run in re.finditer(rb"(?:[A-Za-z][\0 ^,.'_-]{0,2}){6,}", data):
        letters = [byte for byte in run.group() if chr(byte).isalpha()]
        steps = sorted(abs(one - other) for one, other in pairwise(letters))
        if steps[len(steps) // 2] > 2:
            return True
    return False


def _string_number(item: Any, vr: str, keyword: str) -> str | None:
    text = str(getattr(item, "original_string", None) or item).strip(" \0")
    if not text:
        return ""
    if not _NUMBER.fullmatch(text) or (vr == "IS" and not re.fullmatch(r"[+-]?\d{1,11}|[+-]?\d{1,9}\.0*", text)):
        return None
    whole = text.lstrip("+-0").partition(".")[0].partition("e")[0].partition("E")[0]
    if not math.isfinite(float(text)):
        return None
    if len(whole.rstrip("0")) > _MAX_DIGITS:
        # rounded: the last digits of an activity mean nothing, those of an identifier do
        return f"{float(text):.4e}" if keyword in _LARGE_NUMBERS else None
    if vr == "IS":
        return str(int(float(text)))
    return text if len(text) <= 16 else str(format_number_as_ds(float(text)))


def _binary_number(item: Any, vr: str) -> Any:
    try:
        if vr == "AT":
            return int(item) if int(item) in DicomDictionary else None
        if vr in ("FL", "FD"):
            number = float(item)
            fine = not math.isfinite(number) or number == 0 or _MIN_FLOAT < abs(number) < _MAX_FLOAT
            return number if fine else None
        return int(item) if abs(int(item)) < 10**_MAX_DIGITS * 10 else None
    except (TypeError, ValueError, OverflowError):
        return None


def _spells_text(items: list[Any], vr: str) -> bool:
    if vr not in _PACK or len(items) < 2:
        return False
    try:
        packed = struct.pack(f"<{len(items)}{_PACK[vr]}", *items)
    except struct.error:
        return True
    letters = sum(chr(byte).isascii() and chr(byte).isalpha() for byte in packed)
    return len(packed) >= 8 and letters > 0.7 * len(packed)
