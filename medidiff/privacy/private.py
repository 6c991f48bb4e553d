"""Private attributes that are known to be safe, found by their creator, and kept as checked numbers only.

The list follows the idea of PS3.15 table E.3.10-1: per creator, the offsets within its block that hold physics. A
block may lie at any place of its group, so nothing here relies on absolute numbers. Text never stays.
"""

from __future__ import annotations

import io
import struct
from typing import Any

from pydicom.dataset import Dataset

from medidiff.privacy.values import as_list, fits_multiplicity, numbers

# creator (upper case) -> offset in the block -> VR, largest number of values
_SAFE: dict[tuple[int, str], dict[int, tuple[str, str]]] = {
    # number of tiles, slice duration, b-value, direction, b-matrix, bandwidth per pixel (phase), slice times
    (0x0019, "SIEMENS MR HEADER"): {
        0x0A: ("US", "1"), 0x0B: ("DS", "1"), 0x0C: ("IS", "1"), 0x0E: ("FD", "3"), 0x27: ("FD", "6"),
        0x28: ("FD", "1"), 0x29: ("FD", "1-n"),
    },
    # per-image scale slope and intercept
    (0x2005, "PHILIPS MR IMAGING DD 001"): {0x0D: ("FL", "1"), 0x0E: ("FL", "1")},
    (0x2001, "PHILIPS IMAGING DD 001"): {
        0x03: ("FL", "1"), 0x08: ("IS", "1"), 0x0A: ("IS", "1"), 0x14: ("SL", "1"), 0x18: ("SL", "1"),
        0x81: ("IS", "1"),
    },
    (0x7053, "PHILIPS PET PRIVATE GROUP"): {0x00: ("DS", "1"), 0x09: ("DS", "1")},
    # diffusion direction, b-value and its offset, slices per volume
    (0x0019, "GEMS_ACQU_01"): {0xBB: ("DS", "1"), 0xBC: ("DS", "1"), 0xBD: ("DS", "1")},
    (0x0043, "GEMS_PARM_01"): {0x39: ("IS", "4"), 0x2C: ("SS", "1")},
    (0x0021, "GEMS_RELA_01"): {0x4F: ("SS", "1")},
    (0x0065, "IMAGE PRIVATE HEADER"): {0x09: ("FD", "1"), 0x37: ("FD", "3"), 0x50: ("DS", "1")},
}  # fmt: skip

# GE adds 1e9 to b-values of multi-shell scans; the rest of the number is the b-value.
_GE_B_VALUE = (0x0043, "GEMS_PARM_01", 0x39)

_CSA_CREATOR = "SIEMENS CSA HEADER"

# Creators that the clean object may name; they are no identifiers.
KNOWN_CREATORS = frozenset({creator for _, creator in _SAFE} | {_CSA_CREATOR})
# CSA entries that say where a mosaic's slices lie and when they were taken; the text protocol is never among them.
_CSA_SAFE = {
    "NumberOfImagesInMosaic": 1, "SliceNormalVector": 3, "MosaicRefAcqTimes": 4096, "ProtocolSliceNumber": 1,
    "BandwidthPerPixelPhaseEncode": 1, "PhaseEncodingDirectionPositive": 1, "SliceMeasurementDuration": 1,
    "B_value": 1, "DiffusionGradientDirection": 3, "B_matrix": 6, "ImagePositionPatient": 3,
    "ImageOrientationPatient": 6, "PixelSpacing": 2, "SliceThickness": 1, "Rows": 1, "Columns": 1,
}  # fmt: skip
_CSA_VRS = {"US", "SS", "UL", "SL", "FL", "FD", "DS", "IS"}
_MAX_CSA = 16 << 20
_UNPACK = {"US": "H", "SS": "h", "UL": "I", "SL": "i", "FL": "f", "FD": "d"}


def keep_safe_private(source: Dataset, clean: Dataset) -> int:
    """Copy the safe private numbers of one dataset (not of its sequences) into the clean one.

    Returns:
        How many attributes were kept.
    """
    kept = 0
    for group, block, creator in _blocks(source):
        for offset, (vr, most) in _SAFE.get((group, creator), {}).items():
            tag = (group << 16) | (block << 8) | offset
            value = _checked(source, group, creator, tag, vr, most)
            if value is not None:
                clean.private_block(group, _spelled(creator), create=True).add_new(offset, vr, value)
                kept += 1
        if group == 0x0029 and creator == _CSA_CREATOR:
            header = _clean_csa(source, (group << 16) | (block << 8) | 0x10)
            if header is not None:
                clean.private_block(group, _CSA_CREATOR, create=True).add_new(0x10, "OB", header)
                kept += 1
    return kept


