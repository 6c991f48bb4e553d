"""One place, several images: echoes, parts, b-values, time points, and what is neither.

Planes at one place are told apart by their marks. A mark separates a group if every one of its values occurs at
the same places, so a number that merely varies from slice to slice (an acquisition number, a trigger time) never
tears a volume apart.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b

from medidiff.io.dicom.geometry import SAME_PLACE_MM, places
from medidiff.io.dicom.model import Layout
from medidiff.io.dicom.pixels import plane_values, stored_frames
from medidiff.io.dicom.plan import FramePlan, Slot
from medidiff.io.dicom.reasons import Reason, SeriesRefused, SetAside

# Another image of the same anatomy: a volume of its own.
_VOLUME_MARKS = ("type", "part", "echo", "inversion", "flip", "kernel", "kvp")
# The same image again: a frame of one volume.
_FRAME_MARKS = ("temporal", "b", "direction", "offset", "trigger", "file", "acquisition", "time")

Key = float | str


@dataclass(slots=True)
class Split:
    """What became of a group of parallel planes.

    Args:
        volumes: (label, frames) of each volume; the slots of a frame are in no order yet.
        aside: Planes left out.
        notes: Of the whole group.
    """

    volumes: list[tuple[str, list[FramePlan]]]
    aside: list[SetAside]
    notes: list[str]


def split(slots: list[Slot]) -> Split:
    """Sort planes of one orientation, size and spacing into volumes and frames.

    Raises:
        SeriesRefused: several images at one place, and nothing that tells them apart.
    """
    found = Split([], [], [])
    slots = _without_copies(slots, found)
    for label, group in _volumes(slots, ""):
        found.volumes.append((label, _frames(group, found)))
    return found


def _without_copies(slots: list[Slot], found: Split) -> list[Slot]:
    """Leave out objects that are there twice: the same SOP instance with the same pixels."""
    paths: dict[str, list[Slot]] = {}
    for slot in slots:
        paths.setdefault(slot.header.path, []).append(slot)
    first_of: dict[str, str] = {}
    kept: list[Slot] = []
    for path, group in paths.items():
        uid = group[0].header.sop_uid
        first = first_of.setdefault(uid, path) if uid else path
        if first != path and _same_pixels(paths[first], group):
            found.aside.append(_aside(group[0], Reason.DUPLICATE, "the same object is there a second time", whole=True))
        else:
            kept.extend(group)
    return kept


def _same_pixels(one: list[Slot], other: list[Slot]) -> bool:
    if len(one) != len(other) or one[0].plane.position != other[0].plane.position:
        return False
    return _digests(one) == _digests(other)


def _digests(slots: list[Slot]) -> list[bytes]:
    """A digest of each plane's values; its own path where they cannot be read, which makes it unlike all others."""
    by_file: dict[str, list[int]] = {}
    for number, slot in enumerate(slots):
        by_file.setdefault(slot.header.path, []).append(number)
    digests = [b""] * len(slots)
    for path, numbers in by_file.items():
        header = slots[numbers[0]].header
        try:
            stored = stored_frames(header)
        except SeriesRefused:
            stored = None
        for number in numbers:
            if stored is None:
                digests[number] = path.encode("utf-8", "surrogateescape")
                continue
            values = plane_values(header, stored, slots[number].plane)
            digests[number] = blake2b(values.tobytes(), digest_size=16).digest()
    return digests


def _volumes(slots: list[Slot], label: str) -> list[tuple[str, list[Slot]]]:
    """Split by the marks that make another kind of image."""
    if _is_simple(slots):
        return [(label, slots)]
    for name in _VOLUME_MARKS:
        groups = _by_mark(slots, name)
        if groups is None or not _cover_the_same(groups):
            continue
        parts: list[tuple[str, list[Slot]]] = []
        for number, (value, group) in enumerate(_in_order(groups), 1):
            own = _volume_label(name, value, number, groups)
            parts.extend(_volumes(group, "_".join(text for text in (label, own) if text)))
        return parts
    return [(label, slots)]


