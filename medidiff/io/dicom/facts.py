"""Facts of the acquisition that downstream needs, read before private tags are dropped. No identifier is among them."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from medidiff.io.dicom import tags as t
from medidiff.io.dicom.tiles import csa_image_header, csa_numbers, grid_times
from medidiff.io.dicom.values import Header


@dataclass(frozen=True, slots=True)
class AcquisitionFacts:
    """Acquisition parameters in BIDS' words and units (s, mm, T, degrees); None where the files don't say.

    Args:
        phase_encoding_direction: Voxel axis and sign in the grid as read, ``"i"``, ``"j-"``; the bare axis is never
            given without its sign, for that is half of the truth.
        phase_encoding_axis: The voxel axis, where the sign is not known either.
        slice_timing: Start of each slice's acquisition in a frame, s, in order of k.
    """

    modality: str | None = None
    manufacturer: str | None = None
    manufacturers_model_name: str | None = None
    magnetic_field_strength: float | None = None
    body_part: str | None = None
    patient_position: str | None = None
    mr_acquisition_type: str | None = None
    scanning_sequence: str | None = None
    sequence_variant: str | None = None
    scan_options: str | None = None
    sequence_name: str | None = None
    image_type: tuple[str, ...] = ()
    repetition_time: float | None = None
    echo_time: float | None = None
    inversion_time: float | None = None
    flip_angle: float | None = None
    echo_train_length: float | None = None
    pixel_bandwidth: float | None = None
    slice_thickness: float | None = None
    spacing_between_slices: float | None = None
    phase_encoding_direction: str | None = None
    phase_encoding_axis: str | None = None
    effective_echo_spacing: float | None = None
    total_readout_time: float | None = None
    slice_timing: tuple[float, ...] = ()
    kvp: float | None = None
    convolution_kernel: str | None = None
    gantry_tilt: float | None = None
    pixel_padding: float | None = None

    def to_bids(self) -> dict[str, Any]:
        """The fields that are known, under their BIDS names."""
        named: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if value is None or value == ():
                continue
            named[_BIDS.get(field.name, _camel(field.name))] = list(value) if isinstance(value, tuple) else value
        return named


_BIDS = {
    "body_part": "BodyPartExamined",
    "mr_acquisition_type": "MRAcquisitionType",
    "kvp": "XRayTubeVoltage",
    "phase_encoding_axis": "PhaseEncodingAxis",
    "pixel_padding": "PixelPaddingValue",
}


def _camel(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("_"))


def read_facts(header: Header, rows: int, columns: int) -> AcquisitionFacts:
    """The facts of one object.

    Args:
        header: Its header.
        rows, columns: Size of one plane: of a tile for a mosaic.
    """
    frame = _frame_header(header)
    csa = csa_image_header(header)
    axis = {"ROW": "i", "COL": "j", "COLUMN": "j"}.get(_text(header, frame, t.PHASE_ENCODING) or "")
    sign = _phase_sign(header, csa)
    lines = columns if axis == "i" else rows
    spacing = _echo_spacing(header, csa, lines)
    kernel = header.texts(t.CONVOLUTION_KERNEL)
    return AcquisitionFacts(
        modality=header.text(t.MODALITY) or None,
        manufacturer=header.text(t.MANUFACTURER) or None,
        manufacturers_model_name=header.text(t.MODEL_NAME) or None,
        magnetic_field_strength=header.number(t.MAGNETIC_FIELD_STRENGTH),
        body_part=header.text(t.BODY_PART) or None,
        patient_position=header.text(t.PATIENT_POSITION) or None,
        mr_acquisition_type=header.text(t.MR_ACQUISITION_TYPE) or None,
        scanning_sequence=header.text(t.SCANNING_SEQUENCE) or None,
        sequence_variant=header.text(t.SEQUENCE_VARIANT) or None,
        scan_options=header.text(t.SCAN_OPTIONS) or None,
        sequence_name=header.text(t.SEQUENCE_NAME) or None,
        image_type=header.texts(t.IMAGE_TYPE),
        repetition_time=_seconds(header, frame, t.REPETITION_TIME),
        echo_time=_seconds(header, frame, t.ECHO_TIME, t.EFFECTIVE_ECHO_TIME),
        inversion_time=_seconds(header, frame, t.INVERSION_TIME, t.INVERSION_TIMES),
        flip_angle=_number(header, frame, t.FLIP_ANGLE),
        echo_train_length=_number(header, frame, t.ECHO_TRAIN_LENGTH, vr="IS"),
        pixel_bandwidth=_number(header, frame, t.PIXEL_BANDWIDTH),
        slice_thickness=_number(header, frame, t.SLICE_THICKNESS),
        spacing_between_slices=_number(header, frame, t.SPACING_BETWEEN_SLICES),
        phase_encoding_direction=f"{axis}{sign}" if axis is not None and sign is not None else None,
        phase_encoding_axis=axis,
        effective_echo_spacing=spacing,
        total_readout_time=None if spacing is None else spacing * (lines - 1),
        slice_timing=_slice_timing(header, csa),
        kvp=header.number(t.KVP),
        convolution_kernel=kernel[0] if kernel else None,
        gantry_tilt=header.number(t.GANTRY_TILT),
        pixel_padding=_padding(header),
    )


def _frame_header(header: Header) -> list[Header]:
    """The functional group items of an enhanced object's first frame, each a place to look in."""
    found: list[Header] = []
    per_frame = header.items(t.PER_FRAME_GROUPS)
    shared = header.item(t.SHARED_GROUPS)
    for level in [*per_frame[:1], *([shared] if shared is not None else [])]:
        for sequence in (
            t.MR_TIMING_GROUP,
            t.MR_ECHO_GROUP,
            t.MR_MODIFIER_GROUP,
            t.MR_FOV_GROUP,
            t.PIXEL_MEASURES_GROUP,
        ):
            item = level.item(sequence)
            if item is not None:
                found.append(item)
    return found


