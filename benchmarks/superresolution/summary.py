"""From rows to a figure and a table that the documentation includes."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from benchmarks.rows import Row
from benchmarks.superresolution.cases import Truth
from benchmarks.superresolution.rivals import BASELINE
from medidiff.io.atomic import atomic_write_bytes, atomic_write_text
from medidiff.metrics import Interval, bootstrap

COLOURS = {
    "linear": "#b0b5bd", "cubic": "#8a9099", "windowed sinc": "#c49a6c", "total variation": "#8c6bb1",
    "plain regression": "#2a9d8f", "medidiff": "#d1495b",
}  # fmt: skip


def write_figure(rows: Sequence[Row], about: Mapping[str, str], out: Path) -> None:
    """Gain over the strong baseline by factor, one panel a group and profile, mean over people and axes.

    Args:
        about: What each group is, by name.
    """
    groups, profiles = _ordered(rows, "group"), _ordered(rows, "profile")
    figure = Figure(figsize=(5.2 * len(profiles), 3.6 * len(groups)), dpi=120, layout="constrained", facecolor="white")
    canvas = FigureCanvasAgg(figure)
    grid = figure.subplots(len(groups), len(profiles), squeeze=False, sharey="row")
    for group, line in zip(groups, grid, strict=True):
        for profile, axes in zip(profiles, line, strict=True):
            chosen = [r for r in rows if r["group"] == group and r["profile"] == profile]
            for number, method in enumerate(m for m in _ordered(rows, "method") if m != BASELINE):
                _curve(axes, [r for r in chosen if r["method"] == method], method, number)
            axes.axhline(0, color="#1d2025", linewidth=1)
            axes.text(0.99, 0.01, f"0 = {BASELINE}", transform=axes.transAxes, ha="right", va="bottom", fontsize=7)
            axes.set_title(f"{group} ({about[group]}), {profile} profile", fontsize=10)
            axes.set_xlabel("slice distance / voxel")
            axes.set_ylabel("PSNR gain (dB)")
            axes.spines[["top", "right"]].set_visible(False)
            axes.grid(axis="y", color="#e6e8eb")
            factors = sorted({float(r["factor"]) for r in rows})
            axes.set_xticks(factors)
            axes.set_xlim(factors[0] - 0.4, factors[-1] + 0.4)
    handles, labels = grid[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    buffer = io.BytesIO()
    canvas.print_png(buffer, metadata={"Software": None})
    atomic_write_bytes(out, buffer.getvalue())


def _curve(axes, rows: Sequence[Row], method: str, number: int) -> None:  # type: ignore[no-untyped-def]
    factors = sorted({float(r["factor"]) for r in rows})
    if not factors:
        return
    parts = [[r for r in rows if float(r["factor"]) == f] for f in factors]
    gains = [gain(part) for part in parts]
    middle = [g.value for g in gains]
    below, above = [g.value - g.low for g in gains], [g.high - g.value for g in gains]
    shifted = [f + 0.06 * (number - 3) for f in factors]  # or the whiskers hide each other
    colour = COLOURS.get(method, f"C{number}")
    ours = method.startswith("medidiff")
    axes.errorbar(shifted, middle, yerr=[below, above], label=method, color=colour, marker="o", markersize=4,
                  linewidth=2 if ours else 1.2, capsize=2)  # fmt: skip


def gain(part: Sequence[Row]) -> Interval:
    """Mean gain over people and axes, with an interval whose unit is the person, or a block where there is but one."""
    people = _ordered(part, "person")
    if len(people) > 1:
        means = [[_mean([r for r in part if r["person"] == person], "gain"), 1.0] for person in people]
        return bootstrap(np.array(means), lambda s: s[..., 0] / s[..., 1], seed=0, unit="person")
    # One head, sliced along each axis in turn: the axes share its anatomy, so their limits are averaged, not combined.
    low, value, high = (_mean(part, column) for column in ("gain_low", "gain", "gain_high"))
    return Interval(value, low, high, int(part[0]["blocks"]), "block", 0.95)


def write_table(
    rows: Sequence[Row], truths: Sequence[Truth], about: Mapping[str, str], machine: Mapping[str, object], out: Path
) -> None:
    """Markdown: one table a group and profile, then the noise of the truth, then costs.

    Args:
        about: What each group is, by name.
    """
    lines: list[str] = []
    for group in _ordered(rows, "group"):
        for profile in _ordered(rows, "profile"):
            chosen = [r for r in rows if r["group"] == group and r["profile"] == profile]
            if chosen:
                lines += _scores_table(chosen, about[group])
    lines += _noise_table(truths)
    lines += _cost_table(rows)
    weights = {r["method"]: r["version"] for r in rows if r["version"]}
    lines += ["", "Weights (SHA-256): " + (", ".join(f"{m} {v}" for m, v in weights.items()) or "none") + "."]
    lines += ["", "Measured on: " + ", ".join(f"{name} {value}" for name, value in machine.items()) + "."]
    atomic_write_text(out, "\n".join(lines) + "\n")


def _scores_table(rows: Sequence[Row], about: str) -> list[str]:
    people, unit = len(_ordered(rows, "person")), gain(rows[:1]).unit
    if people > 1:
        unit, size = "people", f"{people} people"
    else:
        unit = f"{rows[0]['blocks']} {unit}s of one person"
        size = f"{int(rows[0]['voxels']):,} voxels, range {float(rows[0]['data_range']):.4g}"
    text = (
        f"{about}; {size}; mean over axes {', '.join(_ordered(rows, 'axis'))}, inside the mask. Gain: over {BASELINE}, "
        f"with its 95% bootstrap interval over {unit}; least: the worst single case. The ceiling is what the truth's "
        "own noise allows."
    )
    columns = ("slices", "method", "PSNR dB", "gain dB", "least gain", "SSIM", "SSIM whole", "NRMSE", "HFEN",
               "data error", "below the ceiling dB")  # fmt: skip
    lines = [f"### {rows[0]['group']}, {rows[0]['profile']} profile", "", text, "", *_head(columns)]
    for factor in sorted({float(r["factor"]) for r in rows}):
        for method in _ordered(rows, "method"):
            part = [r for r in rows if float(r["factor"]) == factor and r["method"] == method]
            if part:
                own, every = _ordered(part, "axis"), _ordered(rows, "axis")
                # A run that was stopped: its gain is paired and stands, its means are of fewer cases than the others'.
                note = "" if set(own) == set(every) else f" (axis {', '.join(own)} alone so far)"
                lines.append(_scores_line(factor, method, part, note))
    return [*lines, ""]


def _scores_line(factor: float, method: str, part: Sequence[Row], note: str = "") -> str:
    if method == BASELINE:
        won, least = "0", "0"
    else:
        g = gain(part)
        won = f"{g.value:+.2f} [{g.low:+.2f}, {g.high:+.2f}]"
        least = f"{min(float(r['gain']) for r in part):+.2f}"
    far = _mean(part, "ceiling") - _mean(part, "psnr")
    cells = (
        f"x{factor:g}", method + note, f"{_mean(part, 'psnr'):.2f}", won, least, f"{_mean(part, 'ssim'):.3f}",
        f"{_mean(part, 'ssim_whole'):.3f}", f"{_mean(part, 'nrmse'):.3f}", f"{_mean(part, 'hfen'):.3f}",
        f"{_mean(part, 'data_consistency'):.1e}", f"{far:.1f}",
    )  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def _noise_table(truths: Sequence[Truth]) -> list[str]:
    """How far the truth's own noise lets anybody come: two opinions, over the people of a group."""
    about = (
        "Noise of the scans that serve as truth (medians over people): finest diagonal Haar band, and most frequent "
        "local deviation. The ceiling is the PSNR of the noise-free anatomy plus the noise that x4 slices measure."
    )
    columns = ("group", "sigma, wavelet", "sigma, local", "range", "ceiling at x4, dB")
    lines = ["### Noise of the truth", "", about, "", *_head(columns)]
    for group in dict.fromkeys(t.group.name for t in truths):
        part = [t for t in truths if t.group.name == group]
        wavelet, local, span = (
            float(np.median(values))
            for values in zip(*((t.noise.sigma, t.noise.local_sigma, t.data_range) for t in part), strict=True)
        )
        ceilings = [20 * np.log10(span / (sigma * np.sqrt(3 / 4))) for sigma in sorted((wavelet, local), reverse=True)]
        text = " to ".join(f"{c:.1f}" for c in ceilings)
        lines.append(f"| {group} | {wavelet:.3g} | {local:.3g} | {span:.4g} | {text} |")
    return [*lines, ""]


