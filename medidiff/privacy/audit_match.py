"""Secrets in all the forms in which they may be met, and a search for all of them at once.

A regular expression of a thousand alternatives tries each of them at each byte (1 to 2 MB/s). Here NumPy looks at all
positions together: two bytes, then four, then eight of a form's beginning; what is left, a handful, is compared whole
(150 to 250 MB/s).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.generic]
SHORTEST = 4
_ENCODINGS = ("utf-8", "latin-1", "utf-16-le", "utf-16-be", "utf-32-le")
# Old encodings of Chinese, Japanese and Korean, for strings that hold such characters.
_EAST_ASIAN = ("shift_jis", "euc_jp", "gb18030", "big5", "euc_kr")
_FIRST_IDEOGRAPHIC = 0x2E80
# Shorter ones, with their separators gone, turn up by chance.
_SHORTEST_FOLDED = 6
_BLOCK = 4 << 20
_NOT_ALPHANUMERIC = bytes(code for code in range(256) if not chr(code).isascii() or not chr(code).isalnum())


class Matcher:
    """Finds every one of many forms.

    Args:
        forms: Form to number; at least four bytes each.
    """

    def __init__(self, forms: Mapping[bytes, int]) -> None:
        self._forms = dict(forms)
        self.longest = max(map(len, self._forms), default=1)
        beginnings: dict[bytes, list[bytes]] = {}
        for form in self._forms:
            if len(form) < SHORTEST:
                raise ValueError(f"a form of {len(form)} bytes; at least {SHORTEST} are needed")
            beginnings.setdefault(form[:SHORTEST], []).append(form)
        self._by_beginning = beginnings
        self._first = np.zeros(1 << 16, dtype=bool)
        self._second = np.zeros(1 << 16, dtype=bool)
        for beginning in beginnings:
            self._first[int.from_bytes(beginning[:2], "little")] = True
            self._second[int.from_bytes(beginning[2:], "little")] = True
        self._fours = np.unique(_codes([form[:4] for form in self._forms], "<u4"))
        # UTF-16 of short values looks like small numbers: where all forms of a beginning are long, eight bytes decide.
        self._short = np.unique(_codes([form[:4] for form in self._forms if len(form) < 8], "<u4"))
        self._eights = np.unique(_codes([form[:8] for form in self._forms if len(form) >= 8], "<u8"))

    def numbers(self, data: bytes) -> set[int]:
        """Numbers of the forms that occur in ``data``."""
        found: set[int] = set()
        if not self._forms:
            return found
        for start in range(0, len(data), _BLOCK):
            found |= self._in_block(data[start : start + _BLOCK + self.longest])
        return found

    def _in_block(self, data: bytes) -> set[int]:
        if len(data) < SHORTEST:
            return set()
        padded = np.frombuffer(data + bytes(8), dtype=np.uint8)
        pairs = padded[:-1].astype(np.uint16) | (padded[1:].astype(np.uint16) << 8)
        count = len(data) - SHORTEST + 1
        at = np.flatnonzero(self._first[pairs[:count]] & self._second[pairs[2 : count + 2]])
        fours = pairs[at].astype(np.uint32) | (pairs[at + 2].astype(np.uint32) << 16)
        known = _among(fours, self._fours)
        at, fours = at[known], fours[known]
        if not at.size:
            return set()
        later = pairs[at + 4].astype(np.uint64) | (pairs[at + 6].astype(np.uint64) << np.uint64(16))
        eights = fours.astype(np.uint64) | (later << np.uint64(32))
        at = at[_among(fours, self._short) | _among(eights, self._eights)]
        found: set[int] = set()
        for place in at.tolist():
            for form in self._by_beginning[data[place : place + SHORTEST]]:
                if self._forms[form] not in found and data.startswith(form, place):
                    found.add(self._forms[form])
        return found


def _codes(beginnings: list[bytes], kind: str) -> Array:
    return np.frombuffer(b"".join(beginnings), dtype=kind)


def _among(values: Array, known: Array) -> NDArray[np.bool_]:
    """Whether each value is one of the known, which are sorted."""
    if not known.size:
        return np.zeros(values.shape, dtype=bool)
    places = np.minimum(np.searchsorted(known, values), known.size - 1)
    return np.asarray(known[places] == values)


class Secrets:
    """The given strings, ready to be searched for.

    Args:
        secrets: The strings; a finding names them by their place in this list.
    """

    def __init__(self, secrets: Sequence[str]) -> None:
        self.skipped = tuple(number for number, text in enumerate(secrets) if _size(text.strip()) < SHORTEST)
        forms: dict[bytes, int] = {}
        self.folded: dict[str, int] = {}
        for number, secret in enumerate(secrets):
            text = secret.strip()
            if _size(text) < SHORTEST:
                continue
            encodings = (*_ENCODINGS, *_EAST_ASIAN) if _size(text) > len(text) else _ENCODINGS
            for variant in _variants(text):
                for encoding in encodings:
                    with suppress(UnicodeEncodeError):
                        # in what is searched, bytes were made lower case: other letters may still be upper case there
                        for form in (variant.lower().encode(encoding), variant.encode(encoding).lower()):
                            if len(form) >= SHORTEST:
                                forms.setdefault(form, number)
                compact = fold(variant)
                if len(compact) >= SHORTEST:
                    self.folded.setdefault(compact, number)
        self._matcher = Matcher(forms)
        long = {text.encode(): number for text, number in self.folded.items() if len(text) >= _SHORTEST_FOLDED}
        self._folded_matcher = Matcher(long)
        self.longest = self._matcher.longest

    def in_bytes(self, data: bytes) -> set[int]:
        """Secrets that occur in bytes, in any encoding and case (of ASCII letters)."""
        return self._matcher.numbers(data.lower())

    def in_text(self, text: str) -> set[int]:
        """Secrets that occur in text when case, accents, blanks and separators are folded away."""
        found = self.in_bytes(text.encode("utf-8", "surrogateescape"))
        return found | self._folded_matcher.numbers(fold(text).encode("utf-8", "surrogateescape"))


def fold(text: str) -> str:
    """Letters and digits alone, lower case, without accents: ``Müller^Jörg`` and ``MULLER, Jorg`` are one."""
    if text.isascii():
        return text.encode().lower().translate(None, _NOT_ALPHANUMERIC).decode()
    plain = unicodedata.normalize("NFKD", text).casefold()
    return "".join(letter for letter in plain if letter.isalnum())


def _variants(text: str) -> set[str]:
    """A secret as written, with accents removed, and a person's name in both orders and with other separators."""
    plain = "".join(letter for letter in unicodedata.normalize("NFKD", text) if not unicodedata.combining(letter))
    found = {text, plain, unicodedata.normalize("NFD", text), unicodedata.normalize("NFC", text)}
    parts = [part for part in re.split(r"[\^, ]+", plain) if part]
    if 2 <= len(parts) <= 3 and "^" in text:
        for order in (parts, parts[::-1]):
            found |= {separator.join(order) for separator in ("^", " ", ", ", "_", "-", ",", ".")}
    return {variant for variant in found if _size(variant) >= SHORTEST}


def _size(text: str) -> int:
    """Letters, where a Chinese, Japanese or Korean one says as much as two: two of them are a family name."""
    return len(text) + sum(ord(letter) >= _FIRST_IDEOGRAPHIC for letter in text)
