"""One volume file (NIfTI, MGH, NRRD) to a clean candidate: its voxels and grid stay, its words do not."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset

from medidiff.errors import BudgetError, InputError
from medidiff.export.bids import ANAT_SUFFIXES, Contrast, Kind, entities_of, kind_of_mr, read_sidecar
from medidiff.ingestion import lines
from medidiff.ingestion.candidate import Candidate, Gradients, SetApart
from medidiff.ingestion.planes import without_text
from medidiff.ingestion.series import Tools
from medidiff.io import VolumeInfo, probe, read_volume
from medidiff.io.source import file_sha256, open_source
from medidiff.privacy.identity import Identity, identity_of
from medidiff.privacy.policy import CannotClean
from medidiff.privacy.sidecar import clean_sidecar
from medidiff.synthetic.marks import nifti_is_edited, nifti_is_marked
from medidiff.volume import Modality, Volume

_SUFFIX = re.compile(r"(\.nii|\.mgz|\.mgh|\.nrrd|\.img|\.hdr)?(\.gz)?$", re.IGNORECASE)
# What a file name says about the image and not about the person.
_IMAGE_WORDS = re.compile(
    r"(?<![a-z0-9])(t1w?|t2w?|t2star|flair|pdw?|mprage|brain|mask|seg|aseg|label|labels|dseg|wmparc|aparc|orig|raw|bet|"
    r"defaced|reg|norm|ct|mr|mri|dwi|adc|bold|\d+(mm)|iso|run-?\d+|acq-[a-z0-9]+)(?![a-z0-9])",
    re.IGNORECASE,
)
# A label map has few whole numbers; a scan of one tissue class does not exist.
_MOST_LABELS = 256


@dataclass(frozen=True, slots=True)
class Place:
    """Where an image file lies: on disk, and as the user knows it (inside an archive, below a source)."""

    path: Path
    name: str
    root: Path


def image_digest(path: Path, tools: Tools) -> str:
    """Keyed hash of an image's bytes (of both files of a pair) and of the settings.

    Raises:
        SetApart: it cannot be read.
    """
    parts = [part for part in (path, _image_of_pair(path)) if part is not None]
    try:
        contents = [file_sha256(part) for part in parts]
    except OSError as error:
        raise SetApart(lines.UNUSABLE_IMAGE, f"the system cannot read it ({error.strerror})") from error
    return tools.key.token("image", "\n".join([tools.fingerprint, *contents]), 32)


def clean_image(place: Place, digest: str, tools: Tools, subject_pattern: str = "") -> Candidate:
    """Read an image file and what lies beside it.

    Args:
        place: Where it is.
        digest: Of ``image_digest``.
        tools: Key and settings.
        subject_pattern: A regular expression whose first group, found in the path, is the patient; empty for the
            house rules: sidecar, BIDS name, file name without the words of imaging.
    Returns:
        The candidate; its face may still be there.
    Raises:
        SetApart: it is no usable volume.
    """
    info, volume = _read(place, tools)
    extra = read_sidecar(place.path)
    entities, suffix = entities_of(place.path.name)
    identity = _identity(place, extra, entities, subject_pattern)
    key = tools.key
    facts = clean_sidecar(extra, key, identity.patient, identity.words)
    if _is_label_map(volume):
        volume = Volume(volume.data, volume.geometry, Modality.LABEL)
    pixels = {"not-checked": 1}
    if tools.policy.clean_pixels:
        volume, pixels = without_text(volume, identity.words)
    kind, gradients = _kind(place, volume, facts, suffix)
    acquired = str(facts.get("AcquisitionDateTime") or facts.get("AcquisitionDate") or "")[:19]
    session = entities.get("ses") or str(extra.get("StudyInstanceUID") or "one")
    return Candidate(
        id=key.token("volume", f"image {digest}", 12),
        digest=digest,
        planes=volume.data.shape[0] * volume.geometry.shape[2],
        subject=key.pseudonym(identity.patient),
        session=key.token("session", f"{identity.patient} {session}", 8),
        volume=volume,
        kind=kind,
        sidecar=facts,
        slice_thickness=info.slice_thickness,
        frame_step=info.frame_step if kind.datatype == "func" else None,
        acquired=acquired if re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", acquired) else "",
        body_part=str(facts.get("BodyPartExamined", "")),
        source={
            "format": info.format,
            "files": 1 + (_image_of_pair(place.path) is not None),
            "planes": int(volume.geometry.shape[2]),
        },
        deidentification={
            "method": "voxels and grid alone, header written anew, sidecar by allow-list",
            "policy": tools.policy.fingerprint,
            "dates": "shifted",
            "pixels": pixels,
        },
        notes=info.notes,
        gradients=gradients,
    )


def _read(place: Place, tools: Tools) -> tuple[VolumeInfo, Volume]:
    path = place.path
    try:
        if not _is_invented(path):
            return probe(path), read_volume(path, budget=tools.reading.budget)
    except BudgetError as error:
        raise SetApart(lines.OVER_BUDGET, _without_names(error, path)) from error
    except InputError as error:
        raise SetApart(lines.UNUSABLE_IMAGE, _without_names(error, path)) from error
    # The header is written anew, and nobody would know any more.
    raise SetApart(lines.NOT_A_REAL_SCAN, "its header says that a generative model drew it, wholly or in part")


def _is_invented(path: Path) -> bool:
    head = open_source(path).head
    return nifti_is_marked(head) or nifti_is_edited(head)


def _without_names(error: Exception, path: Path) -> str:
    """The message without the places it names: a file name may hold a person's."""
    text = str(error)
    pair = _image_of_pair(path)
    for part in (path, pair):
        if part is not None:
            text = text.replace(str(part), "the file")
    for part in (path, pair):
        if part is not None:
            stem = _SUFFIX.sub("", part.name)
            text = text.replace(part.name, "the file")
            text = text.replace(stem, "...") if len(stem) > 2 else text
    return text


