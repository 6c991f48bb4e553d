"""What a user may choose about a reconstruction; mistakes are told before anything is read."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from medidiff.errors import ConfigError
from medidiff.models import find_model, read_info

Mode = Literal["mean", "sample"]
# No scanner's field of view is wider, no slice thicker.
LARGEST_MM = 1000.0
MOST_SAMPLES = 1000


@dataclass(frozen=True, slots=True)
class ReconstructOptions:
    """What a user may choose.

    Args:
        model: Name of a shipped model, or a file.
        spacing: Wanted voxel distance, mm; by default the in-plane spacing.
        thickness: Slice thickness, mm; by default what the header says, else slices touch.
        profile: Form of the slice profile, ``"box"``, ``"gaussian"``, or a CSV file of offsets in mm and weights.
        operator: A file that says what was done to the scan (``kind: operator``); everything else is then in there.
        motion: Find out how the head moved between slices, and undo it.
        shots: Slices were taken in so many interleaved shots, each of a head at rest; 0 for each slice by itself.
        samples: Posterior samples beside the mean.
        steps: Network evaluations a sample.
        seed: For samples; a fresh one is drawn and recorded if there is none.
        device: ``"cpu"``, ``"cuda"``; by default CUDA where there is one.
        fast: No network: the classical answer alone.
        preview: Where to write a picture.
        report: Where to write an HTML page.
        inpaint: A mask of voxels to fill (1 = missing) on the scan's grid; the slices are then left as they are.
        denoise: Take noise out; the slices are then left as they are.
        noise_std: Standard deviation of that noise, physical units; estimated if None.
        mode: ``"mean"``, closest to the truth on average, or ``"sample"``, one of the scans that it may have been.
        interval: Also write the half-width of a calibrated interval at each voxel, where a calibration fits.
        calibration: Take this one instead of that beside the model.
        provenance: Also write the part of the result that no measurement fixes.
    """

    model: str | None = None
    spacing: float | None = None
    thickness: float | None = None
    profile: str = "box"
    operator: Path | None = None
    motion: bool = False
    shots: int = 0
    samples: int = 0
    steps: int = 8
    seed: int | None = None
    device: str | None = None
    fast: bool = False
    preview: Path | None = None
    report: Path | None = None
    inpaint: Path | None = None
    denoise: bool = False
    noise_std: float | None = None
    mode: Mode = "mean"
    interval: bool = False
    calibration: Path | None = None
    provenance: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.samples <= MOST_SAMPLES or not 1 <= self.steps <= 1000:
            found = f"{self.samples} and {self.steps}"
            raise ConfigError(f"--samples must be 0 to {MOST_SAMPLES} and --steps 1 to 1000, got {found}")
        for name, value in (("--spacing", self.spacing), ("--thickness", self.thickness)):
            if value is not None and not 0 < value <= LARGEST_MM:
                raise ConfigError(f"{name} must be a number of mm above 0 and up to {LARGEST_MM:g}, got {value:g}")
        if self.seed is not None and not 0 <= self.seed < 2**63:
            raise ConfigError(f"--seed must be a whole number from 0 to 2^63 - 1, got {self.seed}")
        if self.device is not None and not re.fullmatch(r"cpu|cuda(:\d+)?", self.device):
            raise ConfigError(f"--device must be cpu, cuda or cuda:N, got {self.device!r}")
        if self.inpaint is not None and self.denoise:
            raise ConfigError("--inpaint and --denoise are two jobs: do one, then the other with its result")
        if self.repairs and (self.spacing is not None or self.thickness is not None):
            raise ConfigError("--inpaint and --denoise keep the grid: --spacing and --thickness are for slices")
        if self.noise_std is not None and not (self.denoise and 0 < self.noise_std < math.inf):
            raise ConfigError("--noise-std is a positive number, and goes with --denoise")
        if self.profile not in ("box", "gaussian") and not self.profile.lower().endswith(".csv"):
            raise ConfigError(f"--profile is box, gaussian or a CSV file, got {self.profile!r}")
        if self.operator is not None and (self.repairs or self.spacing or self.thickness or self.profile != "box"):
            raise ConfigError("--operator says everything about the scan: leave out other options about it")
        self._check_motion()
        self._check_certainty()
        if self.fast and (self.model is not None or self.samples or self.repairs):
            raise ConfigError(
                "--fast uses no network: it goes with neither --model, --samples, --inpaint nor --denoise"
            )

    def _check_motion(self) -> None:
        if self.motion and (self.operator is not None or self.repairs):
            raise ConfigError("--motion is for slices: it goes with neither --operator, --inpaint nor --denoise")
        if self.shots and not (self.motion and self.shots > 1):
            raise ConfigError(f"--shots goes with --motion and is 2 or more, got {self.shots}")

    def _check_certainty(self) -> None:
        if self.mode not in ("mean", "sample"):
            raise ConfigError(f"--mode is mean or sample, got {self.mode!r}")
        if self.wants_interval and self.mode == "sample":
            raise ConfigError("--interval lies around the mean: leave out --mode sample")
        if self.fast and (self.wants_interval or self.mode == "sample"):
            raise ConfigError("--fast uses no network: it goes with neither --interval nor --mode sample")

    @property
    def wants_interval(self) -> bool:
        """Whether an interval was asked for; who names a calibration asks for one."""
        return self.interval or self.calibration is not None

    @property
    def draws(self) -> int:
        """Posterior samples to draw: those beside the result, and the result itself where it is one."""
        return max(self.samples, 1) if self.mode == "sample" else self.samples

    @property
    def repairs(self) -> bool:
        """The scan is repaired on its own grid, instead of restoring what lies between slices."""
        return self.denoise or self.inpaint is not None

    def check_model(self) -> None:
        """Tell a wrong model before a scan is read.

        Raises:
            CheckpointError: there is no such model, or the file is none.
        """
        if self.model is not None:
            read_info(find_model(self.model))
