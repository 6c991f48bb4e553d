"""One DICOM object in, a clean one out (PS3.15 Annex E, see ``profile`` for what stays).

The clean dataset is built anew, value by value: what nobody looked at cannot be in it. The preamble, the file meta
information, group lengths, overlays, curves, icons, unknown private blocks and bytes behind the dataset are therefore
gone without being searched for.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import UID, ExplicitVRLittleEndian

from medidiff.privacy.codes import PROFILE_CODES, canonical_code, code_item, is_code
from medidiff.privacy.dates import shift_datetime, shift_pair
from medidiff.privacy.identity import Identity, identity_of, survivors
from medidiff.privacy.keys import PrivacyKey
from medidiff.privacy.policy import CannotClean, DeidentifyPolicy
from medidiff.privacy.private import KNOWN_CREATORS, keep_safe_private
from medidiff.privacy.profile import ALWAYS_PRESENT, Action, action_for
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

IMPLEMENTATION_UID = UID("2.25.209387121543127349831904857384912734561")
_IMPLEMENTATION = "MEDIDIFF"
_MAX_DEPTH = 12
# Storage classes of images whose pixels this module can check, with the modality each one means (empty: several).
# Segmentations, reports, presentation states, raw data, waveforms and encapsulated documents carry text in ways that
# an allow-list of image attributes does not cover.
_STORAGE = "1.2.840.10008.5.1.4.1.1."
IMAGE_CLASSES = {
    _STORAGE + tail: modality
    for modality, tails in {
        "CR": "1", "DX": "1.1 1.1.1 13.1.1 13.1.2", "MG": "1.2 1.2.1 13.1.3", "IO": "1.3 1.3.1", "CT": "2 2.1 2.2",
        "US": "3.1 6.1 6.2", "MR": "4 4.1 4.3 4.4", "OT": "7 7.1 7.2 7.3 7.4", "XA": "12.1 12.1.1", "RF": "12.2 12.2.1",
        "NM": "20", "PT": "128 128.1 130",
    }.items()
    for tail in tails.split()
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class CleanResult:
    """A clean dataset, ready to be written, and what was done; the record holds counts and fixed words only.

    Args:
        dataset: The clean object with its file meta information.
        patient: Pseudonym of the patient.
        removed: Number of attributes that were left out, nested ones included.
        changed: Number of attributes whose value was replaced or shortened.
        kept: Number of attributes that stayed as they were.
        pixels: What was done to the pixels, a fixed word.
        boxes: Text regions that were blanked: (frame, row0, row1, column0, column1), ends exclusive; frame -1 is all.
    """

    dataset: Dataset
    patient: str
    removed: int
    changed: int
    kept: int
    pixels: str
    boxes: tuple[tuple[int, int, int, int, int], ...] = ()


@dataclass(slots=True)
class _Work:
    key: PrivacyKey
    policy: DeidentifyPolicy
    identity: Identity
    shift: timedelta
    removed: int = 0
    changed: int = 0
    kept: int = 0
    lost_text: set[str] = field(default_factory=set)


def deidentify_dataset(ds: Dataset, policy: DeidentifyPolicy, key: PrivacyKey) -> CleanResult:
    """A clean copy of one DICOM image object. The source object is not changed.

    Args:
        ds: An object as pydicom reads it, with file meta information.
        policy: What may stay.
        key: Makes pseudonyms, UIDs and date shifts; the same key joins a patient's later scans to earlier ones.
    Returns:
        The clean object in Explicit VR Little Endian, pixels decoded, and a record of what was done.
    Raises:
        CannotClean: not an image, or it cannot be shown to be clean (an identifier survives, the pixels cannot be
            decoded, text in them cannot be read for certain); the reason holds no value of the file.
    """
    from medidiff.privacy.pixel_data import clean_pixel_data

    with quiet_pydicom():
        check_is_image(ds)
        identity = identity_of(ds)
        work = _Work(key, policy, identity, key.shift(identity.patient))
        clean = _clean_dataset(ds, work, 0)
        pixels = clean_pixel_data(ds, clean, policy, identity.words)
        _complete(ds, clean, work)
        survived = survivors(clean, identity, work.lost_text)
        if survived:
            raise CannotClean("identifier-survives", f"{survived} identifiers of the source are still in the result")
        _stamp(clean, work, pixels.outcome)
    return CleanResult(
        clean, str(clean.PatientID), work.removed, work.changed, work.kept, pixels.outcome, tuple(pixels.boxes)
    )


def check_is_image(ds: Dataset) -> None:
    """Refuse what is no image of a kind whose pixels can be checked.

    Raises:
        CannotClean: a report, document, presentation state, segmentation, raw data, directory or unknown object.
    """
    sop_class = str(ds.get("SOPClassUID", "") or "").strip(" \0")
    if "DirectoryRecordSequence" in ds or sop_class == "1.2.840.10008.1.3.10":
        raise CannotClean("directory", "a DICOMDIR lists patients and files of the source; a clean tree needs none")
    if not sop_class and "PixelData" in ds:
        raise CannotClean("no-class", "the object does not say what it is: (0008,0016) SOPClassUID is missing")
    if sop_class not in IMAGE_CLASSES:
        name = UID(sop_class).name if is_registered_uid(sop_class) else "an unknown class"
        raise CannotClean("not-an-image", f"{name} is not an image whose content can be cleaned")
    if not any(name in ds for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        raise CannotClean("no-pixels", "the image object has no pixel data")


@contextmanager
def quiet_pydicom() -> Iterator[None]:
    """Keep pydicom's warnings and log lines, which quote values, from getting out."""
    logger = logging.getLogger("pydicom")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


