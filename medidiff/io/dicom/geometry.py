"""From planes to a grid. The only place where DICOM's LPS becomes RAS.

Voxel axes: i runs along a stored row (column index), j down a stored column (row index), k along the slice normal
row x column, so no voxel is reordered within a plane.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medidiff.geometry import SHEAR_TOLERANCE, Geometry
from medidiff.io.dicom.model import Plane
from medidiff.io.dicom.reasons import Reason, SeriesRefused

Array = NDArray[Any]

# DICOM's patient axes point to Left, Posterior, Superior; the house's world to Right, Anterior, Superior.
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])

# Planes closer than this along the normal are at one place: it covers the rounding of decimal strings.
SAME_PLACE_MM = 0.01
# A slice may lie this share of a spacing off the even grid: coarse rounding stays below, a missing slice far above.
UNEVEN_TOLERANCE = 0.1
# In-plane drift over the whole stack below this many mm is rounding, whatever the angle.
DRIFT_TOLERANCE_MM = 0.05
# How far a slice may lie beside the line through its stack.
STRAIGHT_TOLERANCE_MM = 0.1
# Beyond this a stack is not a tilted gantry but something else.
LARGEST_TILT_DEGREES = 40.0


@dataclass(frozen=True, slots=True)
class Stack:
    """Parallel planes in order of their place along the normal.

    Args:
        order: For each slice, the index into the planes given.
        depths: Place of each slice along the normal, mm, ascending.
        origin: Centre of the first voxel of the first slice, LPS mm.
        step: From one slice to the next on average, LPS mm, shape (3,); in-plane part included.
        row, column, normal: Unit vectors, LPS.
        spacing: Between rows and between columns, mm.
        thickness: Nominal slice thickness, mm; None if not stated.
    """

    order: tuple[int, ...]
    depths: Array
    origin: Array
    step: Array
    row: Array
    column: Array
    normal: Array
    spacing: tuple[float, float]
    thickness: float | None

    @property
    def slice_spacing(self) -> float:
        """Distance between slice planes, mm: along the normal."""
        return float(self.step @ self.normal)

    @property
    def tilt_degrees(self) -> float:
        """Angle between the normal and the line through the slices."""
        drift = self.step - self.normal * self.slice_spacing
        return math.degrees(math.atan2(float(np.linalg.norm(drift)), self.slice_spacing))

    @property
    def is_tilted(self) -> bool:
        drift = float(np.linalg.norm(self.step - self.normal * self.slice_spacing))
        count = len(self.order) - 1
        return drift > SHEAR_TOLERANCE * self.slice_spacing and drift * count > DRIFT_TOLERANCE_MM

    @property
    def unevenness(self) -> float:
        """Largest distance of a slice from an evenly spaced grid, as a share of the spacing."""
        if len(self.depths) < 3:
            return 0.0
        index = np.arange(len(self.depths))
        residual = self.depths - np.polyval(np.polyfit(index, self.depths, 1), index)
        return float(np.abs(residual).max() / self.slice_spacing)

    def affine(self) -> Array:
        """Voxel index to RAS mm, shape (4, 4), with the step as it is: sheared if the stack is tilted."""
        return _affine(self.row * self.spacing[1], self.column * self.spacing[0], self.step, self.origin)


def _affine(i: Array, j: Array, k: Array, origin: Array) -> Array:
    lps = np.eye(4)
    lps[:3, 0], lps[:3, 1], lps[:3, 2], lps[:3, 3] = i, j, k, origin
    return np.asarray(LPS_TO_RAS @ lps)


def image_axes(orientation: Sequence[float]) -> tuple[Array, Array, Array]:
    """Directions of a row, of a column and of the normal on both, unit length, LPS."""
    row, column = np.array(orientation[:3]), np.array(orientation[3:])
    normal = np.cross(row, column)
    return row, column, normal / np.linalg.norm(normal)


def plane_geometry(plane: Plane, rows: int, columns: int) -> Geometry:
    """The grid of one plane in RAS mm: i along a row, j down a column, one voxel thick (1 mm if not stated)."""
    row, column, normal = image_axes(plane.orientation)
    step = normal * (plane.thickness or 1.0)
    affine = _affine(row * plane.spacing[1], column * plane.spacing[0], step, np.array(plane.position))
    return Geometry(affine, (columns, rows, 1))


def stack_of(planes: list[Plane]) -> Stack:
    """Sort parallel planes along their normal.

    Args:
        planes: At least one; same orientation and spacing; no two at one place.
    Raises:
        SeriesRefused: the slices do not lie on a straight line.
    """
    row, column, normal = image_axes(planes[0].orientation)
    positions = np.array([plane.position for plane in planes])
    depths = positions @ normal
    order = np.argsort(depths, kind="stable")
    positions, depths = positions[order], depths[order]
    thickness = planes[0].thickness if planes[0].thickness and planes[0].thickness > 0 else None
    if len(planes) > 1:
        step = (positions[-1] - positions[0]) / (len(planes) - 1)
        _check_line(positions, depths, step, normal)
    else:
        declared = planes[0].gap if planes[0].gap and planes[0].gap > 0 else thickness
        step = normal * (declared or 1.0)
    return Stack(
        tuple(int(index) for index in order),
        depths,
        positions[0],
        step,
        row,
        column,
        normal,
        planes[0].spacing,
        thickness,
    )


def _check_line(positions: Array, depths: Array, step: Array, normal: Array) -> None:
    """Slices have to lie on one straight line, if perhaps unevenly and not along the normal."""
    along = (depths - depths[0]) / float(step @ normal)
    off = positions - positions[0] - along[:, None] * step
    worst = float(np.linalg.norm(off, axis=1).max())
    if worst > STRAIGHT_TOLERANCE_MM:
        text = f"slice positions leave a straight line by {worst:.2f} mm: they are not one stack"
        raise SeriesRefused(Reason.UNEVEN_SLICES, text)


def places(planes: list[Plane]) -> list[int]:
    """Number of each plane's place along the normal, from 0; planes within ``SAME_PLACE_MM`` share one."""
    _, _, normal = image_axes(planes[0].orientation)
    depths = np.array([plane.position for plane in planes]) @ normal
    order = np.argsort(depths, kind="stable")
    numbers = np.zeros(len(planes), dtype=int)
    numbers[order[1:]] = np.cumsum(np.diff(depths[order]) > SAME_PLACE_MM)
    return [int(number) for number in numbers]