def _frames(slots: list[Slot], found: Split) -> list[FramePlan]:
    if _is_simple(slots):
        return [FramePlan("", tuple(slots), *_diffusion(slots))]
    groups = _frame_groups(slots, found)
    width = max(len(str(len(groups) - 1)), 3)
    frames = []
    for number, group in enumerate(groups):
        b_value, direction = _diffusion(group)
        label = f"t{number:0{width}d}" + ("" if b_value is None else f"_b{b_value:g}")
        frames.append(FramePlan(label, tuple(group), b_value, direction))
    return frames


def _check_places(slots: list[Slot]) -> None:
    """Images that all claim one position, though their slice locations differ, are slices whose position is wrong."""
    locations = {value for slot in slots if isinstance(value := _mark(slot, "location"), float)}
    if _places(slots) == 1 and locations and max(locations) - min(locations) > SAME_PLACE_MM:
        text = f"{len(slots)} images state one position and several slice locations: one of the two is wrong"
        raise SeriesRefused(Reason.CONFLICTING_POSITIONS, text)


def _frame_groups(slots: list[Slot], found: Split) -> list[list[Slot]]:
    """Time points in order of acquisition."""
    _check_places(slots)
    by_marks = _by_frame_marks(slots)
    if by_marks is not None:
        return sorted(by_marks, key=_when)
    slots = _without_equal_images(slots, found)
    if _is_simple(slots):
        return [slots]
    ranked = _by_rank(slots)
    complete = Counter(places([slot.plane for slot in slots]))
    full = [group for group in ranked if len(group) == len(complete)]
    last = ranked[len(full) :]
    # With one place there is no stack to recognise, and without numbers no order.
    is_ordered = len(complete) > 1 and _has_own_numbers(slots)
    if is_ordered and (len(full) == len(ranked) or (len(full) >= 2 and len(last) == 1)):
        found.notes.append("nothing but the instance number tells the frames apart: coils or phases may look like time")
    if is_ordered and len(full) == len(ranked):
        return ranked
    if is_ordered and len(full) >= 2 and len(last) == 1:
        text = f"the last time point has {len(last[0])} of {len(complete)} slices: the scan was stopped"
        found.aside.extend(_aside(slot, Reason.INCOMPLETE_FRAME, text) for slot in last[0])
        return full
    most = max(complete.values())
    twice = sum(count > 1 for count in complete.values())
    text = (
        f"{twice} of {len(complete)} places hold up to {most} different images, and nothing in the headers tells "
        "which belong together; remove the ones not wanted"
    )
    raise SeriesRefused(Reason.CONFLICTING_POSITIONS, text)


def _by_frame_marks(slots: list[Slot]) -> list[list[Slot]] | None:
    """Split by the marks of time and diffusion until every group is a volume; None if they don't suffice."""
    if _is_simple(slots):
        return [slots]
    for name in _FRAME_MARKS:
        groups = _by_mark(slots, name)
        if groups is None or not _cover_the_same(groups):
            continue
        parts = [_by_frame_marks(group) for _, group in _in_order(groups)]
        if all(part is not None for part in parts):
            return [group for part in parts if part is not None for group in part]
    return None


def _has_own_numbers(slots: list[Slot]) -> bool:
    """Whether the images of each place have an order: no two with the same numbers."""
    at = places([slot.plane for slot in slots])
    return len({(place, _order(slot)) for place, slot in zip(at, slots, strict=True)}) == len(slots)


def _by_rank(slots: list[Slot]) -> list[list[Slot]]:
    """The n-th image of every place, by instance number, makes the n-th frame."""
    at = places([slot.plane for slot in slots])
    order = sorted(range(len(slots)), key=lambda index: _order(slots[index]))
    seen: Counter[int] = Counter()
    ranked: list[list[Slot]] = []
    for index in order:
        rank = seen[at[index]]
        seen[at[index]] += 1
        if rank == len(ranked):
            ranked.append([])
        ranked[rank].append(slots[index])
    return ranked


