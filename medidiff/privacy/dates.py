"""Dates and times of DICOM, moved by one amount per patient.

Day and time of day move together as one instant, so the intervals between the scans of a patient stay what they were.
Precision is kept: "0931" stays hours and minutes. What is not a well-formed value gives None and is dropped.
"""

from __future__ import annotations

import re
from datetime import datetime, time, timedelta

_DA = re.compile(r"(\d{4})[.-]?(\d{2})[.-]?(\d{2})")
_TM = re.compile(r"(\d{2}):?(?:(\d{2}):?(?:(\d{2})(\.\d{1,6})?)?)?")
_DT = re.compile(r"(\d{4}(?:\d{2}){0,5})(\.\d{1,6})?(?:[+-]\d{4})?")
_DT_FORMATS = {4: "%Y", 6: "%Y%m", 8: "%Y%m%d", 10: "%Y%m%d%H", 12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S"}
_NOON = time(12)
# A day that never touches the ends of the calendar, for times that come without a date.
_SOME_DAY = datetime(2000, 6, 15)  # noqa: DTZ001 - DICOM times have no zone


def parse_date(text: str) -> datetime | None:
    """Midnight of a DA value, or None."""
    found = _DA.fullmatch(text.strip(" \0"))
    return _moment(*found.groups()) if found else None


def parse_time(text: str) -> tuple[time, int, str] | None:
    """A TM value as time to the second, number of parts (1 to 3), and the fraction with its dot; or None."""
    found = _TM.fullmatch(text.strip(" \0"))
    if not found:
        return None
    hour, minute, second, fraction = found.groups()
    # 60 is a leap second; it is the same instant as the next minute to within a second
    parts = 1 + (minute is not None) + (second is not None)
    try:
        return time(int(hour), int(minute or 0), min(int(second or 0), 59)), parts, fraction or ""
    except ValueError:
        return None


def shift_pair(date: str | None, clock: str | None, delta: timedelta) -> tuple[str | None, str | None]:
    """Move a DA value and the TM value that belongs to it; either may be missing.

    A date alone moves as its noon does, a time alone moves around the clock.
    """
    day = parse_date(date) if date else None
    parsed = parse_time(clock) if clock else None
    moment = datetime.combine((day or _SOME_DAY).date(), parsed[0] if parsed else _NOON)
    try:
        moved = moment + delta
    except OverflowError:
        return None, None
    new_clock = None
    if parsed:
        new_clock = moved.strftime("%H%M%S")[: 2 * parsed[1]] + parsed[2]
    return (f"{moved.year:04d}{moved:%m%d}" if day else None), new_clock


def shift_datetime(text: str, delta: timedelta) -> str | None:
    """Move a DT value; the zone offset is dropped, because it tells the place."""
    found = _DT.fullmatch(text.strip(" \0"))
    if not found:
        return None
    digits, fraction = found.groups()
    try:
        moved = datetime.strptime(digits.ljust(14, "0") if len(digits) >= 8 else digits, _full(digits)) + delta  # noqa: DTZ007
    except (ValueError, OverflowError):
        return None
    full = f"{moved.year:04d}{moved:%m%d%H%M%S}"
    return full[: len(digits)] + (fraction or "")


def shift_iso(text: str, delta: timedelta) -> str | None:
    """Move an ISO 8601 date, time or date-time of a sidecar (2021-09-17T09:31:41.5); None if it is none."""
    found = re.fullmatch(
        r"\s*(?:(\d{4}-\d{2}-\d{2})[T ])?(\d{1,2}:\d{2}:\d{2})(\.\d+)?(?:Z|[+-]\d{2}:?\d{2})?\s*", text
    )
    if found:
        day, clock, fraction = found.groups()
        new_day, new_clock = shift_pair(day, clock.rjust(8, "0"), delta)
        if new_clock is None or (day and new_day is None):
            return None
        clock_text = f"{new_clock[:2]}:{new_clock[2:4]}:{new_clock[4:6]}{fraction or ''}"
        return f"{new_day[:4]}-{new_day[4:6]}-{new_day[6:]}T{clock_text}" if new_day else clock_text
    new_day = shift_pair(text, None, delta)[0] if re.fullmatch(r"\d{4}-\d{2}-\d{2}", text.strip()) else None
    return f"{new_day[:4]}-{new_day[4:6]}-{new_day[6:]}" if new_day else None


def _full(digits: str) -> str:
    return _DT_FORMATS[14] if len(digits) >= 8 else _DT_FORMATS[len(digits)]


def _moment(year: str, month: str, day: str) -> datetime | None:
    try:
        return datetime(int(year), int(month), int(day))  # noqa: DTZ001
    except ValueError:
        return None
