"""From rows to the table and the figure that the documentation includes."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from benchmarks.rows import Row
from medidiff.io.atomic import atomic_write_bytes, atomic_write_text
from medidiff.metrics import bootstrap

# Less than this share of the contrast is lost; as much of it where there is nothing is invented.
HALF = 0.5
METHODS = {"cubic + projection": "_cubic", "medidiff": ""}


def lost(row: Row, method: str) -> bool:
    return float(row[f"recovered{METHODS[method]}"]) < HALF


def invented(row: Row, method: str) -> bool:
    return abs(float(row[f"invented{METHODS[method]}"])) >= HALF


def share(rows: Sequence[Row], hits: Sequence[bool]) -> str:
    """A share with its bootstrap interval over people (or blocks)."""
    units = sorted({row["person"] for row in rows})
    table = np.array(
        [[sum(h for r, h in zip(rows, hits, strict=True) if r["person"] == u), sum(r["person"] == u for r in rows)]
         for u in units], dtype=float,
    )  # fmt: skip
    if len(units) < 2:
        return f"{np.mean(hits):.0%}"
    found = bootstrap(table, lambda s: s[..., 0] / s[..., 1], seed=0, unit="person")
    return f"{found.value:.0%} [{found.low:.0%}, {found.high:.0%}]"


def auc(score: NDArray[np.float64], hit: NDArray[np.bool_]) -> float:
    """Chance that a hit scores higher than a miss; 0.5 says nothing."""
    if hit.all() or not hit.any():
        return float("nan")
    difference = score[hit][:, None] - score[~hit][None, :]
    return float(((difference > 0) + 0.5 * (difference == 0)).mean())


def warning_auc(rows: Sequence[Row]) -> float:
    """How well the half-width tells lost lesions from kept ones of the same radius, mean over radii that have both."""
    values = []
    for radius in sorted({row["radius"] for row in rows}, key=float):
        own = [row for row in rows if row["radius"] == radius]
        width = np.array([float(row["half_width"]) for row in own])
        values.append(auc(width, np.array([lost(row, "medidiff") for row in own])))
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")


def write_table(rows: Sequence[Row], out: Path) -> None:
    """One table a group and factor."""
    parts = []
    for group in dict.fromkeys(row["group"] for row in rows):
        for factor in sorted({float(row["factor"]) for row in rows}):
            own = [row for row in rows if row["group"] == group and float(row["factor"]) == factor]
            unit = "people" if group == "hippocampus" else "blocks of one person"
            parts.append(f"### {group}, x{factor:g} box slices, {len({r['person'] for r in own})} {unit}")
            parts.append(_table(own))
            score = warning_auc(own)
            if not np.isnan(score):
                parts.append(
                    f"Half-width as a sign that a lesion was lost, at equal radius: AUC {score:.2f}; 0.5 says nothing."
                )
    atomic_write_text(out, "\n\n".join(parts) + "\n")


def _table(rows: Sequence[Row]) -> str:
    head = (
        "radius mm", "lost: cubic + projection", "lost: medidiff", "contrast back: cubic", "medidiff",
        "invented: cubic", "medidiff", "truth inside the interval", "where lost", "half-width / contrast",
        "without lesion",
    )  # fmt: skip
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for radius in sorted({float(row["radius"]) for row in rows}):
        own = [row for row in rows if float(row["radius"]) == radius]

        def mean(column: str, chosen: Sequence[Row] = own) -> str:
            return f"{np.mean([float(row[column]) for row in chosen]):.0%}" if chosen else "-"

        gone = [row for row in own if lost(row, "medidiff")]
        cells = [
            f"{radius:g}",
            *(share(own, [lost(row, method) for row in own]) for method in METHODS),
            mean("recovered_cubic"),
            mean("recovered"),
            *(share(own, [invented(row, method) for row in own]) for method in METHODS),
            mean("inside_interval"),
            mean("inside_interval", gone),
            mean("half_width"),
            mean("half_width_before"),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def write_figure(rows: Sequence[Row], out: Path) -> None:
    """Share lost and share invented by radius, one panel a group and factor."""
    groups = list(dict.fromkeys(row["group"] for row in rows))
    factors = sorted({float(row["factor"]) for row in rows})
    figure = Figure(figsize=(4.4 * len(factors), 3.2 * len(groups)), dpi=120, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    grid = figure.subplots(len(groups), len(factors), squeeze=False, sharey=True)
    for group, line in zip(groups, grid, strict=True):
        for factor, axes in zip(factors, line, strict=True):
            own = [row for row in rows if row["group"] == group and float(row["factor"]) == factor]
            radii = sorted({float(row["radius"]) for row in own})
            for method, colour in zip(METHODS, ("#8a9099", "#d1495b"), strict=True):
                by = [[row for row in own if float(row["radius"]) == radius] for radius in radii]
                gone = [np.mean([lost(row, method) for row in part]) for part in by]
                made = [np.mean([invented(row, method) for row in part]) for part in by]
                axes.plot(radii, gone, "o-", color=colour, label=f"{method}: lost")
                axes.plot(radii, made, "s--", color=colour, alpha=0.6, label=f"{method}: invented")
            axes.set_title(f"{group}, x{factor:g}", fontsize=10)
            axes.set_xlabel("radius of the lesion (mm)")
            axes.set_ylabel("share of lesions")
            axes.set_ylim(-0.03, 1.03)
            axes.spines[["top", "right"]].set_visible(False)
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    buffer = io.BytesIO()
    canvas.print_png(buffer, metadata={"Software": None})
    atomic_write_bytes(out, buffer.getvalue())
