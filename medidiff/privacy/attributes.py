"""A header built anew, value by value, from what the profile lets stay (``profile``, ``values``, ``vocabulary``).

What is left out is remembered, so that the finished object can be searched for it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from itertools import pairwise
from typing import Any

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import UID

from medidiff.privacy.codes import canonical_code, is_code
from medidiff.privacy.dates import shift_datetime, shift_pair
from medidiff.privacy.identity import Identity
from medidiff.privacy.keys import PrivacyKey
from medidiff.privacy.policy import DeidentifyPolicy
from medidiff.privacy.private import KNOWN_CREATORS, keep_safe_private
from medidiff.privacy.profile import Action, action_for
from medidiff.privacy.values import (
    NUMERIC_VRS,
    as_list,
    dictionary_entry,
    fits_multiplicity,
    is_registered_uid,
    looks_like_text,
    numbers,
)
from medidiff.privacy.vocabulary import MODELS, VENDORS, clean_kernel, clean_nucleus, clean_term, clean_words

_MAX_DEPTH = 12


@dataclass(slots=True)
class Work:
    """What cleaning one object needs and counts."""

    key: PrivacyKey
    policy: DeidentifyPolicy
    identity: Identity
    shift: timedelta
    removed: int = 0
    changed: int = 0
    kept: int = 0
    lost_text: set[str] = field(default_factory=set)


def clean_attributes(source: Dataset, work: Work, depth: int = 0) -> Dataset:
    """A dataset of what may stay of ``source``, which is not changed."""
    clean = Dataset()
    for tag in sorted(source.keys()):
        number = int(tag)
        action = action_for(number)
        if action is Action.LATER or action is Action.EMPTY:
            _note_replaced(source, number, work)
        if action is Action.LATER:
            continue
        if action is Action.REMOVE or not _clean_element(source, number, action, clean, work, depth):
            work.removed += 1
            _note_lost(source, number, work)
    _shift_times(source, clean, work)
    if work.policy.keep_safe_private:
        work.kept += keep_safe_private(source, clean)
    return clean


def _clean_element(source: Dataset, tag: int, action: Action, clean: Dataset, work: Work, depth: int) -> bool:
    """Put the clean form of one attribute into ``clean``; False if nothing of it stays."""
    entry = dictionary_entry(tag)
    if entry is None:
        return False
    vrs, multiplicity, keyword = entry
    if action is Action.EMPTY:
        setattr(clean, keyword, None)
        return True
    if action is Action.SHIFT:
        return True  # _shift_times does date and time together
    try:
        element = source[tag]
        vr, value = str(element.VR), element.value
    except Exception:  # noqa: BLE001 - pydicom decodes on access and fails in many ways; what cannot be read does not stay
        return False
    if action is Action.RECURSE:
        return vr == "SQ" and _clean_sequence(value, tag, keyword, clean, work, depth)
    if action is Action.TABLE:
        return _keep_table(tag, vr, value, clean)
    if vr not in vrs:
        if not (vr in NUMERIC_VRS and action is Action.NUMBERS):
            return False
        vr = min(vrs)
    new = _clean_values(value, vr, keyword, action, work)
    if new is None or not fits_multiplicity(len(new), multiplicity):
        return False
    old = [str(item) for item in as_list(value)]
    same = [str(item) for item in new] == old
    work.kept, work.changed = work.kept + same, work.changed + (not same)
    if not same and action in (Action.WORDS, Action.TERMS, Action.UID):
        work.lost_text.update(set(old) - {str(item) for item in new})
    clean.add_new(tag, vr, new[0] if len(new) == 1 else (new or None))
    return True


def _clean_values(value: Any, vr: str, keyword: str, action: Action, work: Work) -> list[Any] | None:
    items = as_list(value)
    if action is Action.NUMBERS:
        return numbers(value, vr, keyword)
    if not all(isinstance(item, str) for item in items):
        return None
    if action is Action.CLASS:
        return items if all(is_registered_uid(item.strip(" \0")) for item in items) else None
    if action is Action.UID:
        return [new_uid(item, work) for item in items]
    if action is Action.TERMS:
        return _clean_terms(items, keyword, work)
    words = [_clean_text(item, keyword, work) for item in items]
    kept = [word for word in words if word]
    return kept if kept or not items else None


def _clean_terms(items: list[str], keyword: str, work: Work) -> list[str] | None:
    terms = [clean_term(item, work.identity.words) if item.strip(" \0") else "" for item in items]
    if keyword in ("ImageType", "FrameType"):  # a value's place has a meaning there
        return [term if term is not None else "OTHER" for term in terms]
    kept = [term for term in terms if term is not None]
    return kept if len(kept) == len(terms) or any(kept) else None


def _clean_text(text: str, keyword: str, work: Work) -> str | None:
    veto = work.identity.words
    if keyword == "ConvolutionKernel":
        return clean_kernel(text, veto)
    if keyword == "ImagedNucleus":
        return clean_nucleus(text)
    if keyword == "StackID":
        text = text.strip(" \0")
        return text if text.isdigit() and len(text) <= 3 else work.key.token("stack", text, 8)
    if keyword == "Manufacturer":
        return clean_words(text, veto, VENDORS)[:64]
    if keyword in ("ManufacturerModelName", "SoftwareVersions"):
        return clean_words(text, veto, VENDORS | MODELS | {"syngo", "software", "release"})[:64]
    limit = 16 if keyword in ("SequenceName", "ReceiveCoilName", "TransmitCoilName") else 64
    return clean_words(text, veto)[:limit].strip()


def _clean_sequence(value: Any, tag: int, keyword: str, clean: Dataset, work: Work, depth: int) -> bool:
    if depth >= _MAX_DEPTH:
        return False
    items = []
    for item in value or []:
        if is_code(item) or keyword.endswith("CodeSequence"):
            code = canonical_code(item)
            if code is None:
                work.removed += 1
                _note_all_lost(item, work)
                continue
            item_clean = code
        else:
            item_clean = clean_attributes(item, work, depth + 1)
        if len(item_clean) or keyword == "PerFrameFunctionalGroupsSequence":
            items.append(item_clean)
    if value and not items:
        return False
    clean.add_new(tag, "SQ", Sequence(items))
    return True


def _keep_table(tag: int, vr: str, value: Any, clean: Dataset) -> bool:
    """Palette and modality tables define what a pixel means; kept if they do not spell words."""
    data = value if isinstance(value, bytes) else b""
    if vr not in ("OW", "US", "SS", "UN") or (vr in ("OW", "UN") and (not data or looks_like_text(data))):
        return False
    if vr in ("US", "SS"):
        checked = numbers(value, vr)
        if checked is None or _spells_words(checked):
            return False
        clean.add_new(tag, vr, checked)
        return True
    clean.add_new(tag, "OW", data)
    return True


def _spells_words(items: list[int]) -> bool:
    """Whether four neighbours of a table are letters, two a number, that neither rise nor fall as a table's do."""
    for first in range(len(items) - 3):
        run = [item & 0xFFFF for item in items[first : first + 4]]
        rises = [one < other for one, other in pairwise(run)]
        text = b"".join(item.to_bytes(2, "little") for item in run)
        if text.isalpha() and any(rises) and not all(rises):
            return True
    return False