def _head(columns: Sequence[str]) -> list[str]:
    return ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]


def _cost_table(rows: Sequence[Row]) -> list[str]:
    about = "Means over the runs above, one head each; memory is the largest, above what the process held before."
    lines = ["### Cost", "", about, "", *_head(("method", "seconds", "CPU-s", "memory MB"))]
    for method in _ordered(rows, "method"):
        part = [r for r in rows if r["method"] == method]
        memory = [float(r["memory_mb"]) for r in part if r["memory_mb"]]
        lines.append(
            f"| {method} | {_mean(part, 'seconds'):.1f} | {_mean(part, 'cpu_seconds'):.1f} | "
            + (f"{max(memory):.0f} |" if memory else "unknown |")
        )
    return lines


def losses(rows: Sequence[Row]) -> list[str]:
    """Every case in which a learned method falls below the strong baseline, in words."""
    return [
        f"{r['method']} is {-float(r['gain']):.2f} dB below {BASELINE} on {r['person']} x{float(r['factor']):g} "
        f"{r['profile']} {r['axis']}"
        for r in rows
        if r["version"] and float(r["gain"]) < 0
    ]


def _mean(rows: Iterable[Row], column: str) -> float:
    values = [float(r[column]) for r in rows]
    return sum(values) / len(values)


def _ordered(rows: Iterable[Row], column: str) -> list[str]:
    return list(dict.fromkeys(r[column] for r in rows))
