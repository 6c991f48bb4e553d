"""What one plane says of itself: its place, its scaling, and what tells it from another plane at the same place."""

from __future__ import annotations

import math
from sys import intern

from medidiff.io.dicom import tags as t
from medidiff.io.dicom.model import Mark, Vector
from medidiff.io.dicom.reasons import Reason, SeriesRefused
from medidiff.io.dicom.values import Header, seconds_of

# A cosine is stored with about six digits; a direction this far from unit length is not a rounding.
UNIT_TOLERANCE = 1e-2
# Image axes this far from perpendicular are an error, not a rounding.
PERPENDICULAR_TOLERANCE = 5e-3
LARGEST_MM = 1e5
# Times a 32-bit number this is still a float32.
LARGEST_FACTOR = 1e25

_PHILIPS = "PHILIPS MR IMAGING DD 001"
_PHILIPS_IMAGING = "PHILIPS IMAGING DD 001"
_GE_PARAMETERS = "GEMS_PARM_01"
_GE_ACQUISITION = "GEMS_ACQU_01"
_SIEMENS = "SIEMENS MR HEADER"
_UIH = "IMAGE PRIVATE HEADER"
_GE_PARTS = {0: "M", 1: "P", 2: "R", 3: "I"}


def position(header: Header) -> Vector:
    """Image position, LPS mm.

    Raises:
        SeriesRefused: absent, or not three finite numbers.
    """
    x, y, z = _vector(header, t.IMAGE_POSITION, 3, "ImagePositionPatient")
    if max(abs(x), abs(y), abs(z)) > LARGEST_MM:
        raise SeriesRefused(Reason.INVALID_ATTRIBUTE, "ImagePositionPatient is more than 100 m away")
    return x, y, z


def orientation(header: Header) -> tuple[float, ...]:
    """Row and column direction, LPS, brought to unit length.

    Raises:
        SeriesRefused: absent, not six finite numbers, far from unit length, or not perpendicular.
    """
    values = _vector(header, t.IMAGE_ORIENTATION, 6, "ImageOrientationPatient")
    unit: list[float] = []
    for direction in (values[:3], values[3:]):
        length = math.sqrt(sum(x * x for x in direction))
        if abs(length - 1) > UNIT_TOLERANCE:
            text = f"ImageOrientationPatient holds a direction of length {length:.4g}, expected 1"
            raise SeriesRefused(Reason.INVALID_ATTRIBUTE, text)
        unit.extend(x / length for x in direction)
    cosine = sum(a * b for a, b in zip(unit[:3], unit[3:], strict=True))
    if abs(cosine) > PERPENDICULAR_TOLERANCE:
        angle = math.degrees(math.acos(max(-1.0, min(1.0, cosine))))
        raise SeriesRefused(Reason.SKEWED_PLANE, f"rows and columns meet at {angle:.2f} degrees, expected 90")
    return tuple(unit)


def pixel_spacing(header: Header) -> tuple[float, float]:
    """Distance between rows and between columns, mm.

    Raises:
        SeriesRefused: absent, not two finite numbers, or not positive.
    """
    rows, columns = _vector(header, t.PIXEL_SPACING, 2, "PixelSpacing")
    if not (1e-4 < rows < 1e3 and 1e-4 < columns < 1e3):
        raise SeriesRefused(Reason.INVALID_ATTRIBUTE, f"PixelSpacing is {rows:g} x {columns:g} mm")
    return rows, columns


def _vector(header: Header, tag: int, size: int, keyword: str) -> tuple[float, ...]:
    if not header.raw(tag).strip(b" \0"):
        raise SeriesRefused(Reason.MISSING_ATTRIBUTE, f"{keyword} is absent")
    values = header.vector(tag, size)
    if values is None:
        raise SeriesRefused(Reason.INVALID_ATTRIBUTE, f"{keyword} is not {size} finite numbers")
    return values


def scaling(header: Header) -> tuple[float, float]:
    """Slope and intercept from stored number to physical value.

    Philips scales each image of a series by its own slope for display; the comparable number is
    (slope * stored + intercept) / (slope * scale slope), with the private (2005,100E).

    Source: Chenevert et al. (2014), Errors in quantitative image analysis due to platform-dependent image scaling.
    Raises:
        SeriesRefused: the slope is zero, or a value is not a number.
    """
    slope, intercept = _factor(header, t.RESCALE_SLOPE, 1.0), _factor(header, t.RESCALE_INTERCEPT, 0.0)
    if slope == 0:
        raise SeriesRefused(Reason.BAD_SCALING, "RescaleSlope is 0: all voxels would be equal")
    block = header.private(0x2005, _PHILIPS)
    scale = header.number(block | 0x0E, "FL") if block is not None else None
    if scale is not None and scale > 0:
        return checked(1.0 / scale, intercept / (slope * scale))
    if t.RESCALE_SLOPE not in header:
        return checked(*(_real_world(header) or (slope, intercept)))
    return checked(slope, intercept)


