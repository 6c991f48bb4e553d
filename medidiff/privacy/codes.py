"""Coded entries: kept when the code is in a published dictionary, with the dictionary's own wording."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from pydicom.dataset import Dataset

# PS3.15 table E.1 options, PS3.16 CID 7050
PROFILE_CODES = {
    "113100": "Basic Application Confidentiality Profile",
    "113101": "Clean Pixel Data Option",
    "113102": "Clean Recognizable Visual Features Option",
    "113105": "Clean Descriptors Option",
    "113107": "Retain Longitudinal Temporal Information Modified Dates Option",
    "113108": "Retain Patient Characteristics Option",
    "113110": "Retain UIDs Option",
    "113111": "Retain Safe Private Option",
}


def code_item(value: str, scheme: str, meaning: str) -> Dataset:
    """One item of a code sequence."""
    item = Dataset()
    item.CodeValue = value
    item.CodingSchemeDesignator = scheme
    item.CodeMeaning = meaning
    return item


def canonical_code(item: Dataset) -> Dataset | None:
    """The coded entry with the meaning of the published dictionary; None for a code that no dictionary has."""
    try:
        value, scheme = str(item.get("CodeValue", "")).strip(), str(item.get("CodingSchemeDesignator", "")).strip()
    except Exception:  # noqa: BLE001 - pydicom decodes on access and fails in many ways; an unreadable code does not stay
        return None
    meaning = _meanings().get((scheme, value))
    return code_item(value, scheme, meaning) if meaning is not None else None


def is_code(item: Dataset) -> bool:
    """Whether a sequence item is a coded entry."""
    return any(keyword in item for keyword in ("CodeValue", "LongCodeValue", "URNCodeValue"))


@cache
def _meanings() -> dict[tuple[str, str], str]:
    """(scheme, code) to meaning, from the tables that pydicom carries; older SNOMED-RT codes through their mapping."""
    from pydicom.sr._concepts_dict import concepts
    from pydicom.sr._snomed_dict import mapping

    found: dict[tuple[str, str], str] = {}
    tables: Any = concepts
    for scheme in ("DCM", "SCT", "FMA", "UCUM", "NCIt", "RADLEX"):
        for codes in tables.get(scheme, {}).values():
            for value, (meaning, _) in codes.items():
                if len(value) <= 16 and len(meaning) <= 64 and re.fullmatch(r"[ -~]+", meaning):
                    found[scheme, value] = meaning
    for old, new in mapping["SRT"].items():
        if ("SCT", new) in found:
            found["SRT", old] = found["SNM3", old] = found["SCT", new]
    return found