def write_clean(result: CleanResult, path: Any) -> None:
    """Write a clean object as a DICOM file with an empty preamble; the caller gives an atomic path."""
    with quiet_pydicom():
        result.dataset.save_as(path, enforce_file_format=True)


def _clean_dataset(source: Dataset, work: _Work, depth: int) -> Dataset:
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


def _clean_element(source: Dataset, tag: int, action: Action, clean: Dataset, work: _Work, depth: int) -> bool:
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


def _clean_values(value: Any, vr: str, keyword: str, action: Action, work: _Work) -> list[Any] | None:
    items = as_list(value)
    if action is Action.NUMBERS:
        return numbers(value, vr, keyword)
    if not all(isinstance(item, str) for item in items):
        return None
    if action is Action.CLASS:
        return items if all(is_registered_uid(item.strip(" \0")) for item in items) else None
    if action is Action.UID:
        return [_new_uid(item, work) for item in items]
    if action is Action.TERMS:
        return _clean_terms(items, keyword, work)
    words = [_clean_text(item, keyword, work) for item in items]
    kept = [word for word in words if word]
    return kept if kept or not items else None


def _clean_terms(items: list[str], keyword: str, work: _Work) -> list[str] | None:
    terms = [clean_term(item, work.identity.words) if item.strip(" \0") else "" for item in items]
    if keyword in ("ImageType", "FrameType"):  # a value's place has a meaning there
        return [term if term is not None else "OTHER" for term in terms]
    kept = [term for term in terms if term is not None]
    return kept if len(kept) == len(terms) or any(kept) else None


def _clean_text(text: str, keyword: str, work: _Work) -> str | None:
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


def _clean_sequence(value: Any, tag: int, keyword: str, clean: Dataset, work: _Work, depth: int) -> bool:
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
            item_clean = _clean_dataset(item, work, depth + 1)
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
        if checked is None:
            return False
        clean.add_new(tag, vr, checked)
        return True
    clean.add_new(tag, "OW", data)
    return True


def _new_uid(text: str, work: _Work) -> str:
    uid = text.strip(" \0")
    if not uid:
        return ""
    if is_registered_uid(uid):
        return uid
    if work.policy.keep_uids and UID(uid).is_valid:
        return uid
    return work.key.uid(uid)


def _shift_times(source: Dataset, clean: Dataset, work: _Work) -> None:
    """Move every date together with the time that belongs to it; a value that is not well formed is left out."""
    done: set[str] = set()
    for tag in sorted(source.keys()):
        if action_for(int(tag)) is not Action.SHIFT:
            continue
        entry = dictionary_entry(int(tag))
        keyword = entry[2] if entry else ""
        if keyword in done:
            continue
        text = _text_of(source, keyword)
        if keyword.endswith("DateTime"):
            moved = shift_datetime(text, work.shift) if text else None
            _set_moved(clean, {keyword: moved}, work)
            continue
        stem = keyword.removesuffix("Date").removesuffix("Time")
        date, clock = _text_of(source, stem + "Date"), _text_of(source, stem + "Time")
        new_date, new_clock = shift_pair(date, clock, work.shift)
        _set_moved(clean, {stem + "Date": new_date, stem + "Time": new_clock}, work)
        done |= {stem + "Date", stem + "Time"}


def _set_moved(clean: Dataset, values: dict[str, str | None], work: _Work) -> None:
    for keyword, moved in values.items():
        if moved is not None:
            setattr(clean, keyword, moved)
            work.changed += 1