def checked(slope: float, intercept: float) -> tuple[float, float]:
    """A scaling whose values fit into float32.

    Raises:
        SeriesRefused: they would overflow, or all vanish.
    """
    if not 1.0 / LARGEST_FACTOR < abs(slope) < LARGEST_FACTOR or abs(intercept) > LARGEST_FACTOR:
        raise SeriesRefused(Reason.BAD_SCALING, f"a scaling by {slope:.3g} and {intercept:.3g} is beyond any scanner")
    return slope, intercept


def _factor(header: Header, tag: int, default: float) -> float:
    if not header.raw(tag).strip(b" \0"):
        return default
    value = header.number(tag)
    if value is None:
        raise SeriesRefused(Reason.BAD_SCALING, "a rescale slope or intercept that is not a finite number")
    return value


def _real_world(header: Header) -> tuple[float, float] | None:
    """A single linear real world value mapping, used only where there is no rescale slope."""
    items = header.items(t.REAL_WORLD_MAPPING)
    if len(items) != 1:
        return None
    slope, intercept = items[0].number(t.REAL_WORLD_SLOPE, "FD"), items[0].number(t.REAL_WORLD_INTERCEPT, "FD")
    return (slope, intercept or 0.0) if slope else None


def of_classic(header: Header, image_type: tuple[str, ...]) -> tuple[Mark, ...]:
    """Marks of a classic object, those that make another kind of image first."""
    found: list[Mark] = []
    part = header.text(t.COMPLEX_COMPONENT).upper() or _ge_part(header)
    add_mark(found, "type", "\\".join(image_type))
    add_mark(found, "part", part)
    add_mark(found, "echo", header.number(t.ECHO_TIME))
    add_mark(found, "inversion", header.number(t.INVERSION_TIME))
    add_mark(found, "flip", header.number(t.FLIP_ANGLE))
    add_mark(found, "kernel", header.text(t.CONVOLUTION_KERNEL))
    add_mark(found, "kvp", header.number(t.KVP))
    b_value, direction = diffusion(header)
    add_mark(found, "b", b_value)
    add_mark(found, "direction", "" if direction is None else " ".join(f"{x:.4f}" for x in direction))
    add_mark(found, "temporal", header.number(t.TEMPORAL_POSITION, "IS"))
    add_mark(found, "trigger", header.number(t.TRIGGER_TIME))
    add_mark(found, "location", header.number(t.SLICE_LOCATION))
    add_mark(found, "offset", header.number(t.FRAME_REFERENCE_TIME))
    add_mark(found, "acquisition", header.number(t.ACQUISITION_NUMBER, "IS"))
    add_mark(found, "time", seconds_of(header.text(t.ACQUISITION_TIME)))
    return tuple(found)


def add_mark(found: list[Mark], name: str, value: float | str | None) -> None:
    if value is not None and value != "":
        found.append((name, intern(value) if isinstance(value, str) else value))


def _ge_part(header: Header) -> str:
    block = header.private(0x0043, _GE_PARAMETERS)
    kind = header.integer(block | 0x2F, "SS") if block is not None else None
    return _GE_PARTS.get(kind, "") if kind is not None else ""


def diffusion(header: Header) -> tuple[float | None, tuple[float, ...] | None]:
    """b-value in s/mm2 and gradient direction, from the standard's tags or the vendor's.

    The direction is as stored: LPS, but for United Imaging (row, column, normal of the image) and GE (frequency, phase,
    slice). Whoever writes a gradient table turns it first.
    """
    b_value, direction = header.number(t.B_VALUE, "FD"), header.vector(t.DIFFUSION_DIRECTION, 3, "FD")
    if b_value is not None:
        return b_value, direction
    siemens = header.private(0x0019, _SIEMENS)
    if siemens is not None and siemens | 0x0C in header:
        return header.number(siemens | 0x0C, "IS"), header.vector(siemens | 0x0E, 3, "FD")
    philips = header.private(0x2001, _PHILIPS_IMAGING)
    if philips is not None and philips | 0x03 in header:
        direction = _three(header, header.private(0x2005, _PHILIPS), (0xB0, 0xB1, 0xB2), "FL")
        return header.number(philips | 0x03, "FL"), direction
    general = header.private(0x0043, _GE_PARAMETERS)
    if general is not None and general | 0x39 in header:
        b_value = header.number(general | 0x39, "IS")
        # GE adds 1e9 to the b-value of some sequences.
        b_value = b_value % 1e6 if b_value is not None and b_value >= 1e6 else b_value
        return b_value, _three(header, header.private(0x0019, _GE_ACQUISITION), (0xBB, 0xBC, 0xBD), "DS")
    united = header.private(0x0065, _UIH)
    if united is not None and united | 0x09 in header:
        return header.number(united | 0x09, "FD"), header.vector(united | 0x37, 3, "FD")
    return None, None


def _three(header: Header, block: int | None, elements: tuple[int, int, int], vr: str) -> tuple[float, ...] | None:
    if block is None:
        return None
    values = tuple(header.number(block | element, vr) for element in elements)
    return None if None in values else tuple(value for value in values if value is not None)
