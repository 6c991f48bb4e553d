"""The preview picture of a reconstruction: what went in, what came out, and where the two differ.

Drawn with Matplotlib's object interface on its own canvas: no pyplot, no global state, the same bytes every time.
Every panel is sampled at the picture's own pixels, so nothing is smoothed on the way to the screen. A picture holds
no identifier: only the titles that the caller gives.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colorbar import Colorbar
from matplotlib.colors import Colormap, LinearSegmentedColormap, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from medidiff.errors import InputError
from medidiff.io.atomic import atomic_write_bytes
from medidiff.report.planes import Plane, telling_planes
from medidiff.volume import Modality, Volume

Array = NDArray[Any]

DPI = 100
BACKGROUND = "#101216"
TEXT = "#e8eaed"
FAINT = "#9aa0a6"
# Dark where nothing differs, so that the eye goes to what does; blue and orange are told apart by everybody.
SIGNED = LinearSegmentedColormap.from_list("signed", ["#b9e2ff", "#3f8fe0", BACKGROUND, "#e0703f", "#ffd9b0"])
POSITIVE = colormaps["magma"]
GREY = colormaps["gray"]
CT_WINDOW = (-160.0, 240.0)  # HU, soft tissue
OUTLINE = [withStroke(linewidth=2.5, foreground=BACKGROUND)]  # letters stay readable on bright fat
# Pixels at unit size: outer margin, space between panels, band for titles, band for colour bars.
MARGIN, GAP, HEADER, FOOTER = 28, 10, 92, 62
MAX_WIDTH = 2400
# Wide pictures are shown small on pages; their lettering grows with the panels, up to this much.
CELL_AT_UNIT_SIZE, MAX_LETTERING = 260, 1.6


@dataclass(frozen=True, slots=True)
class Column:
    """One column of the picture: three images of one kind."""

    title: str
    note: str
    images: tuple[Array, ...]
    cmap: Colormap


def preview(
    input: Volume,  # noqa: A002 - the word that the command line and the report use
    panels: Mapping[str, Volume],
    *,
    title: str,
    out: Path,
    truth: Volume | None = None,
    uncertainty: Volume | None = None,
) -> None:
    """Write the preview picture as a PNG, atomically.

    Args:
        input: The scan as acquired; drawn voxel by voxel.
        panels: Reconstructions by name, a baseline first and ours last; the difference shown is last minus first.
        title: Heading; must hold no identifier.
        out: Where to write.
        truth: The scan without the degradation, if known; adds the error of the last panel.
        uncertainty: Half-width of an interval on the last panel's grid.
    All volumes may lie on different grids; the first frame of each is shown, in the planes that have an image.
    """
    atomic_write_bytes(out, preview_png(input, panels, title=title, truth=truth, uncertainty=uncertainty))


def preview_png(
    input: Volume,  # noqa: A002
    panels: Mapping[str, Volume],
    *,
    title: str,
    truth: Volume | None = None,
    uncertainty: Volume | None = None,
) -> bytes:
    """The preview picture as PNG bytes; see ``preview``."""
    if not panels:
        raise InputError("a preview needs at least one reconstruction to show")
    last = list(panels.values())[-1]
    pixel = _pixel(last, 1 + len(panels) + (len(panels) > 1) + 2 * (truth is not None) + (uncertainty is not None))
    planes = telling_planes(last, pixel=pixel)
    columns = _columns(planes, input, panels, truth, uncertainty)
    return _draw(planes, columns, _window(columns, last.modality), title, pixel)


def _pixel(volume: Volume, columns: int) -> float:
    """Millimetres per pixel: half the finest spacing, coarser only where the picture would grow too wide."""
    finest = min(volume.geometry.spacing) / 2
    widest = max(volume.geometry.extent)
    return max(finest, widest * columns / (MAX_WIDTH - 2 * MARGIN))


def _columns(
    planes: Sequence[Plane],
    input: Volume,  # noqa: A002
    panels: Mapping[str, Volume],
    truth: Volume | None,
    uncertainty: Volume | None,
) -> list[Column]:
    def images(volume: Volume, order: int = 1) -> tuple[Array, ...]:
        return tuple(plane.sample(volume, order=order) for plane in planes)

    names = list(panels)
    shown = {name: images(volume) for name, volume in panels.items()}
    columns = [Column("Input", _grid(input), images(input, order=0), GREY)]
    columns += [Column(name, _grid(panels[name]), shown[name], GREY) for name in names]
    target = images(truth) if truth is not None else None
    if truth is not None and target is not None:
        columns.append(Column("Truth", _grid(truth), target, GREY))
    if len(names) > 1:
        columns.append(
            _signed("Difference", f"{names[-1]} \N{MINUS SIGN} {names[0]}", shown[names[-1]], shown[names[0]])
        )
    if target is not None:
        columns.append(_signed("Error", f"{names[-1]} \N{MINUS SIGN} truth", shown[names[-1]], target))
    if uncertainty is not None:
        columns.append(Column("Uncertainty", "half-width of the interval", images(uncertainty), POSITIVE))
    return columns


def _signed(title: str, note: str, images: tuple[Array, ...], others: tuple[Array, ...]) -> Column:
    return Column(title, note, tuple(a - b for a, b in zip(images, others, strict=True)), SIGNED)


def _grid(volume: Volume) -> str:
    return " \N{MULTIPLICATION SIGN} ".join(f"{s:.2f}".rstrip("0").rstrip(".") for s in volume.geometry.spacing) + " mm"


def _window(columns: Sequence[Column], modality: Modality) -> tuple[float, float]:
    """One grey window for all panels, from the input: robust to bright vessels and to noise below zero."""
    if modality is Modality.CT:
        return CT_WINDOW
    values = np.concatenate([image[np.isfinite(image)] for image in columns[0].images])
    low, high = np.percentile(values, [1, 99])
    return float(low), float(high if high > low else low + 1)


def _limits(columns: Sequence[Column]) -> float:
    """Symmetric limit shared by difference and error, so that the two may be compared."""
    values = [np.abs(i[np.isfinite(i)]) for c in columns if c.cmap is SIGNED for i in c.images]
    limit = float(np.percentile(np.concatenate(values), 99.7)) if values else 0.0
    return limit if limit > 0 else 1.0


class _Sheet:
    """A figure addressed in pixels from the top left, as layouts are thought of."""

    def __init__(self, width: int, height: int, lettering: float) -> None:
        self.width, self.height, self.lettering = width, height, lettering
        self.figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor=BACKGROUND)
        self._canvas = FigureCanvasAgg(self.figure)

    def text(self, x: float, y: float, words: str, size: float, colour: str = TEXT, **options: Any) -> None:
        label = self.figure.text(x / self.width, 1 - y / self.height, words, fontsize=size * self.lettering)
        label.set(color=colour, **({"va": "center"} | options))
        label.set_parse_math(False)  # a title with $ is a title, not a formula

    def box(self, x: float, y: float, width: float, height: float) -> tuple[float, float, float, float]:
        """A rectangle given by its top left corner, in the figure's own coordinates."""
        return x / self.width, 1 - (y + height) / self.height, width / self.width, height / self.height

    def png(self) -> bytes:
        buffer = io.BytesIO()
        self._canvas.print_png(buffer, metadata={"Software": None})  # type: ignore[no-untyped-call]
        return buffer.getvalue()


