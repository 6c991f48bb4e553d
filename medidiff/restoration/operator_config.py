"""What was done to a scan, written down by a user: a list of steps, from the head to the scan."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator

from medidiff.config import Config
from medidiff.errors import ConfigError, GeometryError, InputError
from medidiff.geometry import Geometry
from medidiff.io import probe, read_volume
from medidiff.operators import BlurOperator, LinearOperator, MaskOperator, MeasuredProfile, SliceOperator, SliceProfile
from medidiff.operators.motion import MovedSlices
from medidiff.restoration.plan import MAX_FINE_VOXELS, finer
from medidiff.restoration.repair import check_same_grid

Axis = Literal["R", "A", "S"]
AXES: tuple[Axis, ...] = ("R", "A", "S")
# A measured profile or the motion of a scan is a short table.
MAX_TABLE_BYTES = 1 << 20


class Slices(Config):
    """Thick slices."""

    kind: Literal["slices"] = "slices"
    axis: Axis | None = Field(None, description="direction across the slices; the coarsest of the scan if left out")
    thickness_mm: float | None = Field(None, gt=0, description="full width at half maximum; slices touch if left out")
    profile: Literal["box", "gaussian"] = "box"
    profile_file: Path | None = Field(None, description="CSV: offset in mm, weight; overrides form and thickness")


class Blur(Config):
    """A Gaussian blur, such as a scanner's interpolation or a smoothing step."""

    kind: Literal["blur"] = "blur"
    fwhm_mm: float = Field(gt=0, description="full width at half maximum")
    axes: tuple[Axis, ...] = Field(("R", "A", "S"), min_length=1, description="directions that were blurred")


class Mask(Config):
    """Voxels of the scan that are not to be believed."""

    kind: Literal["mask"] = "mask"
    file: Path = Field(description="volume on the scan's grid, 1 where missing")


class Motion(Config):
    """Thick slices, each of which saw the head in another position."""

    kind: Literal["motion"] = "motion"
    file: Path = Field(description="CSV, a line a slice: rotations about x, y, z in degrees, shifts in mm, RAS+")
    axis: Axis | None = None
    thickness_mm: float | None = Field(None, gt=0)
    profile: Literal["box", "gaussian"] = "box"
    profile_file: Path | None = None


Step = Annotated[Slices | Blur | Mask | Motion, Field(discriminator="kind")]


class OperatorConfig(Config):
    """Everything that lies between a head and a scan of it; files are looked for beside this one."""

    kind: Literal["operator"] = "operator"
    steps: tuple[Step, ...] = Field(min_length=1, description="what was done, first to last")
    spacing_mm: float | None = Field(None, gt=0, description="of the result; the finest of the scan if left out")
    noise_std: float = Field(0.0, ge=0, description="of the scan, in its own units; 0 makes the data binding")

    @model_validator(mode="after")
    def _in_order(self) -> OperatorConfig:
        if any(step.kind == "mask" for step in self.steps[:-1]):
            raise ValueError("a mask marks voxels of the scan: it comes last")
        if sum(step.kind == "motion" for step in self.steps) > 1:
            raise ValueError("a head moves once: there can be one motion")
        sliced = [step.axis for step in self.steps if isinstance(step, Slices | Motion)]
        if len(sliced) > 1 and (None in sliced or len(set(sliced)) < len(sliced)):
            raise ValueError("several slicings need axes of their own")
        return self


def build(config: OperatorConfig, scan: Geometry, folder: Path) -> tuple[Geometry, list[LinearOperator], list[str]]:
    """Operators for one channel of a scan.

    Args:
        scan: Grid of the scan, its axes nearest to R, A, S.
        folder: Where relative file names begin.
    Returns:
        Grid of the result, operators from there to the scan, first to last, and a sentence for each.
    Raises:
        InputError: a file cannot be read.
        GeometryError: the scan's grid does not suit.
    """
    target = config.spacing_mm or min(scan.spacing)
    grid = scan
    operators: list[LinearOperator] = []
    words: list[str] = []
    for step in reversed(config.steps):
        operator, grid, text = _step(step, grid, target, folder)
        operators.insert(0, operator)
        words.insert(0, text)
    return grid, operators, words


