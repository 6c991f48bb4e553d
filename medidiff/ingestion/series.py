"""One DICOM volume, from its plan to a clean candidate: every file is de-identified before a voxel is used."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from medidiff.export.bids import Contrast, Kind, kind_of_mr
from medidiff.ingestion import lines
from medidiff.ingestion.candidate import Candidate, Gradients, SetApart
from medidiff.io.dicom import InstanceHeader, Layout, ReadPolicy, SeriesPlan, find_series, load
from medidiff.io.dicom.geometry import image_axes
from medidiff.io.source import file_sha256
from medidiff.privacy.deidentify import deidentify_dataset, quiet_pydicom, write_clean
from medidiff.privacy.deidentify_read import read_for_cleaning
from medidiff.privacy.identity import identity_of, patient_of
from medidiff.privacy.keys import PrivacyKey
from medidiff.privacy.pixels import clean_frames
from medidiff.privacy.policy import CannotClean, DeidentifyPolicy
from medidiff.privacy.sidecar import clean_sidecar
from medidiff.volume import Modality

# So many slices are searched at once: in the extremes of more of them, noise begins to look like text.
_TOGETHER = 26
_SEVERAL = "the files of this series name more than one patient; find out whose it is, and sort them"


@dataclass(frozen=True, slots=True)
class Tools:
    """What cleaning needs.

    Args:
        key: Makes the pseudonyms.
        policy: What may stay.
        reading: What to do with tilted and uneven series.
        work: Private folder.
        fingerprint: Of all settings that shape a volume.
    """

    key: PrivacyKey
    policy: DeidentifyPolicy
    reading: ReadPolicy
    work: Path
    fingerprint: str


@dataclass(slots=True)
class _Cleaned:
    """What cleaning the files of a volume gave."""

    patient: str = ""
    subject: str = ""
    names: frozenset[str] = frozenset()
    acquired: str = ""
    removed: int = 0
    changed: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    results: list[str] = field(default_factory=list)
    boxes: int = 0


def person_of(header: InstanceHeader, key: PrivacyKey) -> str:
    """A keyed token of whose file it is, by what the quick look at its header gave; not the pseudonym."""
    return key.token("person", patient_of(*header.patient, header.study_uid))


def volume_id(plan: SeriesPlan, key: PrivacyKey) -> str:
    """The keyed name of a volume: its patient, series and part of it, so that more or fewer files keep the name.

    Anonymised and copied exports give series of two patients one UID: the patient belongs to the name.
    """
    person = person_of(plan.frames[0].slots[0].header, key)
    return key.token("volume", f"{person}|{plan.study_uid}|{plan.series_uid}|{plan.series_number}|{plan.label}", 12)


def volume_digest(plan: SeriesPlan, tools: Tools) -> str:
    """Keyed hash of the files that make a volume, of their order in it, and of the settings.

    Raises:
        OSError: a file cannot be read.
    """
    contents = {path: file_sha256(Path(path)) for path in plan.files}
    slots = (f"{contents[s.header.path]} {s.plane.index}" for frame in plan.frames for s in frame.slots)
    return tools.key.token("planes", "\n".join([tools.fingerprint, plan.label, *slots]), 32)


def plane_count(plan: SeriesPlan) -> int:
    return sum(len(frame.slots) for frame in plan.frames)


def clean_series(plan: SeriesPlan, digest: str, tools: Tools) -> Candidate:
    """Read and clean one volume.

    Args:
        plan: Of ``find_series``.
        digest: Of ``volume_digest``.
        tools: Key and settings.
    Returns:
        The candidate; its face may still be there.
    Raises:
        SetApart: a file cannot be shown to be clean, or the files are of several patients.
        DicomSeriesError, BudgetError: the pixels cannot be read.
    """
    folder = tools.work / "clean"
    done = _clean_files(plan, folder, tools)
    source = plan if not done.boxes else _cleaned_plan(plan, folder, done, tools)
    volume = load(source, budget=tools.reading.budget)
    kind, gradients = kind_of(plan)
    facts = clean_sidecar(plan.facts.to_bids(), tools.key, done.patient, done.names)
    key = tools.key
    return Candidate(
        id=volume_id(plan, key),
        digest=digest,
        planes=plane_count(plan),
        subject=done.subject,
        session=key.token("session", plan.study_uid or plan.series_uid, 8),
        volume=volume,
        kind=kind,
        sidecar=facts,
        slice_thickness=plan.thickness,
        frame_step=plan.facts.repetition_time if kind.datatype == "func" else None,
        acquired=done.acquired,
        body_part=str(facts.get("BodyPartExamined", "")),
        source={"format": f"dicom, {plan.kind.value}", "files": len(plan.files), "planes": plane_count(plan)},
        deidentification={
            "method": "medidiff PS3.15 E allow-list",
            "policy": tools.policy.fingerprint,
            "dates": "shifted",
            "attributes_removed": done.removed,
            "attributes_changed": done.changed,
            "pixels": dict(sorted(done.outcomes.items())),
            "text_boxes": done.boxes,
        },
        notes=plan.notes,
        gradients=gradients,
    )


def _clean_files(plan: SeriesPlan, folder: Path, tools: Tools) -> _Cleaned:
    """Clean the files of a volume, some slices at a time."""
    done = _Cleaned()
    for start in range(0, len(plan.files), _TOGETHER):
        paths = list(enumerate(plan.files))[start : start + _TOGETHER]
        part = _clean_together(plan, paths, folder, tools)
        if part is None:
            part = _Cleaned()
            for number, path in paths:
                _clean_file(Path(path), number, folder, part, tools)
        _join(done, part)
    return done


def _clean_together(plan: SeriesPlan, paths: list[tuple[int, str]], folder: Path, tools: Tools) -> _Cleaned | None:
    """Search slices of a series as the frames of one object: text stands still, so it is read once for all.

    Returns:
        None if it is one file, if the files are not alike, or if there may be text: then each file is searched by
        itself, which takes a hundred times as long.
    """
    sheets = plan.kind in (Layout.MOSAIC, Layout.GRID)
    if not tools.policy.clean_pixels or (len(paths) < 2 and not sheets):
        return None
    headers = replace(tools, policy=replace(tools.policy, clean_pixels=False))
    part = _Cleaned()
    frames: list[NDArray[Any]] = []
    sources: list[Dataset] = []
    for number, path in paths:
        source, clean = _clean_file(Path(path), number, folder, part, headers)
        sources = sources or [source]
        try:
            stored = np.asarray(clean.pixel_array)
        except Exception:  # noqa: BLE001 - pydicom fails in many ways; the other way has a typed reason
            return None
        frames += _tiles(stored, plan) if sheets else [stored]
    if len({(frame.shape, frame.dtype) for frame in frames}) > 1 or frames[0].ndim != 2:
        return None
    try:
        with quiet_pydicom():
            outcome, _ = clean_frames(np.stack(frames)[..., None], sources[0], part.names)
    except CannotClean:
        return None
    if outcome != "clean":
        return None
    part.outcomes = Counter({"clean": len(paths)})
    return part


def _join(done: _Cleaned, part: _Cleaned) -> None:
    """Add what cleaning some files gave.

    Raises:
        SetApart: they are another patient's.
    """
    if not done.subject:
        done.patient, done.subject, done.acquired = part.patient, part.subject, part.acquired
    elif part.subject != done.subject:
        raise SetApart(lines.SEVERAL_PATIENTS, _SEVERAL)
    done.names |= part.names
    done.removed += part.removed
    done.changed += part.changed
    done.boxes += part.boxes
    done.outcomes += part.outcomes
    done.results += part.results


def _tiles(sheet: NDArray[Any], plan: SeriesPlan) -> list[NDArray[Any]]:
    """The slices of a mosaic or grid. A sheet of small brains looks like lines of characters, its tiles do not."""
    header = plan.frames[0].slots[0].header
    rows, columns = header.rows, header.columns
    if sheet.ndim != 2 or sheet.shape[0] % rows or sheet.shape[1] % columns:
        return [sheet]
    cut = sheet.reshape(sheet.shape[0] // rows, rows, sheet.shape[1] // columns, columns)
    return list(cut.transpose(0, 2, 1, 3).reshape(-1, rows, columns))


def _clean_file(path: Path, number: int, folder: Path, done: _Cleaned, tools: Tools) -> tuple[Dataset, Dataset]:
    """Clean one file; its source and its clean dataset."""
    try:
        with quiet_pydicom():
            source = read_for_cleaning(path, tools.policy)
            identity = identity_of(source)
            result = deidentify_dataset(source, tools.policy, tools.key)
    except CannotClean as error:
        raise SetApart(lines.NOT_CLEAN, f"{error.reason}: {error.explanation}") from error
    except Exception as error:  # what a hostile header can raise in pydicom has no end
        raise SetApart(lines.NOT_CLEAN, f"damaged: cleaning ended in {type(error).__name__}") from error
    if not done.subject:
        done.patient, done.subject = identity.patient, result.patient
        done.acquired = acquired_at(result.dataset)
    elif result.patient != done.subject:
        raise SetApart(lines.SEVERAL_PATIENTS, _SEVERAL)
    done.names |= identity.words
    done.removed += result.removed
    done.changed += result.changed
    done.outcomes[result.pixels] += 1
    done.boxes += len(result.boxes)
    if result.boxes:
        folder.mkdir(mode=0o700, exist_ok=True)
        place = folder / f"{number:06d}.dcm"
        write_clean(result, place)
        done.results.append(str(place))
    return source, result.dataset


def _cleaned_plan(plan: SeriesPlan, folder: Path, done: _Cleaned, tools: Tools) -> SeriesPlan:
    """A plan of the same volume that reads clean copies, where text had to be blanked.

    All files are written clean, not the blanked ones alone: one series has to come from one kind of file.
    """
    for number, path in enumerate(plan.files):
        place = folder / f"{number:06d}.dcm"
        if str(place) not in done.results:
            write_clean(deidentify_dataset(read_for_cleaning(Path(path), tools.policy), tools.policy, tools.key), place)
    found = find_series(folder, policy=tools.reading, workers=1).series
    fitting = [other for other in found if other.geometry.shape == plan.geometry.shape]
    if len(fitting) != 1 or plane_count(fitting[0]) != plane_count(plan):
        text = "text-blanked: the cleaned copies no longer make the same volume"
        raise SetApart(lines.NOT_CLEAN, text)
    return fitting[0]


def acquired_at(clean: Dataset) -> str:
    """Shifted date and time of an object, ISO 8601, to the second; empty if it has none."""
    for stem in ("Acquisition", "Content", "Series", "Study"):
        date, clock = str(clean.get(f"{stem}Date", "") or ""), str(clean.get(f"{stem}Time", "") or "")
        if len(date) == 8 and date.isdigit():
            time = clock[:6].ljust(6, "0") if clock[:2].isdigit() else "000000"
            if time.isdigit():
                return f"{date[:4]}-{date[4:6]}-{date[6:]}T{time[:2]}:{time[2:4]}:{time[4:]}"
    return ""


def kind_of(plan: SeriesPlan) -> tuple[Kind, Gradients | None]:
    """The place of a series in BIDS, and its diffusion weighting if that is what it is."""
    if plan.modality is Modality.CT:
        return Kind("ct", "ct"), None
    if plan.modality is not Modality.MR:
        return Kind("other", "image"), None
    facts = plan.facts
    gradients = _gradients(plan)
    kind = kind_of_mr(
        Contrast(
            protocol=f"{plan.protocol} {facts.sequence_name or ''}",
            sequence=facts.scanning_sequence or "",
            repetition_time=facts.repetition_time,
            echo_time=facts.echo_time,
            inversion_time=facts.inversion_time,
            frames=len(plan.frames),
            diffusion=gradients is not None,
            computed=facts.image_type,
        )
    )
    return kind, gradients if kind.datatype == "dwi" else None


def _gradients(plan: SeriesPlan) -> Gradients | None:
    """Diffusion weighting of each frame in patient coordinates; None if that is not known for certain.

    The standard's attribute, Siemens and Philips speak of the patient. United Imaging's private one speaks of the image
    (row, column, normal), as dcm2niix has it. GE's depends on software version and phase direction: better no table
    than a wrong one.
    """
    b_values = tuple(frame.b_value for frame in plan.frames)
    vendor = (plan.facts.manufacturer or "").upper()
    if any(value is None for value in b_values) or vendor.startswith("GE"):
        return None
    directions = [frame.direction for frame in plan.frames]
    if vendor.startswith(("UIH", "UNITED")):
        axes = np.stack(image_axes(plan.frames[0].slots[0].plane.orientation), axis=1)
        directions = [None if d is None else tuple(float(x) for x in axes @ np.asarray(d)) for d in directions]
    return Gradients(b_values, tuple(directions))