def _text(header: Header, frame: list[Header], tag: int) -> str | None:
    for place in [header, *frame]:
        text = place.text(tag)
        if text:
            return text.upper()
    return None


def _number(header: Header, frame: list[Header], *tags: int, vr: str = "DS") -> float | None:
    for place in [header, *frame]:
        for tag in tags:
            value = place.number(tag, "FD" if tag in (t.EFFECTIVE_ECHO_TIME, t.INVERSION_TIMES) else vr)
            if value is not None:
                return value
    return None


def _seconds(header: Header, frame: list[Header], *tags: int) -> float | None:
    milliseconds = _number(header, frame, *tags)
    return None if milliseconds is None else milliseconds / 1000


def _phase_sign(header: Header, csa: dict[str, list[Any]]) -> str | None:
    """``""`` if phase runs with the voxel index, ``"-"`` if against it, None if the vendor does not say."""
    stated = csa_numbers(csa, "PhaseEncodingDirectionPositive")
    if stated:
        return "" if stated[0] == 1 else "-"
    block = header.private(0x0021, "SIEMENS MR SDI 02")
    positive = header.integer(block | 0x1C, "IS") if block is not None else None
    if positive is not None:
        return "" if positive == 1 else "-"
    order = header.text(t.PHASE_ENCODING_STEPS_ORDER).upper()
    if header.text(t.MANUFACTURER).upper().startswith("GE") and order in ("LINEAR", "REVERSE_LINEAR"):
        return "" if order == "LINEAR" else "-"
    return None


def _echo_spacing(header: Header, csa: dict[str, list[Any]], lines: int) -> float | None:
    """Effective echo spacing, s: Siemens states the bandwidth per pixel in phase direction, GE the spacing itself."""
    bandwidth = csa_numbers(csa, "BandwidthPerPixelPhaseEncode")
    if not bandwidth:
        block = header.private(0x0019, "SIEMENS MR HEADER")
        bandwidth = header.numbers(block | 0x28, "FD") if block is not None else ()
    if bandwidth and bandwidth[0] > 0 and lines > 1:
        return 1.0 / (bandwidth[0] * lines)
    general = header.private(0x0043, "GEMS_PARM_01")
    microseconds = header.number(general | 0x2C, "SS") if general is not None else None
    if general is None or microseconds is None or microseconds <= 0:
        return None
    acceleration = header.number(general | 0x83) or 1.0
    return microseconds * 1e-6 * (acceleration if 0 < acceleration <= 1 else 1.0)


def _slice_timing(header: Header, csa: dict[str, list[Any]]) -> tuple[float, ...]:
    """Start of each tile of a mosaic or grid, s after the first, in order of the tiles."""
    times = csa_numbers(csa, "MosaicRefAcqTimes")
    if not times:
        block = header.private(0x0019, "SIEMENS MR HEADER")
        times = header.numbers(block | 0x29, "FD") if block is not None else ()
    seconds = tuple(time / 1000 for time in times) or grid_times(header)
    first = min(seconds, default=0.0)
    return tuple(round(time - first, 6) for time in seconds)


def _padding(header: Header) -> float | None:
    signed = header.integer(t.PIXEL_REPRESENTATION) == 1
    return header.number(t.PIXEL_PADDING, "SS" if signed else "US")
