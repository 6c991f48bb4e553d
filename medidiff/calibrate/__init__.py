"""The use case *calibrate*: fine scans in, intervals that hold out."""

from medidiff.calibrate.options import CalibrateOptions, CalibrateResult, StratumReport
from medidiff.calibrate.people import check_people, split_people
from medidiff.calibrate.trials import Restored, fine_scan, restored, slice_operator
from medidiff.calibrate.use_case import calibrate

__all__ = [
    "CalibrateOptions",
    "CalibrateResult",
    "Restored",
    "StratumReport",
    "calibrate",
    "check_people",
    "fine_scan",
    "restored",
    "slice_operator",
    "split_people",
]