def new_uid(text: str, work: Work) -> str:
    """The keyed form of a UID; one that DICOM gave out stays."""
    uid = text.strip(" \0")
    if not uid:
        return ""
    if is_registered_uid(uid):
        return uid
    if work.policy.keep_uids and UID(uid).is_valid:
        return uid
    return work.key.uid(uid)


def _shift_times(source: Dataset, clean: Dataset, work: Work) -> None:
    """Move every date together with the time that belongs to it; a value that is not well formed is left out."""
    done: set[str] = set()
    for tag in sorted(source.keys()):
        if action_for(int(tag)) is not Action.SHIFT:
            continue
        entry = dictionary_entry(int(tag))
        keyword = entry[2] if entry else ""
        if keyword in done:
            continue
        text = text_of(source, keyword)
        if keyword.endswith("DateTime"):
            moved = shift_datetime(text, work.shift) if text else None
            _set_moved(clean, {keyword: moved}, work)
            continue
        stem = keyword.removesuffix("Date").removesuffix("Time")
        date, clock = text_of(source, stem + "Date"), text_of(source, stem + "Time")
        new_date, new_clock = shift_pair(date, clock, work.shift)
        _set_moved(clean, {stem + "Date": new_date, stem + "Time": new_clock}, work)
        done |= {stem + "Date", stem + "Time"}


def _set_moved(clean: Dataset, values: dict[str, str | None], work: Work) -> None:
    for keyword, moved in values.items():
        if moved is not None:
            setattr(clean, keyword, moved)
            work.changed += 1


def text_of(source: Dataset, keyword: str) -> str | None:
    """An attribute's text; None if there is none, or if it cannot be read."""
    try:
        value = source.get(keyword)
    except Exception:  # noqa: BLE001 - as in _clean_element
        return None
    return value if isinstance(value, str) and value else None


def _note_lost(source: Dataset, tag: int, work: Work) -> None:
    """Remember a text that was left out, to search the result for it."""
    try:
        element = source[tag]
        if element.VR == "SQ":
            for item in element.value or []:
                _note_all_lost(item, work)
        elif element.VR in ("AE", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT", "CS", "UI"):
            texts = {str(item) for item in as_list(element.value)}
            work.lost_text.update(text for text in texts if text.strip(" \0").upper() not in KNOWN_CREATORS)
    except Exception:  # noqa: BLE001, S110 - as in _clean_element; an unreadable value has no text to search for
        pass


def _note_replaced(source: Dataset, tag: int, work: Work) -> None:
    """Remember the old form of what gets another value, but for what describes pixels and the profile itself."""
    entry = dictionary_entry(tag)
    if entry and entry[2] in ("PatientName", "PatientID", "AccessionNumber", "StudyID", "ReferringPhysicianName"):
        _note_lost(source, tag, work)


def _note_all_lost(item: Dataset, work: Work) -> None:
    for tag in list(item.keys()):
        _note_lost(item, int(tag), work)