def _identity(place: Place, extra: dict[str, Any], entities: dict[str, str], pattern: str) -> Identity:
    """Whose scan it is: by the pattern, the sidecar, BIDS, else by the file's place."""
    if pattern:
        found = re.search(pattern, place.name)
        if found is None or not found.groups() or not found.group(1):
            text = "its path does not fit the subject pattern, so it is not known whose it is"
            raise SetApart(lines.NOT_CLEAN, text)
        return Identity(f"given {found.group(1)}", frozenset({found.group(1).lower()}))
    stated = Dataset()
    words: frozenset[str] = frozenset()
    for keyword in ("PatientID", "PatientName", "PatientBirthDate"):
        value = extra.get(keyword)
        if isinstance(value, str) and value.strip():
            setattr(stated, keyword, value[:64])
    if "PatientID" in stated or "PatientName" in stated:
        stated.StudyInstanceUID = "0"
        try:
            identity = identity_of(stated)
        except CannotClean:
            identity = Identity("study 0", frozenset())
        words = identity.words
        if identity.patient != "study 0":
            return identity
    if "sub" in entities:
        return Identity(f"bids {_bids_name(place)} {entities['sub']}", words)
    relative = _relative(place)
    folder, _, stem = relative.rpartition("/")
    rest = re.sub(r"[\s_.-]+", "-", _IMAGE_WORDS.sub("", _SUFFIX.sub("", stem).replace("_", " "))).strip("-")
    owner = f"{folder}/{rest}" if rest else folder or place.path.parent.name
    return Identity(f"file {owner}", words)


def _relative(place: Place) -> str:
    """The path below the source, the source's own name included when it is a folder."""
    base = place.root.parent
    name = place.name
    return name[len(str(base)) :].lstrip("/") if name.startswith(str(base)) else name


