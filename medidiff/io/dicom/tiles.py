"""Sheets of tiles: a Siemens mosaic or a UIH grid holds a whole volume in one image."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from medidiff.io.dicom import marks
from medidiff.io.dicom import tags as t
from medidiff.io.dicom.geometry import image_axes
from medidiff.io.dicom.model import Layout, Mark, PixelFormat, Plane, Vector
from medidiff.io.dicom.quiet import quiet
from medidiff.io.dicom.reasons import Reason, SeriesRefused
from medidiff.io.dicom.values import Header, seconds_of

_MOST_TILES = 4096
_UIH_COUNT = 0x50
_UIH_TILES = 0x51
_UIH_MATRIX = 0x04


@dataclass(frozen=True, slots=True)
class Sheet:
    """A sheet taken apart.

    Args:
        layout: Whose sheet.
        rows, columns: Size of a tile.
        planes: A plane a tile, in the sheet's order: along rows, then down.
    """

    layout: Layout
    rows: int
    columns: int
    planes: tuple[Plane, ...]


def find(header: Header, pixels: PixelFormat, image_type: tuple[str, ...], notes: list[str]) -> Sheet | None:
    """The tiles of a mosaic or grid, or None for an ordinary image.

    Raises:
        SeriesRefused: it says that it is a sheet, and its tiles cannot be placed.
    """
    if pixels.frames != 1:
        return None
    united = header.private(0x0065, "IMAGE PRIVATE HEADER")
    if united is not None and united | _UIH_TILES in header:
        count = header.integer(united | _UIH_COUNT, "DS")
        if count is not None and count > 1:
            return _grid(header, pixels, image_type, united, count)
    if "MOSAIC" in image_type or _says_mosaic(header):
        return _mosaic(header, pixels, image_type, notes)
    return None


def _says_mosaic(header: Header) -> bool:
    """Whether private elements speak of a mosaic that the image type, rewritten by an export, no longer shows."""
    count = _siemens_count(header)
    detail = header.private(0x0021, "SIEMENS MR SDI 02")
    kind = header.texts(detail | 0x75) if detail is not None else ()
    return "MOSAIC" in kind or (count is not None and count > 1)


def _siemens_count(header: Header) -> int | None:
    """Number of tiles as a private element has it; None if there is none."""
    private = header.private(0x0019, "SIEMENS MR HEADER")
    return header.integer(private | 0x0A, "US") if private is not None else None


def square_side(count: int) -> int:
    """Tiles in a row of a mosaic: those of the smallest square that holds them all."""
    return math.isqrt(count - 1) + 1


def csa_image_header(header: Header) -> dict[str, list[Any]]:
    """The Siemens CSA image header as name to values; empty if absent or damaged."""
    block = header.private(0x0029, "SIEMENS CSA HEADER")
    raw = header.raw(block | 0x10) if block is not None else b""
    if len(raw) < 16:
        return {}
    with quiet():  # nibabel calls its DICOM part experimental; its CSA parser is not
        from nibabel.nicom import csareader

    try:
        parsed = csareader.read(raw)
        return {name: tag["items"] for name, tag in parsed["tags"].items()}
    except Exception:  # noqa: BLE001 - damaged CSA bytes leak struct, value and nibabel's own errors: it is absent then
        return {}


def csa_numbers(csa: dict[str, list[Any]], name: str) -> tuple[float, ...]:
    """Finite numbers of a CSA element."""
    try:
        values = tuple(float(value) for value in csa.get(name, ()) if value is not None and str(value).strip())
    except (TypeError, ValueError):
        return ()
    return values if all(map(math.isfinite, values)) else ()


def _tile_size(pixels: PixelFormat, count: int) -> tuple[int, int]:
    """Rows and columns of a tile of a square sheet."""
    if not 1 <= count <= _MOST_TILES:
        raise SeriesRefused(Reason.MISSING_ATTRIBUTE, "a sheet of tiles without a valid number of tiles")
    across = square_side(count)
    if pixels.rows % across or pixels.columns % across:
        text = f"{count} tiles in {across} x {across} do not divide {pixels.rows} x {pixels.columns} voxels"
        raise SeriesRefused(Reason.INVALID_ATTRIBUTE, text)
    return pixels.rows // across, pixels.columns // across


def _mosaic(header: Header, pixels: PixelFormat, image_type: tuple[str, ...], notes: list[str]) -> Sheet:
    csa = csa_image_header(header)
    counted = csa_numbers(csa, "NumberOfImagesInMosaic")
    count = (int(counted[0]) if counted else _siemens_count(header)) or 0
    rows, columns = _tile_size(pixels, count)
    corner = marks.position(header)
    row_spacing, column_spacing = marks.pixel_spacing(header)
    row, column, cross = image_axes(marks.orientation(header))
    normal = _mosaic_normal(csa, cross, notes)
    gap = header.number(t.SPACING_BETWEEN_SLICES)
    if gap is None or gap <= 0:
        gap = header.number(t.SLICE_THICKNESS)
        notes.append("the mosaic states no distance between slices: slice thickness was taken")
    if gap is None or gap <= 0:
        raise SeriesRefused(Reason.MISSING_ATTRIBUTE, "a mosaic without SpacingBetweenSlices or SliceThickness")
    # The stated position is that of the whole sheet as if it were one slice about the same centre.
    first = (
        np.array(corner)
        + row * column_spacing * (pixels.columns - columns) / 2
        + column * row_spacing * (pixels.rows - rows) / 2
    )
    positions = [first + normal * gap * index for index in range(count)]
    return _sheet(Layout.MOSAIC, header, (rows, columns), positions, marks.of_classic(header, image_type))


def _mosaic_normal(csa: dict[str, list[Any]], cross: np.ndarray[Any, Any], notes: list[str]) -> np.ndarray[Any, Any]:
    """Direction from the first tile to the next: perpendicular to the slices, the sign as the CSA header has it."""
    stated = csa_numbers(csa, "SliceNormalVector")
    if len(stated) != 3 or abs(np.dot(stated, cross)) < 0.9:
        notes.append("the mosaic does not say which way its slices go: the direction was taken from the image axes")
        return cross
    return cross if np.dot(stated, cross) > 0 else -cross


def _grid_tile_size(header: Header, united: int, pixels: PixelFormat, count: int) -> tuple[int, int]:
    """Rows and columns of a tile of a UIH grid, which need not be square: from its matrix, where that fits."""
    matrix = re.fullmatch(r"(\d{1,5})\s*[*x]\s*(\d{1,5})", header.text(united | _UIH_MATRIX))
    sizes = [(int(matrix[1]), int(matrix[2])), (int(matrix[2]), int(matrix[1]))] if matrix else []
    acquired = [int(size) for size in header.numbers(t.ACQUISITION_MATRIX, "US") if size > 0]
    if len(acquired) == 2:
        sizes += [(acquired[0], acquired[1]), (acquired[1], acquired[0])]
    for rows, columns in sizes:
        if rows < 1 or columns < 1 or pixels.rows % rows or pixels.columns % columns:
            continue
        if pixels.rows // rows * (pixels.columns // columns) >= count:
            return rows, columns
    return _tile_size(pixels, count)


def _grid(header: Header, pixels: PixelFormat, image_type: tuple[str, ...], united: int, count: int) -> Sheet:
    items = header.items(united | _UIH_TILES)
    size = _grid_tile_size(header, united, pixels, count)
    if len(items) < count:
        text = f"a grid of {count} slices describes {len(items)} of them"
        raise SeriesRefused(Reason.MISSING_ATTRIBUTE, text)
    positions = [np.array(marks.position(item)) for item in items[:count]]
    return _sheet(Layout.GRID, header, size, positions, marks.of_classic(header, image_type))


def grid_times(header: Header) -> tuple[float, ...]:
    """Acquisition time of each tile of a UIH grid, s of the day; empty for anything else."""
    united = header.private(0x0065, "IMAGE PRIVATE HEADER")
    items = header.items(united | _UIH_TILES) if united is not None else []
    times = [seconds_of(item.text(t.ACQUISITION_TIME)) for item in items]
    return tuple(time for time in times if time is not None) if None not in times else ()


def _sheet(
    layout: Layout,
    header: Header,
    size: tuple[int, int],
    positions: list[np.ndarray[Any, Any]],
    found: tuple[Mark, ...],
) -> Sheet:
    slope, intercept = marks.scaling(header)
    orientation = marks.orientation(header)
    spacing = marks.pixel_spacing(header)
    thickness, gap = header.number(t.SLICE_THICKNESS), header.number(t.SPACING_BETWEEN_SLICES)
    planes = tuple(
        Plane(index, _vector(position), orientation, spacing, thickness, gap, slope, intercept, "", found)
        for index, position in enumerate(positions)
    )
    return Sheet(layout, size[0], size[1], planes)


def _vector(position: np.ndarray[Any, Any]) -> Vector:
    x, y, z = (float(value) for value in position)
    return x, y, z