def describe_gaps(stack: Stack) -> tuple[Reason, str]:
    """Say where an uneven stack leaves the even grid: whole slices missing, or simply uneven."""
    gaps = np.diff(stack.depths)
    usual = float(np.median(gaps))
    # Of two gaps, or with half of the slices gone, the larger ones are the suspicious ones.
    if len(gaps) < 4:
        usual = float(gaps.min())
    wide = [(int(index), float(gap)) for index, gap in enumerate(gaps) if gap > 1.5 * usual]
    listed = ", ".join(f"{gap:.2f} mm after slice {index + 1}" for index, gap in wide[:4])
    multiples = [gap / usual for _, gap in wide]
    even = np.abs(np.delete(gaps, [index for index, _ in wide]) - usual).max(initial=0.0) < UNEVEN_TOLERANCE * usual
    if wide and even and all(abs(multiple - round(multiple)) < 0.15 for multiple in multiples):
        missing = sum(round(multiple) - 1 for multiple in multiples)
        count = len(gaps) + 1 + missing
        return Reason.MISSING_SLICES, f"{missing} of {count} slices missing: {usual:.2f} mm apart, but {listed}"
    text = f"slices lie {gaps.min():.2f} to {gaps.max():.2f} mm apart"
    return Reason.UNEVEN_SLICES, f"{text}{': ' + listed if listed else ''}"


@dataclass(frozen=True, slots=True)
class Grid:
    """Where the planes of a stack end up.

    Args:
        geometry: Of the volume, RAS.
        shift: In-plane voxels (i, j) to move from one slice to the next, undoing a tilt; (0, 0) for none.
        pad: Voxels added before the first one along (i, j), to hold what is moved.
        slices: Fractional source slice of every slice of the grid; None if they are the source's own.
    """

    geometry: Geometry
    shift: tuple[float, float] = (0.0, 0.0)
    pad: tuple[int, int] = (0, 0)
    slices: Array | None = None

    @property
    def is_resampled(self) -> bool:
        return self.slices is not None or self.shift != (0.0, 0.0)


def grid_of(stack: Stack, rows: int, columns: int, *, shear: bool, even: bool) -> Grid:
    """The grid a stack is put on.

    Args:
        stack: Sorted planes.
        rows, columns: Size of a plane.
        shear: Undo a tilt by moving each slice within its plane.
        even: Interpolate uneven slices onto an even grid at the smallest distance found.
    """
    count, step, slices = len(stack.order), stack.step, None
    if even:
        finest = float(np.diff(stack.depths).min())
        length = float(stack.depths[-1] - stack.depths[0])
        # Whole steps that fill the stack exactly, so that the first and last slice stay where they were measured.
        count = max(round(length / finest), 1) + 1
        wanted = stack.depths[0] + np.linspace(0.0, length, count)
        slices = np.interp(wanted, stack.depths, np.arange(len(stack.depths)))
        step = stack.step * ((len(stack.order) - 1) / (count - 1))
    i, j = stack.row * stack.spacing[1], stack.column * stack.spacing[0]
    if not shear:
        # What drift there is comes from rounded positions: slices are stacked along their normal.
        step = stack.normal * float(step @ stack.normal)
        return Grid(Geometry(_affine(i, j, step, stack.origin), (columns, rows, count)), slices=slices)
    upright = stack.normal * float(step @ stack.normal)
    drift = step - upright
    shift = float(drift @ stack.row) / stack.spacing[1], float(drift @ stack.column) / stack.spacing[0]
    shift = (0.0 if abs(shift[0]) < 1e-6 else shift[0], 0.0 if abs(shift[1]) < 1e-6 else shift[1])
    most = [value * (count - 1) for value in shift]
    before = [max(math.ceil(-value - 1e-6), 0) for value in most]
    after = [max(math.ceil(value - 1e-6), 0) for value in most]
    origin = stack.origin - i * before[0] - j * before[1]
    shape = (columns + before[0] + after[0], rows + before[1] + after[1], count)
    return Grid(Geometry(_affine(i, j, upright, origin), shape), shift, (before[0], before[1]), slices)
