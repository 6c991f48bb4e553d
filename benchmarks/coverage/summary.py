"""From rows to the table and the figure that the documentation includes."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.rows import Row
from medidiff.io.atomic import atomic_write_bytes, atomic_write_text
from medidiff.metrics import bootstrap
from medidiff.uncertainty import Calibration

# What nominal 90% may come to on other people before it is called wrong.
BAND = (0.87, 0.93)


def operators(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(operator_of(row) for row in rows))


def operator_of(row: Row) -> str:
    return f"{row['profile']} x{float(row['factor']):g}"


def write_table(rows: Sequence[Row], about: Mapping[str, str], calibration: Calibration, out: Path) -> None:
    """One table a group: coverage over people, and where it holds."""
    taught, counted = calibration.scale_people, calibration.people
    first = f"Nominal {1 - calibration.level:.0%}; {taught} people taught the scale, {counted} others the multiplier. "
    parts = [first + "Half-widths are percent of the bright end of the scan."]
    for group in dict.fromkeys(row["group"] for row in rows):
        parts += [f"### {group}: {about[group]}", _table([r for r in rows if r["group"] == group])]
    atomic_write_text(out, "\n\n".join(parts) + "\n")


def _table(rows: Sequence[Row]) -> str:
    head = (
        "| slices | covered | one person | edges | flat | dark | bright | narrowest fifth | widest fifth | half-width "
        "| largest errors in the widest fifth | correlation |"
    )
    lines = [head, "|" + "---|" * 12]
    for name in operators(rows):
        own = [row for row in rows if operator_of(row) == name]

        def mean(column: str, own: Sequence[Row] = own) -> float:
            return float(np.mean([float(row[column]) for row in own]))

        covered = np.array([float(row["covered"]) for row in own])
        text = f"{covered.mean():.1%}"
        if len(covered) > 1:
            held = bootstrap(
                np.column_stack([covered, np.ones_like(covered)]),
                lambda s: s[..., 0] / s[..., 1],
                seed=0,
                unit="person",
            )
            text += f" [{held.low:.1%}, {held.high:.1%}]"
        lines.append(
            f"| {name} | {text} | {covered.min():.0%} to {covered.max():.0%} "
            + "".join(
                f"| {mean(f'covered_{where}'):.1%} " for where in ("edges", "flat", "dark", "bright", "narrow", "wide")
            )
            + f"| {100 * mean('half_width'):.1f} "
            f"| {mean('flags_large_errors'):.0%} | {mean('correlation'):.2f} |"
        )
    return "\n".join(lines)


def write_figure(rows: Sequence[Row], out: Path) -> None:
    """Coverage of every person, one column an operator."""
    names, groups = operators(rows), list(dict.fromkeys(row["group"] for row in rows))
    figure = Figure(figsize=(1.3 * len(names) * len(groups) ** 0.5 + 2, 3.8), dpi=120, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.axhspan(*BAND, color="#e6f0e6")
    axes.axhline(0.9, color="#1d2025", linewidth=1)
    for index, (group, marker) in enumerate(zip(groups, "oD^s", strict=False)):
        colour = ("#2a6fbb", "#d1495b", "#2a9d8f", "#8c6bb1")[index % 4]
        for place, name in enumerate(names):
            y = [float(r["covered"]) for r in rows if r["group"] == group and operator_of(r) == name]
            if not y:
                continue
            x = place + 0.25 * (index - (len(groups) - 1) / 2) + np.linspace(-0.09, 0.09, max(1, len(y)))
            axes.plot(x, sorted(y), marker, color=colour, alpha=0.55, markersize=4, label=None if place else group)
            axes.plot([x[0] - 0.03, x[-1] + 0.03], [np.mean(y)] * 2, color=colour, linewidth=2.5)
    axes.set_xticks(range(len(names)), names)
    axes.set_ylabel("share of voxels inside the interval")
    axes.set_title(
        "Nominal 90% intervals on people who were never seen; a dot is a person, a bar their mean", fontsize=10
    )
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    axes.spines[["top", "right"]].set_visible(False)
    buffer = io.BytesIO()
    canvas.print_png(buffer, metadata={"Software": None})
    atomic_write_bytes(out, buffer.getvalue())
