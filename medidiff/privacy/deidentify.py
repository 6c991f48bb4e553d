"""One DICOM object in, a clean one out (PS3.15 Annex E, see ``profile`` for what stays).

The clean dataset is built anew, value by value: what nobody looked at cannot be in it. The preamble, the file meta
information, group lengths, overlays, curves, icons, unknown private blocks and bytes behind the dataset are therefore
gone without being searched for.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian

from medidiff.privacy.attributes import Work, clean_attributes, new_uid, text_of
from medidiff.privacy.codes import PROFILE_CODES, code_item
from medidiff.privacy.dicom_faces import UNPLACED, FaceOrder, remove_face
from medidiff.privacy.facerule import SMALLEST_FACE_MM, says_head
from medidiff.privacy.identity import identity_of, survivors
from medidiff.privacy.keys import PrivacyKey
from medidiff.privacy.policy import CannotClean, DeidentifyPolicy
from medidiff.privacy.profile import ALWAYS_PRESENT
from medidiff.privacy.values import is_registered_uid, numbers

IMPLEMENTATION_UID = UID("2.25.209387121543127349831904857384912734561")
_IMPLEMENTATION = "MEDIDIFF"
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
        face: What was done about a face: ``"removed"``, ``"nothing"``, ``"kept"`` or ``"not-checked"``.
    """

    dataset: Dataset
    patient: str
    removed: int
    changed: int
    kept: int
    pixels: str
    boxes: tuple[tuple[int, int, int, int, int], ...] = ()
    face: str = "not-checked"


def deidentify_dataset(
    ds: Dataset, policy: DeidentifyPolicy, key: PrivacyKey, face: FaceOrder | None = None
) -> CleanResult:
    """A clean copy of one DICOM image object. The source object is not changed.

    Args:
        ds: An object as pydicom reads it, with file meta information.
        policy: What may stay.
        key: Makes pseudonyms, UIDs and date shifts; the same key joins a patient's later scans to earlier ones.
        face: What to do about a face, of ``order_faces``; without it a face is left and (0028,0302) says so, since one
            object alone seldom shows where it is.
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
        work = Work(key, policy, identity, key.shift(identity.patient))
        clean = clean_attributes(ds, work)
        pixels = clean_pixel_data(ds, clean, policy, identity.words)
        done = _do_order(clean, face)
        _complete(ds, clean, work)
        survived = survivors(clean, identity, work.lost_text)
        if survived:
            raise CannotClean("identifier-survives", f"{survived} identifiers of the source are still in the result")
        _stamp(clean, work, pixels.outcome, done, face)
    return CleanResult(
        clean, str(clean.PatientID), work.removed, work.changed, work.kept, pixels.outcome, tuple(pixels.boxes), done
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


def _complete(source: Dataset, clean: Dataset, work: Work) -> None:
    """Identity, class, instance and the attributes that must be there even when empty."""
    clean.SOPClassUID = str(source.SOPClassUID).strip(" \0")
    instance = text_of(source, "SOPInstanceUID") or text_of(source.file_meta, "MediaStorageSOPInstanceUID")
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID"):
        if not clean.get(keyword):
            raise CannotClean("no-uid", f"{keyword} is missing, so the image belongs to no series")
    if not instance:
        raise CannotClean("no-uid", "SOPInstanceUID is missing, so the image has no identity")
    clean.SOPInstanceUID = new_uid(instance, work)
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
    sex = text_of(source, "PatientSex")
    if sex in ("M", "F", "O"):
        clean.PatientSex = sex
    age = (text_of(source, "PatientAge") or "").strip()
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


def _do_order(clean: Dataset, face: FaceOrder | None) -> str:
    """Remove a face, or make sure that none may be there.

    Raises:
        CannotClean: a face may be there, and nobody can say where.
    """
    if face is None:
        return "not-checked"
    if face.refusal:
        raise CannotClean("face-unverified", face.refusal)
    if face.done == "unplaced":
        if _shows_a_head(clean) and not _is_tiny(clean):
            raise CannotClean("face-unverified", UNPLACED)
        return "nothing"
    if face.done == "nothing" and "another body part" in face.why and says_head(str(clean.get("BodyPartExamined", ""))):
        raise CannotClean("face-unverified", "images of one series name different parts of the body")
    remove_face(clean, face)
    return face.done


def _stamp(clean: Dataset, work: Work, outcome: str, done: str, face: FaceOrder | None) -> None:
    """Say in the object itself what was done (0012,0062-0064), and build the file meta information anew."""
    policy = work.policy
    checked = outcome not in ("not-checked", "not-verified")
    codes = ["113100", "113105", "113107"]
    codes += ["113101"] if checked else []
    codes += ["113102"] if done == "removed" else []
    codes += ["113108"] if policy.keep_characteristics else []
    codes += ["113110"] if policy.keep_uids else []
    codes += ["113111"] if policy.keep_safe_private else []
    clean.PatientIdentityRemoved = "YES"
    clean.DeidentificationMethod = ["medidiff PS3.15 E allow-list", f"policy {policy.fingerprint}"]
    if face is not None:
        clean.DeidentificationMethod = [*clean.DeidentificationMethod, f"face {face.token}"[:64]]
    clean.DeidentificationMethodCodeSequence = [code_item(code, "DCM", PROFILE_CODES[code]) for code in sorted(codes)]
    clean.LongitudinalTemporalInformationModified = "MODIFIED"
    clean.SpecificCharacterSet = "ISO_IR 192"
    if checked:
        clean.BurnedInAnnotation = "NO"
    shown = done not in ("removed", "nothing") and _shows_a_head(clean)
    clean.RecognizableVisualFeatures = "YES" if shown else "NO"
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = clean.SOPClassUID
    meta.MediaStorageSOPInstanceUID = clean.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = IMPLEMENTATION_UID
    meta.ImplementationVersionName = _IMPLEMENTATION
    clean.file_meta = meta


def _shows_a_head(clean: Dataset) -> bool:
    """Whether a face may be recognised: a CT, MR or PET that is not said to be of another part of the body."""
    part = str(clean.get("BodyPartExamined", "") or "")
    return clean.get("Modality") in ("CT", "MR", "PT") and (not part or says_head(part))


def _is_tiny(clean: Dataset) -> bool:
    """Whether an image is too small for a face whichever way it lies, and whatever is stacked upon it."""
    steps = clean.get("PixelSpacing")
    if not isinstance(steps, Iterable) or len(sizes := [float(step) for step in steps]) != 2:
        return False
    sides = (sizes[0] * int(clean.Rows), sizes[1] * int(clean.Columns))
    return min(sides) > 0 and max(sides) < SMALLEST_FACE_MM