def _draw(
    planes: Sequence[Plane], columns: Sequence[Column], window: tuple[float, float], title: str, pixel: float
) -> bytes:
    cell = max(plane.world.shape[1] for plane in planes)
    size = float(np.clip(cell / CELL_AT_UNIT_SIZE, 1, MAX_LETTERING))
    header, footer = round(HEADER * size), round(FOOTER * size)
    width = 2 * MARGIN + len(columns) * cell + (len(columns) - 1) * GAP
    body = sum(plane.world.shape[0] for plane in planes) + GAP * (len(planes) - 1)
    sheet = _Sheet(width, header + body + footer, size)
    sheet.text(MARGIN, 26 * size, title, 13, fontweight="bold")
    limit = _limits(columns)
    for number, column in enumerate(columns):
        left = MARGIN + number * (cell + GAP)
        sheet.text(left + cell / 2, 58 * size, column.title, 12, ha="center")
        sheet.text(left + cell / 2, 77 * size, column.note, 8.5, FAINT, ha="center")
        limits = _scale(column, window, limit)
        top = header
        for plane, image in zip(planes, column.images, strict=True):
            rows, pixels = image.shape
            x = left + (cell - pixels) // 2
            _panel(sheet, image, (x, top), column.cmap, limits)
            if number == 0:
                _letters(sheet, plane, x, top, pixels, rows)
            top += rows + GAP
        if column.cmap is not GREY:
            _bar(sheet, column.cmap, limits, left + 0.15 * cell, header + body + 17 * size, 0.7 * cell)
    _ruler(sheet, MARGIN, header + body + 26 * size, pixel)
    return sheet.png()


