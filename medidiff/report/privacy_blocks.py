"""The part of a release page that speaks of privacy: figures with their intervals, and the nearest pairs."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from medidiff.privacy.leakage.decision import MOST_UPPER
from medidiff.report.contact import side_by_side
from medidiff.report.html import Block, Paragraph, Picture, Status, Table, Verdict
from medidiff.synthetic.reports import Metric, Neighbour, Outcome

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_ROWS = 24
FAINT, BLUE, RED = "#9aa0a6", "#2b5c8a", "#a93226"
CHANCE = 0.5


def attack_plot(metrics: Sequence[Metric]) -> Iterator[Block]:
    """Every figure that chance puts at one half, with its interval, on one axis; nothing if there is none."""
    shown = [m for m in metrics if m.ceiling == CHANCE and m.value is not None and m.interval is not None]
    if not shown:
        return
    figure, axes = _canvas(7.2, 0.7 + 0.32 * len(shown))
    for row, metric in enumerate(reversed(shown)):
        low, high = metric.interval or (0.0, 0.0)
        colour = BLUE if metric.outcome is Outcome.PASSED else RED
        axes.plot([low, high], [row, row], color=colour, linewidth=2, solid_capstyle="butt")
        axes.plot([metric.value], [row], marker="o", markersize=5, color=colour)
    axes.axvline(CHANCE, color=FAINT, linewidth=1, linestyle=":")
    axes.axvline(MOST_UPPER, color=RED, linewidth=1, linestyle="--")
    axes.set_yticks(range(len(shown)), [m.name for m in reversed(shown)], fontsize=8)
    axes.set_xlim(0, 1)
    axes.set_ylim(-0.6, len(shown) - 0.4)
    axes.set_xlabel("0.5 is what guessing has; right of the dashed line a release is refused", fontsize=8)
    text = "Tests that chance puts at one half, with intervals; red: not passed"
    yield Picture(_png(figure), text)


def neighbour_blocks(neighbours: Sequence[Neighbour], *, internal: bool) -> Iterator[Block]:
    """The items nearest to a training volume: how many count as copies, a table, a plot, and pictures.

    Args:
        neighbours: In the report's order: those that need looking at first.
        internal: With pictures of training volumes. Never for a release.
    """
    judged = [n for n in neighbours if n.limit is not None]
    if judged:
        copies = sum(_is_copy(n) for n in judged)
        status = Status.FAILED if copies else Status.PASSED
        yield Verdict(status, f"{copies} of {len(judged)} items lie below their limit", "each counts as a copy")
    rows = [
        [n.item, n.distance, n.limit, n.held_out, n.under or None, "yes" if _is_copy(n) else "no"]
        for n in neighbours[:MOST_ROWS]
    ]
    columns = ["item", "distance", "limit", "to people not trained on", "nearest when", "a copy"]
    more = f" {MOST_ROWS} of {len(neighbours)} are listed." if len(neighbours) > MOST_ROWS else ""
    yield Table(
        columns,
        rows,
        f"Items and the training volume nearest to each. Below the limit, an item counts as a copy.{more}",
    )
    yield Picture(_distance_plot(neighbours), "Distance of each item to training volumes and to people not trained on")
    pictured = [n for n in neighbours if n.nearest_png]
    if not pictured:
        return
    if not internal:
        yield Paragraph("Pictures of training volumes are not part of a release: they show real people.")
        return
    yield Paragraph(
        "Left the synthetic item, right the training volume nearest to it, turned as the item is. Axial, coronal, "
        "sagittal. The volumes on the right are of real people."
    )
    for neighbour in pictured:
        pair = [picture for picture in (neighbour.sample_png, neighbour.nearest_png) if picture]
        limit = "" if neighbour.limit is None else f", limit {neighbour.limit:.3f}"
        told = "counts as a copy" if _is_copy(neighbour) else "no copy by this measure"
        text = f"{neighbour.item} and the training volume nearest to it, at {neighbour.distance:.3f}{limit}: {told}"
        yield Picture(side_by_side(pair), text)


def notes(metrics: Sequence[Metric]) -> Iterator[Block]:
    """What must be known of figures; what several have in common is told once."""
    told: dict[str, list[str]] = {}
    for metric in metrics:
        if metric.note:
            told.setdefault(metric.note, []).append(metric.name)
    yield from (Paragraph(f"{'; '.join(names)}: {note}") for note, names in told.items())


def _is_copy(neighbour: Neighbour) -> bool:
    return neighbour.limit is not None and neighbour.distance < neighbour.limit


def _distance_plot(neighbours: Sequence[Neighbour]) -> bytes:
    """One dot an item: distance to training volumes across, to people not trained on upwards."""
    figure, axes = _canvas(5.6, 3.4)
    paired = [n for n in neighbours if n.held_out is not None]
    alone = [n.distance for n in neighbours if n.held_out is None]
    if paired:
        axes.axline((0, 0), slope=1, color=FAINT, linewidth=1, linestyle=":", label="as near to other people")
    for is_copy, colour, marker, label in ((False, BLUE, "o", "item"), (True, RED, "D", "counts as a copy")):
        some = [(n.distance, n.held_out) for n in paired if _is_copy(n) is is_copy]
        if some:
            x, y = zip(*some, strict=True)
            axes.scatter(x, y, s=14, color=colour, marker=marker, label=label)
    if alone:
        axes.scatter(alone, [0.0] * len(alone), s=14, marker="|", color=BLUE, label="item, no other distance")
    limits = {n.limit for n in neighbours if n.limit is not None}
    if len(limits) == 1:  # otherwise each item has its own, and the colour tells
        axes.axvline(limits.pop(), color=RED, linewidth=1, linestyle="--", label="limit")
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.set_xlabel("distance to the nearest training volume")
    axes.set_ylabel("to the nearest other person")
    axes.legend(fontsize=8, frameon=False)
    return _png(figure)


def _canvas(width: float, height: float) -> tuple[Figure, Any]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    # The version of matplotlib is no part of a page that is to be the same every time.
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
