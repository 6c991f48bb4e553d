"""Names, sidecars and the fixed files of a BIDS dataset.

Source: Gorgolewski et al. (2016), The brain imaging data structure; BIDS specification 1.10. CT and images whose
contrast is not known have no place in BIDS yet: they lie in folders ``ct`` and ``other`` that ``.bidsignore`` names.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medidiff.geometry import Geometry
from medidiff.io.atomic import atomic_write_json, atomic_write_text

BIDS_VERSION = "1.10.0"
ANAT_SUFFIXES = frozenset(
    {"T1w", "T2w", "T2starw", "FLAIR", "PDw", "PDT2", "inplaneT1", "inplaneT2", "angio", "T1map", "T2map"}
)
IGNORED = ("ct", "other")

# Names that protocols go by, tried in order: FLAIR before T2, because "t2_flair" is one.
_CONTRASTS = (
    ("FLAIR", r"flair|dark.?fluid"),
    ("T2starw", r"t2 ?(\*|star)|t2s(?![a-z])|t2w?_?(st|fl2d)|hemo(?![a-z])|gre(?![a-z]).*t2"),
    ("PDw", r"(?<![a-z])pdw?(?![a-z])|proton"),
    ("T1w", r"t1|mp2?.?rage|bravo|ir.?f?spgr|tfl3d|(?<![a-z])fspgr"),
    ("T2w", r"t2|ciss|fiesta|(?<![a-z])space(?![a-z])|haste"),
)
# Maps that a scanner or a workstation computed from a scan.
_COMPUTED = frozenset(
    {"ADC", "FA", "TRACEW", "TTP", "MTT", "CBF", "CBV", "MPR", "PROJECTION IMAGE", "MIP", "MNIP", "SUBTRACTION"}
)


@dataclass(frozen=True, slots=True)
class Kind:
    """What an image is to BIDS: its folder and its suffix."""

    datatype: str
    suffix: str


@dataclass(frozen=True, slots=True)
class Contrast:
    """What an MR acquisition was, as far as known.

    Args:
        protocol: Name of the protocol or file; only looked at, never written.
        sequence: ScanningSequence, e.g. ``"GR"``, ``"SE\\\\IR"``.
        repetition_time, echo_time, inversion_time: s; None if unknown.
        frames: Number of time points or directions.
        diffusion: Every frame states its b-value.
        computed: Words of ImageType.
    """

    protocol: str = ""
    sequence: str = ""
    repetition_time: float | None = None
    echo_time: float | None = None
    inversion_time: float | None = None
    frames: int = 1
    diffusion: bool = False
    computed: tuple[str, ...] = ()


def kind_of_mr(contrast: Contrast) -> Kind:
    """Folder and suffix of an MR image, from its protocol's name, else from the physics; ``other`` if neither tells."""
    if _COMPUTED.intersection(contrast.computed):
        return Kind("other", "mr")
    if contrast.diffusion and contrast.frames > 1:
        return Kind("dwi", "dwi")
    name = contrast.protocol.lower()
    echo_planar = "EP" in contrast.sequence.upper() or re.search(r"epi(?![a-z])|bold|fmri", name)
    if contrast.frames > 1:
        return Kind("func", "bold") if echo_planar and contrast.repetition_time else Kind("other", "mr")
    if echo_planar:
        return Kind("other", "mr")
    for suffix, pattern in _CONTRASTS:
        if re.search(pattern, name):
            return Kind("anat", suffix)
    suffix = _by_physics(contrast)
    return Kind("anat", suffix) if suffix else Kind("other", "mr")


def _by_physics(contrast: Contrast) -> str:
    """Contrast by echo, repetition and inversion time (s), where these leave no doubt."""
    tr, te, ti = contrast.repetition_time, contrast.echo_time, contrast.inversion_time
    if te is None or tr is None:
        return ""
    if ti is not None and ti > 1.6 and te > 0.06:
        return "FLAIR"
    gradient = "GR" in contrast.sequence.upper()
    if te < 0.02 and (tr < 0.9 or (ti is not None and 0.4 < ti < 1.4)):
        return "T1w"
    if gradient:
        return "T2starw" if te > 0.015 else ""
    if tr > 1.8:
        return "T2w" if te > 0.06 else "PDw" if te < 0.035 else ""
    return ""


def image_stem(subject: str, session: str, acquisition: str, kind: Kind) -> str:
    """Path of an image inside the dataset, without suffix: ``sub-X/ses-Y/anat/sub-X_ses-Y_acq-Z_T1w``."""
    task = "_task-unknown" if kind.datatype == "func" else ""
    name = f"sub-{subject}_ses-{session}{task}_acq-{acquisition}_{kind.suffix}"
    return f"sub-{subject}/ses-{session}/{kind.datatype}/{name}"