def _panel(sheet: _Sheet, image: Array, corner: tuple[int, int], cmap: Colormap, limits: tuple[float, float]) -> None:
    rows, pixels = image.shape
    axes = sheet.figure.add_axes(sheet.box(*corner, pixels, rows))
    axes.set_axis_off()
    shown = np.ma.masked_invalid(image)
    axes.imshow(shown, cmap=cmap, vmin=limits[0], vmax=limits[1], interpolation="nearest", aspect="auto")


def _scale(column: Column, window: tuple[float, float], limit: float) -> tuple[float, float]:
    if column.cmap is SIGNED:
        return -limit, limit
    if column.cmap is POSITIVE:
        values = np.concatenate([i[np.isfinite(i)] for i in column.images])
        high = float(np.percentile(values, 99.7))
        return 0.0, high if high > 0 else 1.0
    return window


def _letters(sheet: _Sheet, plane: Plane, x: float, top: float, pixels: int, rows: int) -> None:
    """Where the patient's sides are, in the first column."""
    left, right, up, down = plane.letters
    inset = 9 * sheet.lettering
    places = ((x + inset, top + rows / 2, left), (x + pixels - inset, top + rows / 2, right),
              (x + pixels / 2, top + inset, up), (x + pixels / 2, top + rows - inset, down))  # fmt: skip
    for at_x, at_y, letter in places:
        sheet.text(at_x, at_y, letter, 9, "#ffd54f", ha="center", path_effects=OUTLINE)
    sheet.text(x + 5, top + rows - inset, plane.name, 8.5, ha="left", path_effects=OUTLINE)


def _bar(sheet: _Sheet, cmap: Colormap, limits: tuple[float, float], x: float, y: float, width: float) -> None:
    """A colour bar with its ends and its middle."""
    axes = sheet.figure.add_axes(sheet.box(x, y, width, 9 * sheet.lettering))
    bar = Colorbar(axes, ScalarMappable(Normalize(*limits), cmap), orientation="horizontal")
    bar.outline.set_visible(False)
    ticks = [limits[0], (limits[0] + limits[1]) / 2, limits[1]]
    bar.set_ticks(ticks, labels=[f"{v:+.3g}" if limits[0] < 0 and v else f"{v:.3g}" for v in ticks])
    axes.tick_params(colors=FAINT, labelsize=8 * sheet.lettering, length=0, pad=3)


def _ruler(sheet: _Sheet, x: float, y: float, pixel: float) -> None:
    """A line of 5 cm (1 cm in small fields of view)."""
    length = 50.0 if 50 / pixel < 0.3 * sheet.width else 10.0
    left, bottom, width, height = sheet.box(x, y, length / pixel, 3)
    sheet.figure.add_artist(Rectangle((left, bottom), width, height, facecolor=TEXT, edgecolor="none"))
    sheet.text(x + length / pixel + 8, y, f"{length / 10:.0f} cm", 8.5, FAINT, ha="left")
