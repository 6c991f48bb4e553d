"""Enhanced multi-frame objects (MR, CT, PET, parametric map): a plane a frame, from the functional groups."""

from __future__ import annotations

from sys import intern

from medidiff.io.dicom import marks
from medidiff.io.dicom import tags as t
from medidiff.io.dicom.model import Mark, PixelFormat, Plane
from medidiff.io.dicom.reasons import Reason, SeriesRefused
from medidiff.io.dicom.values import Header, seconds_of

# Philips keeps the classic attributes of each frame in this private sequence, the scale slope among them.
_PHILIPS_FRAME = 0x2005140F


class _Groups:
    """One frame's functional groups: its own first, then those it shares, then the object itself."""

    def __init__(self, frame: Header | None, shared: Header | None, root: Header) -> None:
        self._levels = [level for level in (frame, shared) if level is not None]
        self._cache: dict[int, Header | None] = {}
        self.root = root

    def get(self, sequence: int) -> Header | None:
        for level in self._levels:
            if sequence in level:
                found = level.item(sequence)
                if found is not None:
                    return found
        return None

    def holder(self, sequence: int, tag: int) -> Header:
        """The item of a group that holds ``tag``, or the object itself, where some writers put it."""
        found = self.get(sequence)
        return found if found is not None and tag in found else self.root


def planes(root: Header, pixels: PixelFormat, image_type: tuple[str, ...]) -> tuple[Plane, ...]:
    """The planes of an enhanced object in order of its frames.

    Raises:
        SeriesRefused: fewer frames are described than declared, or one lacks its place or has a bad scaling.
    """
    shared = root.item(t.SHARED_GROUPS)
    frames: list[Header | None] = list(root.items(t.PER_FRAME_GROUPS))
    if not frames and pixels.frames == 1:
        frames = [None]
    if len(frames) < pixels.frames:
        text = f"{pixels.frames} frames declared, {len(frames)} described in the functional groups"
        raise SeriesRefused(Reason.NO_GEOMETRY, text)
    return tuple(
        _plane(index, _Groups(frame, shared, root), image_type) for index, frame in enumerate(frames[: pixels.frames])
    )


def _plane(index: int, groups: _Groups, image_type: tuple[str, ...]) -> Plane:
    measures = groups.holder(t.PIXEL_MEASURES_GROUP, t.PIXEL_SPACING)
    slope, intercept = _scaling(groups)
    content = groups.get(t.FRAME_CONTENT_GROUP)
    thickness = measures.number(t.SLICE_THICKNESS)
    gap = measures.number(t.SPACING_BETWEEN_SLICES)
    return Plane(
        index=index,
        position=marks.position(groups.holder(t.PLANE_POSITION_GROUP, t.IMAGE_POSITION)),
        orientation=marks.orientation(groups.holder(t.PLANE_ORIENTATION_GROUP, t.IMAGE_ORIENTATION)),
        spacing=marks.pixel_spacing(measures),
        thickness=groups.root.number(t.SLICE_THICKNESS) if thickness is None else thickness,
        gap=groups.root.number(t.SPACING_BETWEEN_SLICES) if gap is None else gap,
        slope=slope,
        intercept=intercept,
        stack=intern(content.text(t.STACK_ID)) if content is not None else "",
        marks=_marks(groups, content, image_type),
    )


def _scaling(groups: _Groups) -> tuple[float, float]:
    private = groups.get(_PHILIPS_FRAME)
    if private is not None:
        block = private.private(0x2005, "PHILIPS MR IMAGING DD 001")
        if block is not None and (private.number(block | 0x0E, "FL") or 0) > 0 and t.RESCALE_SLOPE in private:
            return marks.scaling(private)
    transformation = groups.get(t.VALUE_TRANSFORMATION_GROUP)
    if transformation is not None:
        return marks.scaling(transformation)
    mapping = groups.get(t.REAL_WORLD_MAPPING)
    if mapping is not None and t.RESCALE_SLOPE not in groups.root:
        slope, intercept = mapping.number(t.REAL_WORLD_SLOPE, "FD"), mapping.number(t.REAL_WORLD_INTERCEPT, "FD")
        if slope:
            return marks.checked(slope, intercept or 0.0)
    return marks.scaling(groups.root)


def _marks(groups: _Groups, content: Header | None, image_type: tuple[str, ...]) -> tuple[Mark, ...]:
    found: list[Mark] = []
    frame_type = groups.get(t.MR_FRAME_TYPE_GROUP) or groups.get(t.CT_FRAME_TYPE_GROUP)
    kinds = frame_type.texts(t.FRAME_TYPE) if frame_type is not None else ()
    part = frame_type.text(t.COMPLEX_COMPONENT).upper() if frame_type is not None else ""
    add = marks.add_mark
    private = groups.get(_PHILIPS_FRAME)
    detailed = private.texts(t.IMAGE_TYPE) if private is not None else ()
    add(found, "type", "\\".join(detailed or kinds or image_type).upper())
    add(found, "part", part or groups.root.text(t.COMPLEX_COMPONENT).upper())
    add(found, "echo", _number(groups, t.MR_ECHO_GROUP, t.EFFECTIVE_ECHO_TIME, "FD"))
    add(found, "inversion", _number(groups, t.MR_MODIFIER_GROUP, t.INVERSION_TIMES, "FD"))
    add(found, "flip", _number(groups, t.MR_TIMING_GROUP, t.FLIP_ANGLE, "DS"))
    diffusion = groups.get(t.MR_DIFFUSION_GROUP)
    if diffusion is not None:
        add(found, "b", diffusion.number(t.B_VALUE, "FD"))
        direction = diffusion.item(t.DIFFUSION_DIRECTION_GROUP)
        vector = direction.vector(t.DIFFUSION_DIRECTION, 3, "FD") if direction is not None else None
        add(found, "direction", "" if vector is None else " ".join(f"{x:.4f}" for x in vector))
    if content is not None:
        add(found, "temporal", content.number(t.TEMPORAL_POSITION_INDEX, "UL"))
    add(found, "offset", _number(groups, t.TEMPORAL_GROUP, t.TEMPORAL_OFFSET, "FD"))
    add(found, "trigger", _number(groups, t.CARDIAC_GROUP, t.NOMINAL_TRIGGER_DELAY, "FD"))
    add(found, "acquisition", groups.root.number(t.ACQUISITION_NUMBER, "IS"))
    if content is not None:
        add(found, "time", seconds_of(content.text(t.FRAME_ACQUISITION_DATETIME)))
    return tuple(found)


def _number(groups: _Groups, sequence: int, tag: int, vr: str) -> float | None:
    group = groups.get(sequence)
    return group.number(tag, vr) if group is not None else None