def _without_equal_images(slots: list[Slot], found: Split) -> list[Slot]:
    """Leave out images that equal another one of their place, voxel for voxel, under a new identity."""
    at = places([slot.plane for slot in slots])
    crowded = {place for place, count in Counter(at).items() if count > 1}
    balanced = len(set(Counter(at).values())) == 1
    # Where every place holds equally many, one place is proof enough; else each crowded one has to be looked at.
    looked_at = {min(crowded)} if balanced else crowded
    chosen = [index for index in range(len(slots)) if at[index] in looked_at]
    digest = dict(zip(chosen, _digests([slots[index] for index in chosen]), strict=True))
    if len({(at[index], digest[index]) for index in chosen}) == len(chosen):
        return slots
    if balanced:
        chosen = list(range(len(slots)))
        digest = dict(zip(chosen, _digests(slots), strict=True))
    seen: set[tuple[int, bytes]] = set()
    kept = []
    for index, slot in enumerate(slots):
        key = (at[index], digest.get(index, b""))
        if index in digest and key in seen:
            found.aside.append(_aside(slot, Reason.DUPLICATE, "equals another image at its place, voxel for voxel"))
            continue
        seen.add(key)
        kept.append(slot)
    return kept


def _places(slots: list[Slot]) -> int:
    return len(set(places([slot.plane for slot in slots])))


def _is_simple(slots: list[Slot]) -> bool:
    return _places(slots) == len(slots)


def _cover_the_same(groups: dict[Key, list[Slot]]) -> bool:
    """Whether every group fills the same places, each equally often."""
    everything = [slot for group in groups.values() for slot in group]
    at = places([slot.plane for slot in everything])
    counts: list[Counter[int]] = []
    start = 0
    for group in groups.values():
        counts.append(Counter(at[start : start + len(group)]))
        start += len(group)
    first = set(counts[0])
    return all(set(count) == first and len(set(count.values())) == 1 for count in counts)


def _by_mark(slots: list[Slot], name: str) -> dict[Key, list[Slot]] | None:
    """Slots by the value of a mark; None if some lack it (but for a b-value's direction) or all agree."""
    groups: dict[Key, list[Slot]] = {}
    for slot in slots:
        value = _mark(slot, name)
        if value is None and name != "direction":
            return None
        groups.setdefault("" if value is None else value, []).append(slot)
    return groups if len(groups) > 1 else None


def _mark(slot: Slot, name: str) -> Key | None:
    if name == "file":
        # Every file of a multi-slice layout is a volume, or several, never a part of one.
        return slot.header.path if slot.header.layout is not Layout.CLASSIC else None
    for own, value in slot.plane.marks:
        if own == name:
            return value
    return None


def _in_order(groups: dict[Key, list[Slot]]) -> list[tuple[Key, list[Slot]]]:
    """Groups by value where it is a number, by first acquisition where it is a name."""
    numeric: Callable[[tuple[Key, list[Slot]]], tuple[float, tuple[float, ...]]] = lambda item: (  # noqa: E731
        (item[0] if isinstance(item[0], float | int) else 0.0),
        _when(item[1]),
    )
    return sorted(groups.items(), key=numeric)


def _volume_label(name: str, value: Key, number: int, groups: dict[Key, list[Slot]]) -> str:
    if name == "echo":
        return f"echo-{number}"
    if name == "type":
        mine = str(value).split("\\")
        others = [set(str(other).split("\\")) for other in groups if other != value]
        own = [part for part in mine if not all(part in other for other in others)]
        return "type-" + ("".join(c for c in "-".join(own).lower() if c.isalnum() or c == "-") or str(number))
    text = f"{value:g}" if isinstance(value, float) else "".join(c for c in str(value).lower() if c.isalnum())
    return f"{name}-{text or number}"


def _diffusion(slots: list[Slot]) -> tuple[float | None, tuple[float, ...] | None]:
    b_value, direction = _mark(slots[0], "b"), _mark(slots[0], "direction")
    vector = tuple(float(part) for part in direction.split()) if isinstance(direction, str) and direction else None
    return (float(b_value) if isinstance(b_value, float | int) else None), vector


def _when(slots: list[Slot]) -> tuple[float, ...]:
    return min(_order(slot) for slot in slots)


def _order(slot: Slot) -> tuple[float, ...]:
    header = slot.header
    temporal = _mark(slot, "temporal")
    return (
        float(temporal) if isinstance(temporal, float | int) else 0.0,
        float(header.instance_number if header.instance_number is not None else 0),
        header.time if header.time is not None else 0.0,
        float(slot.plane.index),
    )


def _aside(slot: Slot, reason: Reason, text: str, *, whole: bool = False) -> SetAside:
    single = whole or len(slot.header.planes) == 1
    return SetAside(slot.header.path, reason, text, slot.header.series_uid, None if single else slot.plane.index)
