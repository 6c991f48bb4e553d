"""What reading will give: a plan a future volume, and a line for everything that is in none."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import Literal

from medidiff.geometry import Geometry
from medidiff.io.dicom.facts import AcquisitionFacts
from medidiff.io.dicom.geometry import Grid
from medidiff.io.dicom.model import InstanceHeader, Layout, Plane
from medidiff.io.dicom.reasons import Reason, SetAside
from medidiff.volume import Modality


@dataclass(frozen=True, slots=True)
class ReadPolicy:
    """What to do where a faithful volume needs a decision.

    Args:
        tilt: A stack whose slices are shifted against each other (gantry tilt): ``"shear"`` moves each slice within
            its plane by interpolation onto an upright grid, ``"refuse"`` sets the series aside.
        uneven: Slices at uneven distances or missing: ``"refuse"``, or ``"resample"`` along the normal, linearly.
        localizers: Keep scouts as series of their own.
        budget: Bytes that one volume may take as float32; ``medidiff.io.safety.default_budget()`` if None.
    """

    tilt: Literal["shear", "refuse"] = "shear"
    uneven: Literal["refuse", "resample"] = "refuse"
    localizers: bool = False
    budget: int | None = None


@dataclass(frozen=True, slots=True)
class Slot:
    """One plane's place in a volume: which object, and which of its planes."""

    header: InstanceHeader
    plane: Plane


@dataclass(frozen=True, slots=True)
class FramePlan:
    """One 3D image of a series.

    Args:
        label: What it is among its sisters, e.g. ``"t0003"``, ``"b1000"``; empty for a lone one.
        slots: Its planes in order of k.
        b_value: Diffusion weighting, s/mm2; None if not stated.
        direction: Diffusion gradient as stored; None if not stated. LPS, as the standard, Siemens and Philips have it;
            United Imaging's private one is along the image's row, column and normal, GE's along frequency, phase and
            slice.
    """

    label: str
    slots: tuple[Slot, ...]
    b_value: float | None = None
    direction: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True)
class SeriesPlan:
    """A future volume.

    Args:
        series_uid, study_uid: UIDs as stored (identifying: not for sharing).
        series_number: As stored.
        label: What sets it apart from other volumes of its series, e.g. ``"echo-2"``; empty for a lone one.
        kind: How the source holds it.
        modality: What the values mean.
        grid: Where the voxels lie, RAS, and what is resampled.
        frames: 3D images on that grid, in order; more than one for 4D.
        thickness: Nominal slice thickness, mm; None if not stated.
        spacing_between_slices: Between slice centres as measured from positions, mm; None for a lone slice without one.
        facts: What downstream needs of the acquisition; no identifiers.
        protocol: Series description or protocol name; may hold identifiers.
        notes: What a careful reader should know; no identifiers.
    """

    series_uid: str
    study_uid: str
    series_number: int | None
    label: str
    kind: Layout
    modality: Modality
    grid: Grid
    frames: tuple[FramePlan, ...]
    thickness: float | None
    spacing_between_slices: float | None
    facts: AcquisitionFacts
    protocol: str
    notes: tuple[str, ...] = ()

    @property
    def geometry(self) -> Geometry:
        return self.grid.geometry

    @property
    def files(self) -> tuple[str, ...]:
        """The files it is read from, each once."""
        return tuple(dict.fromkeys(slot.header.path for frame in self.frames for slot in frame.slots))

    @property
    def bytes_needed(self) -> int:
        """Memory of the volume once read (float32)."""
        i, j, k = self.geometry.shape
        return 4 * len(self.frames) * i * j * k

    def split(self) -> list[SeriesPlan]:
        """A plan for each frame, its name added to the label."""
        if len(self.frames) == 1:
            return [self]
        parts = []
        for frame in self.frames:
            label = "_".join(part for part in (self.label, frame.label) if part)
            parts.append(replace(self, label=label, frames=(frame,)))
        return parts

    def describe(self) -> str:
        """One line without identifiers."""
        i, j, k = self.geometry.shape
        spacing = " x ".join(f"{value:.3g}" for value in self.geometry.spacing)
        number = "" if self.series_number is None else f"series {self.series_number} "
        label = f" ({self.label})" if self.label else ""
        times = f" x {len(self.frames)}" if len(self.frames) > 1 else ""
        size = f"{i} x {j} x {k}{times} voxels of {spacing} mm"
        return f"{number}{self.modality}{label}: {size}, {self.geometry.orientation}"


@dataclass(frozen=True, slots=True)
class SeriesReport:
    """All that was found: every file is in a series, or set aside with a reason.

    Args:
        series: Future volumes.
        set_aside: Everything else.
    """

    series: tuple[SeriesPlan, ...]
    set_aside: tuple[SetAside, ...]

    def reasons(self) -> Counter[Reason]:
        """How often each reason occurs."""
        return Counter(item.reason for item in self.set_aside)

    def describe(self) -> str:
        """A line a series and a line a reason; no identifiers."""
        lines = [plan.describe() for plan in self.series]
        lines += [f"set aside, {reason.value}: {count}" for reason, count in sorted(self.reasons().items())]
        return "\n".join(lines) if lines else "nothing"