def _bids_name(place: Place) -> str:
    """The name of the BIDS dataset that a file lies in: two datasets may both have a sub-01."""
    for folder in place.path.parents:
        description = folder / "dataset_description.json"
        if description.is_file() and description.stat().st_size < 1 << 20:
            try:
                name = json.loads(description.read_text("utf-8")).get("Name")
            except (OSError, ValueError, AttributeError):
                break
            return str(name) if name else folder.name
        if re.fullmatch(r"sub-[A-Za-z0-9]+", folder.name):
            fallback = folder.parent.name
            if not (folder.parent / "dataset_description.json").is_file():
                return fallback
    return place.root.name


def _kind(place: Place, volume: Volume, facts: dict[str, Any], suffix: str) -> tuple[Kind, Gradients | None]:
    if volume.modality is Modality.LABEL:
        return Kind("other", "labels"), None
    if volume.modality is Modality.CT:
        return Kind("ct", "ct"), None
    frames = volume.data.shape[0]
    gradients = _gradients(place.path, frames, volume) if frames > 1 else None
    if gradients is not None:
        return Kind("dwi", "dwi"), gradients
    if suffix in ANAT_SUFFIXES and frames == 1:
        return Kind("anat", suffix), None
    words = " ".join(str(facts.get(name, "")) for name in ("SeriesDescription", "ProtocolName", "SequenceName"))
    stem = _SUFFIX.sub("", place.path.name).replace("_", " ")
    contrast = Contrast(
        protocol=f"{stem} {words}",
        sequence=str(facts.get("ScanningSequence", "")),
        repetition_time=_number(facts.get("RepetitionTime")),
        echo_time=_number(facts.get("EchoTime")),
        inversion_time=_number(facts.get("InversionTime")),
        frames=frames,
    )
    return kind_of_mr(contrast), None


def _gradients(path: Path, frames: int, volume: Volume) -> Gradients | None:
    """The b-table beside an image, its directions turned back from FSL's voxel axes to LPS."""
    stem = _SUFFIX.sub("", path.name)
    b_values = _numbers(path.with_name(stem + ".bval"))
    vectors = _numbers(path.with_name(stem + ".bvec"))
    if len(b_values) != frames or len(vectors) != 3 * frames:
        return None
    table = np.asarray(vectors).reshape(3, frames)
    geometry = volume.geometry
    if np.linalg.det(geometry.affine[:3, :3]) > 0:
        table[0] = -table[0]
    directions = (geometry.direction @ table) * np.asarray([[-1.0], [-1.0], [1.0]])
    columns = tuple(tuple(float(x) for x in column) for column in directions.T)
    return Gradients(tuple(b_values), columns)


def _numbers(path: Path) -> list[float]:
    try:
        if path.stat().st_size > 1 << 20:
            return []
        values = [float(word) for word in path.read_text("ascii").split()]
    except (OSError, ValueError):
        return []
    return values if all(np.isfinite(values)) else []


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else None


def _is_label_map(volume: Volume) -> bool:
    if volume.modality is Modality.LABEL:
        return True
    data = volume.data
    if data.shape[0] > 1 or not np.isfinite(data).all() or data.min() < 0:
        return False
    if not np.array_equal(data, np.rint(data)):
        return False
    values, counts = np.unique(data, return_counts=True)
    if not 2 <= len(values) <= _MOST_LABELS:
        return False
    # Labels lie in regions: neighbours are equal nearly everywhere. Eight-bit scans have as few values, but noise.
    same = float(np.mean([np.mean(np.diff(data[0], axis=axis) == 0) for axis in range(3)]))
    foreground = 1 - float(counts[0]) / data.size
    return same > 0.9 and len(values) < 2 + foreground * data.size / 20


def _image_of_pair(path: Path) -> Path | None:
    if not path.name.lower().endswith((".hdr", ".hdr.gz")):
        return None
    stem = _SUFFIX.sub("", path.name)
    for suffix in (".img", ".img.gz", ".IMG"):
        candidate = path.with_name(stem + suffix)
        if candidate.is_file():
            return candidate
    return None
