"""The words by which a synthetic file is known, and how they are found again."""

from __future__ import annotations

import gzip
import zlib

HEADER_MARK = "SYNTHETIC"
SENTENCE = "Synthetic data: sampled from a generative model, not acquired from a person by a scanner."

_DESCRIP = slice(148, 228)
_NIFTI2_DESCRIP = slice(240, 320)
_HEADER_BYTES = 540


def nifti_description(code_version: str) -> str:
    """The text of a NIfTI header, at most 79 characters."""
    return f"{HEADER_MARK} image: sampled from a generative model, medidiff {code_version}"[:79]


def nifti_is_marked(content: bytes) -> bool:
    """Whether the header of a NIfTI file, packed or not, says that it is synthetic."""
    head = content[:_HEADER_BYTES]
    if content[:2] == b"\x1f\x8b":
        try:
            head = zlib.decompressobj(16 + zlib.MAX_WBITS).decompress(content, _HEADER_BYTES)
        except (zlib.error, gzip.BadGzipFile):
            return False
    text = head[_NIFTI2_DESCRIP if head[4:8] == b"n+2\0" else _DESCRIP]
    return text.startswith(HEADER_MARK.encode())
