"""The words by which a synthetic file is known, and how they are found again."""

from __future__ import annotations

import gzip
import zlib

HEADER_MARK = "SYNTHETIC"
SENTENCE = "Synthetic data: sampled from a generative model, not acquired from a person by a scanner."

# A scan of a person of which a part was drawn. It is neither a real scan nor, what matters more, free of the person:
# its mark is another, so that a release of synthetic data refuses it.
EDIT_MARK = "EDITED"
EDIT_SENTENCE = (
    "Edited scan: a part of it was sampled from a generative model and was never seen by a scanner; the rest is a real "
    "scan, and as personal as that."
)

_DESCRIP = slice(148, 228)
_NIFTI2_DESCRIP = slice(240, 320)
_HEADER_BYTES = 540


def nifti_description(code_version: str) -> str:
    """The text of a NIfTI header, at most 79 characters."""
    return f"{HEADER_MARK} image: sampled from a generative model, medidiff {code_version}"[:79]


def edited_description(code_version: str) -> str:
    """The text in the header of a scan of which a part was drawn, at most 79 characters."""
    return f"{EDIT_MARK} scan: part sampled from a generative model, medidiff {code_version}"[:79]


def nifti_is_marked(content: bytes) -> bool:
    """Whether the header of a NIfTI file, packed or not, says that it is synthetic."""
    return _description(content).startswith(HEADER_MARK.encode())


def nifti_is_edited(content: bytes) -> bool:
    """Whether the header of a NIfTI file, packed or not, says that a part of the scan was drawn."""
    return _description(content).startswith(EDIT_MARK.encode())


def _description(content: bytes) -> bytes:
    """The text of a header; empty where there is none."""
    head = content[:_HEADER_BYTES]
    if content[:2] == b"\x1f\x8b":
        try:
            head = zlib.decompressobj(16 + zlib.MAX_WBITS).decompress(content, _HEADER_BYTES)
        except (zlib.error, gzip.BadGzipFile):
            return b""
    return head[_NIFTI2_DESCRIP if head[4:8] == b"n+2\0" else _DESCRIP]
