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
from medidiff.report.planes import Plane, three_planes
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
# Pixels: outer margin, space between panels, band for titles, band for colour bars.
MARGIN, GAP, HEADER, FOOTER = 28, 10, 92, 62
MAX_WIDTH = 2400


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
    All volumes may lie on different grids; the first frame of each is shown.
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
    planes = three_planes(last, pixel=pixel)
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


def _draw(
    planes: Sequence[Plane], columns: Sequence[Column], window: tuple[float, float], title: str, pixel: float
) -> bytes:
    cell = max(plane.world.shape[1] for plane in planes)
    heights = [plane.world.shape[0] for plane in planes]
    width = 2 * MARGIN + len(columns) * cell + (len(columns) - 1) * GAP
    height = HEADER + sum(heights) + GAP * (len(heights) - 1) + FOOTER
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor=BACKGROUND)
    canvas = FigureCanvasAgg(figure)

    def text(x: float, y: float, words: str, size: float, colour: str = TEXT, **options: Any) -> None:
        label = figure.text(
            x / width, 1 - y / height, words, fontsize=size, color=colour, **({"va": "center"} | options)
        )
        label.set_parse_math(False)  # a title with $ is a title, not a formula

    text(MARGIN, 26, title, 13, fontweight="bold")
    limit = _limits(columns)
    for number, column in enumerate(columns):
        left = MARGIN + number * (cell + GAP)
        text(left + cell / 2, 58, column.title, 12, ha="center")
        text(left + cell / 2, 77, column.note, 8.5, FAINT, ha="center")
        low, high = _scale(column, window, limit)
        top = HEADER
        for plane, image in zip(planes, column.images, strict=True):
            rows, pixels = image.shape
            x = left + (cell - pixels) // 2
            axes = figure.add_axes((x / width, 1 - (top + rows) / height, pixels / width, rows / height))
            axes.set_axis_off()
            shown = np.ma.masked_invalid(image)
            axes.imshow(shown, cmap=column.cmap, vmin=low, vmax=high, interpolation="nearest", aspect="auto")
            if number == 0:
                _letters(text, plane, x, top, pixels, rows)
            top += rows + GAP
        if column.cmap is not GREY:
            _bar(figure, column, (low, high), (left, cell, width, height))
    _ruler(figure, text, (MARGIN, height - FOOTER / 2), pixel, (width, height))
    buffer = io.BytesIO()
    canvas.print_png(buffer, metadata={"Software": None})  # type: ignore[no-untyped-call]
    return buffer.getvalue()


def _scale(column: Column, window: tuple[float, float], limit: float) -> tuple[float, float]:
    if column.cmap is SIGNED:
        return -limit, limit
    if column.cmap is POSITIVE:
        values = np.concatenate([i[np.isfinite(i)] for i in column.images])
        high = float(np.percentile(values, 99.7))
        return 0.0, high if high > 0 else 1.0
    return window


def _letters(text: Any, plane: Plane, x: float, top: float, pixels: int, rows: int) -> None:
    """Where the patient's sides are, in the first column."""
    left, right, up, down = plane.letters
    places = ((x + 9, top + rows / 2, left), (x + pixels - 9, top + rows / 2, right),
              (x + pixels / 2, top + 9, up), (x + pixels / 2, top + rows - 9, down))  # fmt: skip
    for at_x, at_y, letter in places:
        text(at_x, at_y, letter, 9, "#ffd54f", ha="center", path_effects=OUTLINE)
    text(x + 5, top + rows - 9, plane.name, 8.5, TEXT, ha="left", path_effects=OUTLINE)


def _bar(figure: Figure, column: Column, limits: tuple[float, float], place: tuple[int, int, int, int]) -> None:
    left, cell, width, height = place
    axes = figure.add_axes(((left + 0.15 * cell) / width, (FOOTER - 26) / height, 0.7 * cell / width, 9 / height))
    bar = Colorbar(axes, ScalarMappable(Normalize(*limits), column.cmap), orientation="horizontal")
    bar.outline.set_visible(False)
    ticks = [limits[0], (limits[0] + limits[1]) / 2, limits[1]]
    bar.set_ticks(ticks, labels=[f"{v:+.3g}" if limits[0] < 0 and v else f"{v:.3g}" for v in ticks])
    axes.tick_params(colors=FAINT, labelsize=8, length=0, pad=3)


def _ruler(figure: Figure, text: Any, at: tuple[float, float], pixel: float, size: tuple[int, int]) -> None:
    """A line of 5 cm (1 cm in small fields of view)."""
    length = 50.0 if 50 / pixel < 0.3 * size[0] else 10.0
    x, y = at
    figure.add_artist(
        Rectangle(
            (x / size[0], 1 - y / size[1]), length / pixel / size[0], 3 / size[1], facecolor=TEXT, edgecolor="none"
        )
    )
    text(x + length / pixel + 8, y - 1, f"{length / 10:.0f} cm", 8.5, FAINT, ha="left")
