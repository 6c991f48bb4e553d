"""Who a file says it is about, and whether anything of that is still in the result."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from typing import Any

from pydicom.dataset import Dataset
from pydicom.filebase import DicomIO
from pydicom.filewriter import write_dataset

from medidiff.privacy.policy import CannotClean
from medidiff.privacy.values import as_list, is_registered_uid
from medidiff.privacy.vocabulary import MODELS, TERMS, VENDORS, is_known_word

# IDs that many files share because somebody already emptied them; they name no one.
_NO_ONE = frozenset(
    {"", "0", "00", "000", "1", "anon", "anonymous", "anonymized", "anonymised", "unknown", "none", "na"}
)
_EQUIPMENT = VENDORS | MODELS
_SHORTEST = 4
_MAX_SEARCH = 4096


@dataclass(frozen=True, slots=True)
class Identity:
    """The persons of a file.

    Args:
        patient: What the pseudonym is made from: the patient's ID, else name and birth date, else the study.
        words: Lower-case parts of all person names and of the patient's IDs, at least three letters.
    """

    patient: str
    words: frozenset[str]


def identity_of(ds: Dataset) -> Identity:
    """Collect the identity of a dataset, nested sequences included.

    Raises:
        CannotClean: neither a patient ID, a name nor a study UID says to whom the image belongs.
    """
    stated = (_text(ds, keyword) for keyword in ("PatientID", "PatientName", "PatientBirthDate", "StudyInstanceUID"))
    patient = patient_of(*stated)
    if not patient:
        raise CannotClean("no-identity", "no patient ID, no name and no StudyInstanceUID; the image belongs to nobody")
    return Identity(patient, frozenset(_name_words(ds)))


def patient_of(patient_id: str, name: str, birth_date: str, study: str) -> str:
    """What a pseudonym is made from; empty if nothing says to whom the image belongs."""
    patient_id, name, study = normalise_id(patient_id), normalise_name(name), study.strip(" \0")
    if patient_id not in _NO_ONE:
        return f"id {patient_id}"
    if name not in _NO_ONE:
        return f"name {name} {birth_date.strip()}"
    return f"study {study}" if study else ""


def name_under_id(patient_id: str, name: str) -> str:
    """The parts of a name in one order, where the ID says whose it is; empty if there is none to compare."""
    name = normalise_name(name)
    if normalise_id(patient_id) in _NO_ONE or name in _NO_ONE:
        return ""
    return " ".join(sorted(name.split()))


def normalise_id(text: str) -> str:
    """An ID without case, blanks and separators, so that ``QX-1`` and ``qx 1`` are one patient."""
    return re.sub(r"[\s\0_./-]+", "", text).casefold()


def normalise_name(text: str) -> str:
    """A person name's parts, without case, carets and empty components; the alphabetic group alone."""
    alphabetic = text.split("=", maxsplit=1)[0]
    return " ".join(part for part in re.split(r"[\^\s,\0]+", alphabetic.casefold()) if part)


def survivors(clean: Dataset, identity: Identity, lost: set[str]) -> int:
    """How many removed texts or names of persons can still be found in the serialised result.

    The last line of defence: the allow-list should have left none. Pixel values are searched too, as bytes.
    """
    header, pixels = _serialised(clean)
    texts = {text.strip(" \0").lower() for text in lost if len(text) <= _MAX_SEARCH}
    wanted = {text for text in texts if len(text) > _SHORTEST and not _harmless(text)}
    wanted |= {word for word in identity.words if len(word) >= _SHORTEST and not _harmless(word)}
    found = 0
    for text in wanted:
        forms = {
            text.encode("utf-8", "replace"),
            text.encode("latin-1", "replace"),
            text.encode("utf-16-le", "replace"),
        }
        in_pixels = len(text) >= 6 and any(form in pixels for form in forms)
        found += in_pixels or any(form in header and _as_a_word(form, header) for form in forms)
    return found


def _as_a_word(form: bytes, header: bytes) -> bool:
    """Whether it stands alone: the name Phil is not in the word Philips."""
    return re.search(rb"(?<![a-z0-9])" + re.escape(form) + rb"(?![a-z0-9])", header) is not None


def _harmless(text: str) -> bool:
    """Made of imaging terms, numbers or DICOM's own UIDs: it may occur elsewhere for its own reasons."""
    if is_registered_uid(text) or re.fullmatch(r"[\d\s.,:;+-]*", text):
        return bool(is_registered_uid(text)) or len(re.sub(r"\D", "", text)) < 7
    words = [word for word in re.split(r"[^a-z0-9]+", text) if word]
    return all(
        word.upper() in TERMS or is_known_word(word, _EQUIPMENT) or (word.isdigit() and len(word) < 6) for word in words
    )


def _serialised(clean: Dataset) -> tuple[bytes, bytes]:
    """The header's bytes and the pixel data's bytes, both lower case."""
    header = Dataset()
    pixels = b""
    for element in clean:
        if element.keyword in ("PixelData", "FloatPixelData", "DoubleFloatPixelData"):
            pixels = bytes(element.value).lower()
        else:
            header.add(element)
    buffer = io.BytesIO()
    stream = DicomIO(buffer)
    stream.is_little_endian, stream.is_implicit_VR = True, False
    write_dataset(stream, header)
    return buffer.getvalue().lower(), pixels


def _name_words(ds: Dataset, depth: int = 0) -> set[str]:
    words: set[str] = set()
    for tag in list(ds.keys()):
        try:
            element = ds[tag]
            if element.VR == "SQ" and depth < 12:
                for item in element.value or []:
                    words |= _name_words(item, depth + 1)
            elif element.VR == "PN":
                for name in as_list(element.value):
                    words |= _words_of_name(str(name))
            elif element.keyword in ("PatientID", "OtherPatientIDs"):
                words |= {str(item).strip().lower() for item in as_list(element.value) if len(str(item).strip()) > 2}
        except Exception:  # noqa: BLE001, S112 - pydicom decodes on access and fails in many ways; no name to learn there
            continue
    return words


def _words_of_name(name: str) -> set[str]:
    """Family, given and middle names; prefix and suffix (Dr, Mr, MD) are no names."""
    components = [part for group in name.split("=") for part in group.split("^")[:3]]
    words = re.split(r"[\s\0,^=-]+", " ".join(components).lower())
    return {word for word in words if len(word) > 2}


def _text(ds: Dataset, keyword: str) -> str:
    try:
        value: Any = ds.get(keyword)
    except Exception:  # noqa: BLE001 - as above
        return ""
    return "" if value is None else str(value)
