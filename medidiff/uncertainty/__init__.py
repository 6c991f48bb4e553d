"""How sure a result is: half-widths of intervals, calibrated on people whose truth is known."""

from medidiff.uncertainty.calibration import (
    Calibration,
    NotCalibratedError,
    Stratum,
    beside_model,
    load_calibration,
    save_calibration,
)
from medidiff.uncertainty.clues import Seen
from medidiff.uncertainty.conformal import missed_shares, smallest_count, smallest_multiplier
from medidiff.uncertainty.scale import ErrorScale, fit_scale, observe

__all__ = [
    "Calibration", "ErrorScale", "NotCalibratedError", "Seen", "Stratum", "beside_model", "fit_scale",
    "load_calibration", "missed_shares", "observe", "save_calibration", "smallest_count", "smallest_multiplier",
]  # fmt: skip
