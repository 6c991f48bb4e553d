"""DICOM in: files and folders to volumes, with a reason for everything that is not in one.

    report = find_series("/data/exam")
    for plan in report.series:
        volume = load(plan)

Series are found by their geometry, not by file names. ``docs/dicom.md`` says what is read and how.
"""

from __future__ import annotations

from medidiff.io.dicom.facts import AcquisitionFacts
from medidiff.io.dicom.load import find_series, iter_frames, load, probe_series, read_series, the_only
from medidiff.io.dicom.model import InstanceHeader, Layout, PixelFormat, Plane
from medidiff.io.dicom.plan import FramePlan, ReadPolicy, SeriesPlan, SeriesReport, Slot
from medidiff.io.dicom.reasons import Reason, SeriesRefused, SetAside, reference_of
from medidiff.io.dicom.scan import index

__all__ = [
    "AcquisitionFacts",
    "FramePlan",
    "InstanceHeader",
    "Layout",
    "PixelFormat",
    "Plane",
    "ReadPolicy",
    "Reason",
    "SeriesPlan",
    "SeriesRefused",
    "SeriesReport",
    "SetAside",
    "Slot",
    "find_series",
    "index",
    "iter_frames",
    "load",
    "probe_series",
    "read_series",
    "reference_of",
    "the_only",
]
