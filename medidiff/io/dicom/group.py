"""From headers to plans: series by UID, stacks by geometry, volumes by what tells their planes apart."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from medidiff.io.dicom.facts import AcquisitionFacts, read_facts
from medidiff.io.dicom.frames import split
from medidiff.io.dicom.geometry import (
    LARGEST_TILT_DEGREES,
    UNEVEN_TOLERANCE,
    Grid,
    Stack,
    describe_gaps,
    grid_of,
    places,
    stack_of,
)
from medidiff.io.dicom.model import NO_UID, InstanceHeader, Plane
from medidiff.io.dicom.plan import FramePlan, ReadPolicy, SeriesPlan, Slot
from medidiff.io.dicom.reasons import Reason, SeriesRefused, SetAside
from medidiff.io.dicom.source import open_dataset
from medidiff.io.dicom.timing import slice_times
from medidiff.io.dicom.values import Header
from medidiff.io.safety import default_budget, human_bytes
from medidiff.volume import Modality

# Cosines closer than this are one orientation: far above rounding, 0.06 degrees.
SAME_DIRECTION = 1e-3
SAME_SPACING_MM = 1e-3
# In a series of several orientations a group this small is a picture of planning, not a volume.
SMALL_STACK = 3


def plan_series(headers: Iterable[InstanceHeader], policy: ReadPolicy) -> tuple[list[SeriesPlan], list[SetAside]]:
    """Plan the volumes of any number of headers, series by series.

    Returns:
        The plans in order of study, series number and label, and every plane that is in none.
    """
    by_series: dict[tuple[str, str, int | None], list[InstanceHeader]] = {}
    for header in headers:
        # Some exports give several series one UID: their numbers still tell them apart.
        key = (header.study_uid, header.series_uid, header.series_number)
        by_series.setdefault(key, []).append(header)
    plans: list[SeriesPlan] = []
    aside: list[SetAside] = []
    for group in by_series.values():
        own, refused = _plan_one_series(group, policy)
        plans.extend(own)
        aside.extend(refused)
    plans.sort(key=lambda plan: (plan.study_uid, plan.series_number or 0, plan.series_uid, plan.label))
    return plans, aside


def _plan_one_series(headers: list[InstanceHeader], policy: ReadPolicy) -> tuple[list[SeriesPlan], list[SetAside]]:
    stacks = _parallel_groups([Slot(header, plane) for header in headers for plane in header.planes])
    plans: list[SeriesPlan] = []
    aside: list[SetAside] = []
    for slots in stacks:
        try:
            refusal = _too_small(slots, stacks)
            if refusal is not None:
                raise refusal
            own, refused = _plan_stack(slots, policy)
        except SeriesRefused as refusal:
            aside.extend(_all_aside(slots, refusal.reason, refusal.text))
            continue
        plans.extend(own)
        aside.extend(refused)
    return _labelled(plans), aside


def _parallel_groups(slots: list[Slot]) -> list[list[Slot]]:
    """Slots that could lie on one grid: same size, spacing, directions, frame of reference, stack and modality."""
    groups: dict[tuple[object, ...], list[tuple[Plane, list[Slot]]]] = {}
    for slot in slots:
        header, plane = slot.header, slot.plane
        key = (header.rows, header.columns, header.frame_of_reference, header.modality, plane.stack)
        candidates = groups.setdefault(key, [])
        for first, members in candidates:
            if _parallel(first, plane):
                members.append(slot)
                break
        else:
            candidates.append((plane, [slot]))
    return [members for candidates in groups.values() for _, members in candidates]


def _parallel(one: Plane, other: Plane) -> bool:
    if max(abs(a - b) for a, b in zip(one.orientation, other.orientation, strict=True)) > SAME_DIRECTION:
        return False
    return max(abs(a - b) for a, b in zip(one.spacing, other.spacing, strict=True)) <= SAME_SPACING_MM


def _too_small(slots: list[Slot], stacks: list[list[Slot]]) -> SeriesRefused | None:
    """Why a few images among others of another kind are no volume by themselves."""
    if slots[0].header.series_uid.startswith(NO_UID) and len(slots) < SMALL_STACK:
        return SeriesRefused(Reason.MISSING_ATTRIBUTE, "SeriesInstanceUID is absent: it belongs to nothing")
    if len(stacks) < 2 or len(set(places([slot.plane for slot in slots]))) >= SMALL_STACK:
        return None
    mine = slots[0].plane.orientation
    others = [other[0].plane.orientation for other in stacks if other is not slots]
    turned = all(max(abs(a - b) for a, b in zip(mine, other, strict=True)) > SAME_DIRECTION for other in others)
    if turned:
        text = f"one of {len(stacks)} kinds of plane in its series, with {len(slots)} images: no volume by itself"
        return SeriesRefused(Reason.MIXED_ORIENTATION, text)
    text = f"{len(slots)} images of another size, spacing or frame of reference than the rest of their series"
    return SeriesRefused(Reason.MIXED_GRIDS, text)


def _plan_stack(slots: list[Slot], policy: ReadPolicy) -> tuple[list[SeriesPlan], list[SetAside]]:
    found = split(slots)
    plans: list[SeriesPlan] = []
    aside = found.aside
    for label, frames in found.volumes:
        members = [slot for frame in frames for slot in frame.slots]
        try:
            plans.append(_plan_volume(label, frames, policy, found.notes))
        except SeriesRefused as refusal:
            aside.extend(_all_aside(members, refusal.reason, refusal.text))
    return plans, aside


def _plan_volume(label: str, frames: list[FramePlan], policy: ReadPolicy, notes: list[str]) -> SeriesPlan:
    stack = stack_of([slot.plane for slot in frames[0].slots])
    ordered = [_ordered(frame) for frame in frames]
    first = ordered[0].slots[0].header
    notes = [*notes, *first.notes]
    if first.series_uid.startswith(NO_UID):
        notes.append("SeriesInstanceUID is absent: files of one folder and series number were taken for a series")
    grid = _grid(stack, first, policy, notes)
    modality = {"MR": Modality.MR, "CT": Modality.CT}.get(first.modality, Modality.OTHER)
    lone = len(stack.order) == 1
    declared = frames[0].slots[0].plane.gap
    facts = _facts(first)
    if len(facts.slice_timing) == len(first.planes) == len(stack.order):
        # Vendors list times by tile, and tiles may run against the normal.
        facts = replace(facts, slice_timing=tuple(facts.slice_timing[slot.plane.index] for slot in ordered[0].slots))
    elif not facts.slice_timing and len(ordered) > 1:
        facts = replace(facts, slice_timing=slice_times(ordered[0], facts))
    if facts.gantry_tilt and abs(facts.gantry_tilt) > 0.5 and not stack.is_tilted and not lone:
        notes.append(f"the header states a gantry tilt of {facts.gantry_tilt:g} degrees, the positions show none")
    plan = SeriesPlan(
        series_uid=first.series_uid,
        study_uid=first.study_uid,
        series_number=first.series_number,
        label=label,
        kind=first.layout,
        modality=modality,
        grid=grid,
        frames=tuple(ordered),
        thickness=stack.thickness,
        spacing_between_slices=declared if lone else float(grid.geometry.spacing[2]),
        facts=facts,
        protocol=first.protocol,
        notes=tuple(dict.fromkeys(notes)),
    )
    budget = default_budget() if policy.budget is None else policy.budget
    needed = plan.bytes_needed // len(frames)
    if needed > budget:
        text = f"a frame takes {human_bytes(needed)}, the memory budget is {human_bytes(budget)}"
        raise SeriesRefused(Reason.OVER_BUDGET, text)
    return plan


def _ordered(frame: FramePlan) -> FramePlan:
    order = stack_of([slot.plane for slot in frame.slots]).order
    return replace(frame, slots=tuple(frame.slots[index] for index in order))


def _grid(stack: Stack, first: InstanceHeader, policy: ReadPolicy, notes: list[str]) -> Grid:
    """Decide on tilt and uneven slices.

    Raises:
        SeriesRefused: the policy, or good sense, says no.
    """
    count = len(stack.order)
    if count == 1:
        notes.append("a single slice")
        if stack.thickness is None and first.planes[0].gap is None:
            notes.append("the slice states no thickness: 1 mm was assumed for the grid")
    uneven = stack.unevenness > UNEVEN_TOLERANCE
    if uneven:
        reason, text = describe_gaps(stack)
        if policy.uneven == "refuse":
            raise SeriesRefused(reason, f"{text}; read with uneven='resample' to interpolate")
        notes.append(f"{text}: interpolated onto an even grid")
    if stack.is_tilted:
        text = f"slices are shifted against each other, by {stack.tilt_degrees:.1f} degrees"
        if policy.tilt == "refuse" or stack.tilt_degrees > LARGEST_TILT_DEGREES:
            raise SeriesRefused(Reason.TILTED, f"{text}; read with tilt='shear' to set them upright (up to 40 degrees)")
        notes.append(f"{text} (gantry tilt): each was moved within its plane onto an upright grid")
    gap = first.planes[0].gap or stack.thickness
    if count == 2 and gap and stack.slice_spacing > 1.5 * gap:
        notes.append(f"two slices {stack.slice_spacing:.2f} mm apart, where {gap:.2f} mm are declared")
    return grid_of(stack, first.rows, first.columns, shear=stack.is_tilted, even=uneven)


def _facts(header: InstanceHeader) -> AcquisitionFacts:
    """Facts of a plan's first file; a damaged one has none."""
    try:
        dataset, stream = open_dataset(header.path)
        stream.close()
        return read_facts(Header(dataset), header.rows, header.columns)
    except (SeriesRefused, OSError):
        return AcquisitionFacts()
    except Exception:  # noqa: BLE001 - as in read_header: pydicom leaks many types, and facts are an extra
        return AcquisitionFacts()


def _labelled(plans: list[SeriesPlan]) -> list[SeriesPlan]:
    """Number volumes of one series that nothing else tells apart (stacks, orientations, sizes)."""
    counts: dict[str, int] = {}
    for plan in plans:
        counts[plan.label] = counts.get(plan.label, 0) + 1
    numbered: dict[str, int] = {}
    result = []
    for plan in plans:
        if counts[plan.label] > 1:
            numbered[plan.label] = numbered.get(plan.label, 0) + 1
            stack = f"stack-{numbered[plan.label]}"
            plan = replace(plan, label=f"{stack}_{plan.label}" if plan.label else stack)
        result.append(plan)
    return result


def _all_aside(slots: list[Slot], reason: Reason, text: str) -> list[SetAside]:
    """A line for every file, or for every frame of a file of which others are used."""
    whole: dict[str, list[Slot]] = {}
    for slot in slots:
        whole.setdefault(slot.header.path, []).append(slot)
    aside: list[SetAside] = []
    for path, members in whole.items():
        header = members[0].header
        if len(members) == len(header.planes):
            aside.append(SetAside(path, reason, text, header.series_uid))
        else:
            aside.extend(SetAside(path, reason, text, header.series_uid, slot.plane.index) for slot in members)
    return aside
