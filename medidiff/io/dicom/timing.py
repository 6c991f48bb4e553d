"""When each slice of a time series was acquired, where a vendor keeps it outside of mosaics and grids.

Enhanced objects state a date and time a frame. Siemens' single slices have their own acquisition time, or (XA) the time
after the start. GE keeps a timer a slice (RTIA, 0.1 ms), in some sequences a trigger time (ms), and else only the order
of its slices, in a compressed text (the protocol data block).

Source: how these are kept is described in dcm2niix' pages on GE and Siemens; its reference values are compared in
``tests/io/test_dicom_reference.py``.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable

from medidiff.io.dicom.facts import AcquisitionFacts
from medidiff.io.dicom.model import Layout
from medidiff.io.dicom.plan import FramePlan, Slot
from medidiff.io.dicom.reasons import SeriesRefused
from medidiff.io.dicom.source import open_dataset
from medidiff.io.dicom.values import Header

_LONGEST_PROTOCOL = 1 << 20
_RTIA_PER_SECOND = 1e4
Times = tuple[float, ...]


def slice_times(frame: FramePlan, facts: AcquisitionFacts) -> Times:
    """Start of each slice of a frame, s after the first, in order of k; empty if nothing says it for certain.

    Args:
        frame: Of a time series, its slots in order of k.
        facts: Of its first file.
    """
    slots = frame.slots
    repetition = facts.repetition_time
    if len(slots) < 2 or repetition is None or not _is_planar(facts):
        return ()
    vendor = (facts.manufacturer or "").upper()
    ways: list[Callable[[], Times]] = []
    if slots[0].header.layout is Layout.ENHANCED or vendor.startswith("SIEMENS"):
        ways.append(lambda: _marked(slots, "time", 1.0))
    if vendor.startswith("SIEMENS"):
        ways.append(lambda: _of_files(slots, _time_after_start))
    if vendor.startswith("GE"):
        ways += [lambda: _of_files(slots, _rtia), lambda: _of_ge_protocol(slots, repetition)]
    for way in ways:
        times = way()
        # Times beyond a repetition are those of another clock, or of another frame.
        if len(set(times)) > 1 and max(times) - min(times) < repetition:
            first = min(times)
            return tuple(round(time - first, 6) for time in times)
    return ()


def _is_planar(facts: AcquisitionFacts) -> bool:
    """A 3D acquisition has no time for a slice."""
    echo_planar = "EP" in (facts.scanning_sequence or "").upper().split("\\")
    return facts.mr_acquisition_type == "2D" or (facts.mr_acquisition_type is None and echo_planar)


def _marked(slots: tuple[Slot, ...], name: str, unit: float) -> Times:
    values = [dict(slot.plane.marks).get(name) for slot in slots]
    return tuple(value * unit for value in values if isinstance(value, float)) if _all_numbers(values) else ()


def _all_numbers(values: list[float | str | None]) -> bool:
    return all(isinstance(value, float) for value in values)


def _of_files(slots: tuple[Slot, ...], read: Callable[[Header], float | None]) -> Times:
    """A number from each slice's own header."""
    times = []
    for slot in slots:
        header = _header(slot)
        time = None if header is None else read(header)
        if time is None:
            return ()
        times.append(time)
    return tuple(times)


def _header(slot: Slot) -> Header | None:
    if slot.header.layout is not Layout.CLASSIC:
        return None
    try:
        dataset, stream = open_dataset(slot.header.path)
    except (SeriesRefused, OSError):
        return None
    except Exception:  # noqa: BLE001 - as in read_header: pydicom leaks many types, and times are an extra
        return None
    stream.close()
    return Header(dataset)


def _time_after_start(header: Header) -> float | None:
    block = header.private(0x0021, "SIEMENS MR SDI 02")
    return None if block is None else header.number(block | 0x04)


def _rtia(header: Header) -> float | None:
    block = header.private(0x0021, "GEMS_RELA_01")
    timer = None if block is None else header.number(block | 0x5E)
    return None if timer is None else timer / _RTIA_PER_SECOND


def _of_ge_protocol(slots: tuple[Slot, ...], repetition: float) -> Times:
    """Times from the order of slices, which were spread over the whole repetition.

    With several bands at once the order depends on the software's version, and with a delay between volumes on what the
    delay counts from: then nothing is said.
    """
    header = _header(slots[0])
    if header is None:
        return ()
    protocol = _ge_protocol(header)
    if protocol.get("SLICEORDER") not in ("0", "1") or _number(protocol, "MBACCEL", 1) > 1:
        return ()
    if _number(protocol, "DELACQ", 0) or _number(protocol, "NOSLC", len(slots)) != len(slots):
        return ()
    if any(_marked(slots, "b", 1.0)):
        return ()  # diffusion shuffles its slices over repetitions to keep the gradients cool
    numbers = [slot.header.instance_number for slot in slots]
    if None in numbers:
        return ()
    ascending = sorted(n for n in numbers if n is not None)
    if numbers not in (ascending, ascending[::-1]):
        return ()
    count = len(slots)
    places = [*range(0, count, 2), *range(1, count, 2)] if protocol["SLICEORDER"] == "1" else list(range(count))
    turn = {place: at for at, place in enumerate(places)}
    times = [turn[place] * repetition / count for place in range(count)]
    return tuple(times if numbers == ascending else times[::-1])


def _ge_protocol(header: Header) -> dict[str, str]:
    """The protocol data block as key to value; empty if absent or damaged."""
    block = header.private(0x0025, "GEMS_SERS_01")
    raw = header.raw(block | 0x1B) if block is not None else b""
    at = raw.find(b"\x1f\x8b", 0, 16)
    if at < 0:
        return {}
    try:
        text = zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(raw[at:], _LONGEST_PROTOCOL)
    except zlib.error:
        return {}
    return dict(re.findall(r'^(?:set )?(\w+) "([^"\n]*)"', text.decode("latin-1"), re.MULTILINE))


def _number(protocol: dict[str, str], key: str, default: float) -> float:
    """A number of the protocol; nothing that can be relied on (NaN) if a word stands there."""
    try:
        return float(protocol.get(key) or default)
    except ValueError:
        return float("nan")