def _text_of(source: Dataset, keyword: str) -> str | None:
    try:
        value = source.get(keyword)
    except Exception:  # noqa: BLE001 - as in _clean_element
        return None
    return value if isinstance(value, str) and value else None


def _complete(source: Dataset, clean: Dataset, work: _Work) -> None:
    """Identity, class, instance and the attributes that must be there even when empty."""
    clean.SOPClassUID = str(source.SOPClassUID).strip(" \0")
    instance = _text_of(source, "SOPInstanceUID") or _text_of(source.file_meta, "MediaStorageSOPInstanceUID")
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID"):
        if not clean.get(keyword):
            raise CannotClean("no-uid", f"{keyword} is missing, so the image belongs to no series")
    if not instance:
        raise CannotClean("no-uid", "SOPInstanceUID is missing, so the image has no identity")
    clean.SOPInstanceUID = _new_uid(instance, work)
    if not clean.get("Modality"):
        clean.Modality = IMAGE_CLASSES[clean.SOPClassUID]
    pseudonym = work.key.pseudonym(work.identity.patient)
    clean.PatientID = pseudonym
    clean.PatientName = pseudonym
    for keyword in ALWAYS_PRESENT:
        if keyword not in clean:
            setattr(clean, keyword, None)
    if work.policy.keep_characteristics:
        _keep_characteristics(source, clean)


def _keep_characteristics(source: Dataset, clean: Dataset) -> None:
    sex = _text_of(source, "PatientSex")
    if sex in ("M", "F", "O"):
        clean.PatientSex = sex
    age = (_text_of(source, "PatientAge") or "").strip()
    if len(age) == 4 and age[:3].isdigit() and age[3] in "DWMY":
        # 90 and above is one class, as everywhere in privacy rules: few people are that old
        clean.PatientAge = "090Y" if age[3] == "Y" and int(age[:3]) > 89 else age
    for keyword in ("PatientSize", "PatientWeight"):
        try:
            checked = numbers(source.get(keyword), "DS", keyword)
        except Exception:  # noqa: BLE001, S112 - as in _clean_element
            continue
        if checked and len(checked) == 1:
            setattr(clean, keyword, checked[0])


def _stamp(clean: Dataset, work: _Work, outcome: str) -> None:
    """Say in the object itself what was done (0012,0062-0064), and build the file meta information anew."""
    policy = work.policy
    checked = outcome not in ("not-checked", "not-verified")
    codes = ["113100", "113105", "113107"]
    codes += ["113101"] if checked else []
    codes += ["113108"] if policy.keep_characteristics else []
    codes += ["113110"] if policy.keep_uids else []
    codes += ["113111"] if policy.keep_safe_private else []
    clean.PatientIdentityRemoved = "YES"
    clean.DeidentificationMethod = ["medidiff PS3.15 E allow-list", f"policy {policy.fingerprint}"]
    clean.DeidentificationMethodCodeSequence = [code_item(code, "DCM", PROFILE_CODES[code]) for code in sorted(codes)]
    clean.LongitudinalTemporalInformationModified = "MODIFIED"
    clean.SpecificCharacterSet = "ISO_IR 192"
    if checked:
        clean.BurnedInAnnotation = "NO"
    clean.RecognizableVisualFeatures = "YES" if _shows_a_head(clean) else "NO"
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = clean.SOPClassUID
    meta.MediaStorageSOPInstanceUID = clean.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = IMPLEMENTATION_UID
    meta.ImplementationVersionName = _IMPLEMENTATION
    clean.file_meta = meta


def _shows_a_head(clean: Dataset) -> bool:
    """Whether a face may be recognised: a CT or MR that is not said to be of another part of the body."""
    part = str(clean.get("BodyPartExamined", "") or "").upper()
    return clean.get("Modality") in ("CT", "MR", "PT") and part in (
        "",
        "HEAD",
        "BRAIN",
        "SKULL",
        "FACE",
        "WHOLEBODY",
        "NECK",
    )


def _note_lost(source: Dataset, tag: int, work: _Work) -> None:
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


def _note_replaced(source: Dataset, tag: int, work: _Work) -> None:
    """Remember the old form of what gets another value, but for what describes pixels and the profile itself."""
    entry = dictionary_entry(tag)
    if entry and entry[2] in ("PatientName", "PatientID", "AccessionNumber", "StudyID", "ReferringPhysicianName"):
        _note_lost(source, tag, work)


def _note_all_lost(item: Dataset, work: _Work) -> None:
    for tag in list(item.keys()):
        _note_lost(item, int(tag), work)
