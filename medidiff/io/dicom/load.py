"""From a plan to a volume: each file's pixels are read once, one volume in memory at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medidiff.io.dicom.group import plan_series
from medidiff.io.dicom.model import InstanceHeader
from medidiff.io.dicom.pixels import plane_values, stored_frames
from medidiff.io.dicom.plan import FramePlan, ReadPolicy, SeriesPlan, SeriesReport
from medidiff.io.dicom.reasons import Reason, SeriesRefused, SetAside
from medidiff.io.dicom.resample import onto_grid
from medidiff.io.dicom.scan import PathLike, index
from medidiff.io.info import IntensityScaling, VolumeInfo
from medidiff.io.safety import check_budget
from medidiff.volume import Volume

Array = NDArray[Any]

_STRANGERS = frozenset({Reason.NOT_DICOM, Reason.UNREADABLE, Reason.EMPTY_FILE, Reason.ARCHIVE})


@dataclass(frozen=True, slots=True)
class SearchLimits:
    """Where the search for one scan ends: in a home folder it would go on for hours, without a word.

    Args:
        strangers: Most files that are no DICOM.
        objects: Most DICOM objects. A long time series has tens of thousands.
    """

    strangers: int = 5000
    objects: int = 100_000


ONE_SCAN = SearchLimits()


def find_series(
    paths: PathLike | Iterable[PathLike],
    *,
    policy: ReadPolicy | None = None,
    workers: int | None = None,
    limits: SearchLimits | None = None,
) -> SeriesReport:
    """Find the volumes in files and folders; every file ends in one of them or is set aside with a reason.

    Args:
        paths: A file or folder, or several.
        policy: What to do with tilted and uneven stacks.
        workers: Processes for reading headers; None for as many as are worth while.
        limits: Where to give up; nowhere if None.
    Raises:
        SeriesRefused: more files than the limits allow.
    """
    policy = policy or ReadPolicy()
    headers: list[InstanceHeader] = []
    aside: list[SetAside] = []
    strangers = 0
    for found in index(paths, workers=workers, budget=policy.budget, localizers=policy.localizers):
        if isinstance(found, SetAside):
            aside.append(found)
            strangers += found.reason in _STRANGERS
        else:
            headers.append(found)
        if limits is not None and (strangers > limits.strangers or len(headers) > limits.objects):
            text = (
                f"gave up after {strangers + len(headers)} files, {len(headers)} of them DICOM images: "
                "this is no folder of one scan; name one, or ingest the whole"
            )
            raise SeriesRefused(Reason.SEVERAL_VOLUMES if headers else Reason.NOTHING_FOUND, text)
    series, refused = plan_series(headers, policy)
    aside.extend(refused)
    return SeriesReport(tuple(_with_losses(plan, aside) for plan in series), tuple(aside))


def load(plan: SeriesPlan, *, budget: int | None = None) -> Volume:
    """Read a series' pixels.

    Args:
        plan: Of ``find_series``. Pass ``plan.split()``'s parts, or use ``iter_frames``, to hold one frame at a time.
        budget: Bytes allowed for the voxels; ``default_budget()`` if None.
    Returns:
        Physical values, float32, shape (frames, i, j, k); CT in HU.
    Raises:
        DicomSeriesError: a file changed, breaks off or cannot be decoded.
        BudgetError: the volume is larger than the budget.
    """
    check_budget(plan.bytes_needed, "the series", budget)
    i, j, k = plan.geometry.shape
    # Memory order of the planes as they are stored: each is written in one stroke.
    out = np.empty((len(plan.frames), k, j, i), dtype=np.float32)
    if plan.grid.is_resampled:
        for number, frame in enumerate(plan.frames):
            rows, columns = frame.slots[0].header.rows, frame.slots[0].header.columns
            stack = np.empty((1, len(frame.slots), rows, columns), dtype=np.float32)
            _fill(stack, (frame,))
            out[number] = onto_grid(stack[0], plan.grid, plan.modality)
    else:
        _fill(out, plan.frames)
    return Volume(out.transpose(0, 3, 2, 1), plan.geometry, plan.modality)


def iter_frames(plan: SeriesPlan, *, budget: int | None = None) -> Iterator[tuple[str, Volume]]:
    """The frames of a series one after the other, each with its name.

    Raises:
        DicomSeriesError, BudgetError: as ``load``.
    """
    for part in plan.split():
        yield part.label, load(part, budget=budget)


def read_series(path: PathLike, *, policy: ReadPolicy | None = None) -> Volume:
    """Read the one volume in a file or folder.

    Raises:
        DicomSeriesError: there is none, or more than one; the message lists what is there.
        BudgetError: the volume is larger than the budget.
    """
    return load(the_only(find_series(path, policy=policy, limits=ONE_SCAN)), budget=policy.budget if policy else None)


def probe_series(path: PathLike, *, policy: ReadPolicy | None = None) -> VolumeInfo:
    """Describe the one volume in a file or folder without reading its pixels.

    Raises:
        DicomSeriesError: there is none, or more than one.
    """
    plan = the_only(find_series(path, policy=policy, limits=ONE_SCAN))
    first = plan.frames[0].slots[0]
    pixels = first.header.pixels
    scalings = {(slot.plane.slope, slot.plane.intercept) for frame in plan.frames for slot in frame.slots}
    notes = plan.notes
    if len(scalings) > 1:
        notes = (*notes, "each slice has a scaling of its own; the one given is the first slice's")
    sign = "i" if pixels.signed else "u"
    repetition = plan.facts.repetition_time if len(plan.frames) > 1 else None
    return VolumeInfo(
        format="dicom",
        geometry=plan.geometry,
        frames=len(plan.frames),
        dtype=np.dtype(pixels.float_type or f"{sign}{max(pixels.bits_allocated // 8, 1)}").name,
        modality=plan.modality,
        slice_thickness=plan.thickness,
        scaling=IntensityScaling(first.plane.slope, first.plane.intercept),
        frame_step=repetition,
        notes=notes,
    )


def the_only(report: SeriesReport) -> SeriesPlan:
    """The report's one series.

    Raises:
        DicomSeriesError: there is none, or more than one.
    """
    if len(report.series) == 1:
        return report.series[0]
    if report.series:
        text = f"expected one volume, found {len(report.series)}; choose one:\n{report.describe()}"
        raise SeriesRefused(Reason.SEVERAL_VOLUMES, text, set_aside=report.set_aside)
    if len(report.set_aside) == 1:
        only = report.set_aside[0]
        raise SeriesRefused(only.reason, only.text, path=only.path, set_aside=report.set_aside)
    reasons = report.reasons()
    reason = next(iter(reasons)) if len(reasons) == 1 else Reason.NOTHING_FOUND
    text = f"expected one volume, found none\n{report.describe()}"
    detail = sorted({item.text for item in report.set_aside})[:8]
    raise SeriesRefused(reason, "\n".join([text, *detail]), set_aside=report.set_aside)


def _with_losses(plan: SeriesPlan, aside: list[SetAside]) -> SeriesPlan:
    """Note on a plan what of its series was left out: a volume may be whole and still end too early."""
    lost = Counter(
        item.reason for item in aside if item.series_uid == plan.series_uid and item.reason is not Reason.DUPLICATE
    )
    notes = [f"of this series, {count} left out: {reason.value}" for reason, count in sorted(lost.items())]
    return replace(plan, notes=(*plan.notes, *notes)) if notes else plan


def _fill(out: Array, frames: tuple[FramePlan, ...]) -> None:
    """Write every plane to its place, file by file, so that an object is decoded once for all of its planes."""
    wanted: dict[str, list[tuple[int, int, int]]] = {}
    headers: dict[str, InstanceHeader] = {}
    for number, frame in enumerate(frames):
        for k, slot in enumerate(frame.slots):
            headers.setdefault(slot.header.path, slot.header)
            wanted.setdefault(slot.header.path, []).append((number, k, slot.plane.index))
    for path, places in wanted.items():
        header = headers[path]
        stored = stored_frames(header)
        for number, k, plane in places:
            out[number, k] = plane_values(header, stored, header.planes[plane])