def _blocks(source: Dataset) -> list[tuple[int, int, str]]:
    """Group, block number and creator (upper case) of every private block."""
    found = []
    for tag in list(source.keys()):
        if tag.group & 1 and 0x10 <= tag.element <= 0xFF:
            try:
                creator = source[tag].value
            except Exception:  # noqa: BLE001, S112 - pydicom decodes on access and fails in many ways; then nothing is kept
                continue
            if isinstance(creator, bytes):
                creator = creator.decode("ascii", "replace")
            if isinstance(creator, str):
                found.append((int(tag.group), int(tag.element), creator.strip(" \0").upper()))
    return found


def _spelled(creator: str) -> str:
    """The creator as its vendor writes it; dcm2niix and others compare case."""
    return {
        "PHILIPS MR IMAGING DD 001": "Philips MR Imaging DD 001",
        "PHILIPS IMAGING DD 001": "Philips Imaging DD 001",
        "PHILIPS PET PRIVATE GROUP": "Philips PET Private Group",
        "IMAGE PRIVATE HEADER": "Image Private Header",
    }.get(creator, creator)


def _checked(source: Dataset, group: int, creator: str, tag: int, vr: str, most: str) -> list[Any] | None:
    if tag not in source:
        return None
    try:
        value = source[tag].value
    except Exception:  # noqa: BLE001 - as above
        return None
    if isinstance(value, bytes):
        value = _decoded(value, vr)
    if (group, creator, tag & 0xFF) == _GE_B_VALUE:
        value = [int(item) % 100_000 for item in as_list(value) if str(item).strip().isdigit()]
    checked = numbers(value, vr)
    return checked if checked and fits_multiplicity(len(checked), most) else None


def _decoded(data: bytes, vr: str) -> Any:
    """Numbers of an element that came as UN, little-endian as UN always is."""
    if vr in ("DS", "IS"):
        return data.decode("ascii", "replace").strip(" \0").split("\\")
    size = struct.calcsize(_UNPACK[vr])
    return list(struct.unpack(f"<{len(data) // size}{_UNPACK[vr]}", data[: len(data) // size * size]))


def _clean_csa(source: Dataset, tag: int) -> bytes | None:
    """A CSA2 image header with the safe numbers alone, written anew; None if there are none."""
    from nibabel.nicom import csareader

    try:
        raw = bytes(source[tag].value)
        if len(raw) > _MAX_CSA:
            return None
        entries = csareader.read(raw)["tags"]
    except Exception:  # noqa: BLE001 - nibabel's reader fails in many ways on a damaged header; then nothing is kept
        return None
    kept = []
    for name, most in _CSA_SAFE.items():
        entry = entries.get(name)
        if entry is None or entry["vr"] not in _CSA_VRS or not 1 <= len(entry["items"]) <= most:
            continue
        checked = numbers([str(item) for item in entry["items"]], "DS")
        if checked:
            kept.append((name, entry["vr"], checked))
    return _write_csa(kept) if kept else None


def _write_csa(entries: list[tuple[str, str, list[str]]]) -> bytes:
    """The CSA2 layout: 84-byte entries of name, count, VR, then items of four lengths and padded text.

    Source: nibabel's documentation, "Siemens format DICOM with CSA header".
    """
    out = io.BytesIO()
    out.write(b"SV10\4\3\2\1" + struct.pack("<II", len(entries), 77))
    for name, vr, items in entries:
        # Siemens always stores at least six items; readers rely on it
        texts = [f"{item:<13}".encode("ascii") + b"\0" for item in items]
        texts += [b""] * max(0, 6 - len(texts))
        out.write(struct.pack("<64si4siii", name.encode("ascii"), len(items), vr.encode("ascii"), 0, len(texts), 77))
        for text in texts:
            out.write(struct.pack("<4i", len(text), len(text), 77, len(text)))
            out.write(text + b"\0" * (-len(text) % 4))
    return out.getvalue()