def entities_of(name: str) -> tuple[dict[str, str], str]:
    """The entities and the suffix of a BIDS file name; empty if it is none."""
    stem = re.sub(r"(\.nii|\.mgz|\.mgh|\.nrrd|\.img|\.hdr|\.json)?(\.gz)?$", "", name, flags=re.IGNORECASE)
    *pairs, suffix = stem.split("_")
    found = {}
    for pair in pairs:
        entity, dash, label = pair.partition("-")
        if not dash or not re.fullmatch(r"[a-z]+", entity) or not re.fullmatch(r"[A-Za-z0-9+]+", label):
            return {}, ""
        found[entity] = label
    return (found, suffix) if "sub" in found else ({}, "")


def sidecar(facts: Mapping[str, Any], kind: Kind) -> dict[str, Any]:
    """The fields of a sidecar, in order, with those that BIDS demands."""
    fields = dict(sorted(facts.items()))
    if kind.datatype == "func":
        fields["TaskName"] = "unknown"
    return fields


def gradient_table(directions: Iterable[tuple[float, ...] | None], geometry: Geometry) -> NDArray[np.float64]:
    """FSL's bvecs: unit directions along the voxel axes, shape (3, frames).

    Directions come as DICOM gives them (LPS). FSL's rule: with a positive determinant of the affine, the sign of x
    is turned over.
    """
    columns = []
    for direction in directions:
        ras = np.zeros(3) if direction is None else np.asarray(direction[:3], dtype=np.float64) * (-1, -1, 1)
        columns.append(geometry.direction.T @ ras)
    table = np.stack(columns, axis=1)
    if np.linalg.det(geometry.affine[:3, :3]) > 0:
        table[0] = -table[0]
    return np.asarray(table + 0.0)


def write_gradients(stem: Path, b_values: Iterable[float | None], table: NDArray[np.float64]) -> None:
    """The ``.bval`` and ``.bvec`` beside an image."""
    atomic_write_text(stem.with_name(stem.name + ".bval"), " ".join(f"{value or 0:g}" for value in b_values) + "\n")
    lines = [" ".join(f"{value:.6g}" for value in row) for row in table]
    atomic_write_text(stem.with_name(stem.name + ".bvec"), "\n".join(lines) + "\n")


def write_dataset_files(dataset: Path, name: str, version: str, ignored: Iterable[str]) -> None:
    """What stands at the top of a BIDS dataset: its description, a README and ``.bidsignore``."""
    description = {
        "Name": name,
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "raw",
        "GeneratedBy": [{"Name": "medidiff", "Version": version}],
    }
    atomic_write_json(dataset / "dataset_description.json", description)
    # Bare names: the validator takes a folder that it does not know for one opaque object.
    patterns = [*IGNORED, *ignored]
    atomic_write_text(dataset / ".bidsignore", "\n".join(patterns) + "\n")
    atomic_write_text(dataset / "README.md", _README)


def write_participants(dataset: Path, subjects: Iterable[str], splits: Mapping[str, str]) -> None:
    """``participants.tsv`` with the patient's split, and the meaning of its column."""
    rows = [f"sub-{subject}\t{splits[subject]}" for subject in sorted(set(subjects))]
    atomic_write_text(dataset / "participants.tsv", "\n".join(["participant_id\tsplit", *rows]) + "\n")
    meaning = "Which part of the data the participant belongs to; all scans of a participant are in one part"
    levels = {
        name: f"for {use}" for name, use in (("train", "training"), ("validation", "choices"), ("test", "scores"))
    }
    atomic_write_json(dataset / "participants.json", {"split": {"Description": meaning, "Levels": levels}})


def scans_table(rows: Iterable[tuple[str, str, bool]]) -> str:
    """The text of a ``scans.tsv``: file, shifted acquisition time, and the gate's word."""
    table = ["filename\tacq_time\tusable"]
    table += [f"{name}\t{acquired or 'n/a'}\t{'yes' if usable else 'no'}" for name, acquired, usable in sorted(rows)]
    return "\n".join(table) + "\n"


def read_sidecar(image: Path) -> dict[str, Any]:
    """The JSON beside an image, else an empty one; a damaged or huge one counts as none."""
    name = re.sub(r"(\.nii|\.mgz|\.mgh|\.nrrd|\.img|\.hdr)?(\.gz)?$", "", image.name, flags=re.IGNORECASE)
    path = image.with_name(name + ".json")
    try:
        if not path.is_file() or path.stat().st_size > 4 << 20:
            return {}
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


_README = """# A dataset made by medidiff

Every person is a pseudonym, every date is moved, and faces are removed unless `manifest.jsonl` says otherwise.

- `manifest.jsonl`: a volume a line: content hash, subject, session, split, geometry, quality, what was done to it
- `files.jsonl`: a source file a line: in which volume it is, or why in none
- `report/index.html`: both for people, with a contact sheet
- `participants.tsv`: which part of the data a participant belongs to (train, validation, test)

The images lie as BIDS has it; CT and images of unknown contrast, for which BIDS has no place, lie in `ct` and `other`.
"""
