"""Rows, a table in words, and two figures of a comparison of generators."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from benchmarks import machine
from benchmarks.generators.people import Scale
from benchmarks.generators.runs import CONTESTANTS, Run
from benchmarks.generators.scoring import SETS, Principal, detail, in_space, likeness
from benchmarks.reconstruction.scoring import save
from medidiff.io.atomic import atomic_write_text
from medidiff.metrics.features import load_encoder
from medidiff.metrics.sets.layout import layout, template

Runs = Mapping[tuple[str, int], Run]
REAL, MEAN = "real, training people", "mean of the training people"
SPACES = {"pca": "principal components", "encoder": "learned features"}
SCORES = tuple(f"{metric}_{space}" for space in SPACES for metric in SETS)
COLUMNS = (
    "set", "seed", "images", "parameters", "seconds", "steps", "diverged", *SCORES, "layout", "ms_ssim", "detail",
    "seconds_each", "train_mb", "draw_mb",
)  # fmt: skip
COLOURS = {"diffusion": "#d1495b", "WGAN-GP": "#2e86ab", "VAE": "#6a994e", REAL: "0.35"}


def write_rows(runs: Runs, training: Tensor, held_out: Tensor, encoder: str, path: Path) -> None:
    """A row a run; besides, as many real people from training, and the mean of all of them, as they would score."""
    learned = load_encoder(encoder)
    spaces = {"pca": Principal.of(training.numpy()), "encoder": learned}
    real, mean_person = held_out.numpy(), template(training.numpy())

    def scores(images: Tensor) -> dict[str, Any]:
        fake = images.numpy()
        if not np.isfinite(fake).all():
            return {}
        found = {f"{k}_{name}": v for name, space in spaces.items() for k, v in in_space(space, real, fake).items()}
        placed = float(layout(fake, mean_person).mean())
        return found | {"layout": placed, "ms_ssim": likeness(fake), "detail": detail(fake), "images": len(fake)}

    rows = []
    for (name, seed), done in runs.items():
        about = {
            "set": name, "seed": seed, "parameters": done.parameters, "seconds": done.curve.seconds,
            "steps": done.curve.steps, "diverged": int(done.curve.diverged), "seconds_each": done.seconds_each,
            "train_mb": done.train_mb, "draw_mb": done.draw_mb,
        }  # fmt: skip
        rows.append(about | scores(done.images))
    count = max(len(done.images) for done in runs.values())
    rows.append({"set": REAL, "seed": "", "diverged": 0} | scores(training[:count]))
    # A little noise: with equal items, nearest neighbours would be undefined.
    flat = (
        training.mean(0, keepdim=True).expand(count, -1, -1, -1, -1) + 1e-4 * Scale.of(training).std * training[:count]
    )
    rows.append({"set": MEAN, "seed": "", "diverged": 0} | scores(flat))
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()})
    atomic_write_text(path, buffer.getvalue())


def write_table(path: Path, seconds: float, settings: Mapping[str, Mapping[str, float]]) -> str:
    """Means over seeds, with the smallest and the largest; the spread over seeds is the stability."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    sets = list(dict.fromkeys(row["set"] for row in rows))
    parts = []
    for space, words in SPACES.items():
        parts.append(f"In the space of {words}, against {_held_out(rows)} people never trained on:\n")
        lines = ["| set | " + " | ".join(("KID", "MMD", *SETS[2:])) + " |", "|" + "---|" * (len(SETS) + 1)]
        for name in sets:
            mine = [row for row in rows if row["set"] == name]
            lines.append(f"| {name} | " + " | ".join(_cell(mine, f"{metric}_{space}") for metric in SETS) + " |")
        parts.append("\n".join(lines) + "\n")
    lines = [
        "| set | layout | MS-SSIM | detail | parameters | steps | diverged | CPU s each | MB to train | to draw |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    columns = ("layout", "ms_ssim", "detail", "parameters", "steps", "diverged", "seconds_each", "train_mb", "draw_mb")
    for name in sets:
        mine = [row for row in rows if row["set"] == name]
        cells = [_total(mine) if column == "diverged" else _cell(mine, column) for column in columns]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    parts.append("\n".join(lines) + "\n")
    tuned = "; ".join(
        f"{name}: " + ", ".join(f"{k} {v:g}" for k, v in chosen.items()) for name, chosen in settings.items()
    )
    parts.append(
        f"{seconds:g} processor seconds of training each, one thread. Means over seeds [smallest, largest]. {tuned}.\n"
    )
    parts.append("Measured on: " + ", ".join(f"{k} {v}" for k, v in machine.describe().items()) + ".")
    return "\n".join(parts)


def _held_out(rows: list[dict[str, str]]) -> str:
    from benchmarks.generators.people import HELD_OUT

    drawn = next(row["images"] for row in rows if row["images"])
    return f"{drawn} images and {HELD_OUT}"


def _cell(rows: list[dict[str, str]], column: str) -> str:
    values = [float(row[column]) for row in rows if row[column]]
    if not values:
        return ""
    mean = _short(float(np.mean(values)))
    return (
        mean
        if len(values) == 1 or min(values) == max(values)
        else f"{mean} [{_short(min(values))}, {_short(max(values))}]"
    )


def _total(rows: list[dict[str, str]]) -> str:
    return f"{sum(int(row['diverged']) for row in rows)} of {len(rows)}" if rows[0]["seed"] else ""


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def write_figures(runs: Runs, held_out: Tensor, out: Path) -> None:
    """Scores by seed, and images drawn beside people: the first of each run, chosen by nobody."""
    with (out / "generators.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    _scores(rows, out / "generators.png")
    _samples(runs, held_out, out / "generators_samples.png")


def _scores(rows: list[dict[str, str]], path: Path) -> None:
    shown = ("mmd_pca", "mmd_encoder", "recall_pca", "coverage_encoder", "ms_ssim", "detail")
    figure = Figure(figsize=(10, 5.2), dpi=110, layout="constrained", facecolor="white")
    canvas, axes = FigureCanvasAgg(figure), figure.subplots(2, 3).ravel()
    for axis, column in zip(axes, shown, strict=True):
        for place, name in enumerate(CONTESTANTS):
            values = [float(row[column]) for row in rows if row["set"] == name and row[column]]
            axis.scatter([place] * len(values), values, color=COLOURS[name], s=30)
        (real,) = [float(row[column]) for row in rows if row["set"] == REAL]
        axis.axhline(real, color=COLOURS[REAL], linewidth=1, linestyle="--")
        axis.set_xticks(range(len(CONTESTANTS)), list(CONTESTANTS), fontsize=8)
        axis.set_title(column.replace("_", " "), fontsize=9)
        axis.spines[["top", "right"]].set_visible(False)
    figure.suptitle("A point a seed; dashed: real people against real people", fontsize=9)
    save(canvas, path)


def _samples(runs: Runs, held_out: Tensor, path: Path, count: int = 8) -> None:
    lines = [("people", held_out)] + [(name, runs[name, 0].images) for name in CONTESTANTS if (name, 0) in runs]
    figure = Figure(figsize=(10, 1.75 * len(lines)), dpi=110, layout="constrained", facecolor="white")
    canvas, axes = FigureCanvasAgg(figure), figure.subplots(len(lines), count)
    for line, (name, images) in enumerate(lines):
        for place in range(count):
            axis = axes[line, place]
            axis.set_xticks([])
            axis.set_yticks([])
            if place < len(images):
                volume = images[place, 0]
                axis.imshow(volume[:, :, volume.shape[2] // 2].T, cmap="gray", vmin=0, vmax=1, origin="lower")
        axes[line, 0].set_ylabel(name)
    save(canvas, path)