def _step(step: Step, after: Geometry, target: float, folder: Path) -> tuple[LinearOperator, Geometry, str]:
    """An operator that ends on grid ``after``, the grid where it begins, and words."""
    if isinstance(step, Mask):
        known = _mask(folder / step.file, after)
        share = f"{1 - known.mean():.2%} of the voxels are marked as missing."
        return MaskOperator((1, *after.shape), torch.from_numpy(known)), after, share
    if isinstance(step, Blur):
        widths = {AXES.index(a): step.fwhm_mm / after.spacing[AXES.index(a)] for a in step.axes}
        text = f"Blurred along {', '.join(step.axes)} (Gaussian, {step.fwhm_mm:g} mm wide at half maximum)."
        return BlurOperator((1, *after.shape), widths), after, text
    axis = int(np.argmax(after.spacing)) if step.axis is None else AXES.index(step.axis)
    distance = after.spacing[axis]
    form = step.profile if step.profile_file is None else read_profile(folder / step.profile_file)
    fine = finer(after, axis, min(target, distance))
    if math.prod(fine.shape) > MAX_FINE_VOXELS:
        raise GeometryError(f"the result would have {math.prod(fine.shape):.2g} voxels: choose a coarser spacing_mm")
    profile = SliceProfile.of(distance, step.thickness_mm or distance, form, fine.spacing[axis])
    text = (
        f"{after.shape[axis]} slices along {AXES[axis]}, {distance:.3g} mm apart, "
        f"{profile.thickness * fine.spacing[axis]:.3g} mm thick ({profile.kind} profile)"
    )
    if isinstance(step, Motion):
        motion = read_motion(folder / step.file, after.shape[axis])
        moved = MovedSlices(1, fine, after, axis, profile, motion)
        return moved, fine, f"{text}, each where the head then was."
    return SliceOperator((1, *fine.shape), axis, profile, count=after.shape[axis]), fine, f"{text}."


def _mask(path: Path, scan: Geometry) -> NDArray[np.bool_]:
    """True where the scan is to be believed, on the scan's conformed grid."""
    from medidiff.restoration.repair import Inpaint

    try:
        check_same_grid(probe(path).geometry, scan)
        return np.asarray(~Inpaint.from_mask(read_volume(path), scan).missing)
    except GeometryError as error:
        raise GeometryError(f"{path}: {error}") from error
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def read_profile(path: Path) -> MeasuredProfile:
    """A slice profile from a CSV file: lines of offset from the slice's centre in mm and weight.

    Raises:
        InputError: the file is no such table.
    """
    rows = _table(path, 2)
    try:
        return MeasuredProfile(tuple(row[0] for row in rows), tuple(row[1] for row in rows))
    except ConfigError as error:
        raise InputError(f"{path}: {error}") from error


def read_motion(path: Path, slices: int) -> NDArray[np.float64]:
    """Motion from a CSV file, shape (slices, 6), radians and mm.

    Raises:
        InputError: the file is no such table, or not one of so many slices.
    """
    rows = np.asarray(_table(path, 6))
    if len(rows) != slices:
        raise InputError(f"{path}: expected six numbers for each of {slices} slices, found {len(rows)} lines of them")
    rows[:, :3] = np.radians(rows[:, :3])
    return rows


def _table(path: Path, columns: int) -> list[list[float]]:
    """Lines of numbers; a first line of words is a heading."""
    try:
        if path.stat().st_size > MAX_TABLE_BYTES:
            raise InputError(f"{path}: larger than {MAX_TABLE_BYTES} bytes, so this is no such table")
        lines = list(csv.reader(path.read_text(encoding="utf-8").splitlines()))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read as a table of numbers ({type(error).__name__})") from None
    rows: list[list[float]] = []
    for number, line in enumerate(lines, 1):
        if not any(cell.strip() for cell in line):
            continue
        found = _numbers(line)
        if found is None and not rows and number == 1:
            continue
        if found is None or len(found) != columns:
            raise InputError(f"{path}:{number}: expected {columns} finite numbers, parted by commas")
        rows.append(found)
    if not rows:
        raise InputError(f"{path}: expected lines of {columns} numbers, found none")
    return rows


def _numbers(line: Sequence[str]) -> list[float] | None:
    try:
        found = [float(cell) for cell in line]
    except ValueError:
        return None
    return found if all(math.isfinite(value) for value in found) else None
