"""What the tasks have in common: people, scores with intervals, a table, a figure, the documentation."""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from benchmarks import machine
from benchmarks.docs import include
from benchmarks.rows import Row, Rows
from benchmarks.superresolution.cases import GROUPS, Truth
from medidiff.diffusion.checkpoint import load_model
from medidiff.diffusion.denoiser import Preconditioned
from medidiff.io.atomic import atomic_write_bytes, atomic_write_text
from medidiff.metrics import gain_interval, psnr_interval, ssim
from medidiff.models import find_model

Array = NDArray[Any]
Method = Callable[[], Array]
SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
SCORES = ("psnr", "psnr_low", "psnr_high", "gain", "gain_low", "gain_high", "ssim", "cpu_seconds", "blocks", "voxels")
COLOURS = {"medidiff": "#d1495b"}
CYCLE = [*(f"C{n}" for n in range(10)), "black", "gold"]  # more than ten methods are still told apart
BLOCK = 24  # voxels: errors are correlated over a few voxels, at most a slice


def parser(task: str, about: str) -> argparse.ArgumentParser:
    """The options that every task has."""
    found = argparse.ArgumentParser(prog=f"python -m benchmarks.reconstruction {task}", description=about)
    found.add_argument("--out", type=Path, required=True, help="folder for the CSV, the figure and the table")
    found.add_argument("--data", type=Path, default=SHARED, help="folder of real volumes (default: ../shared/data)")
    found.add_argument("--model", default="brain-t1", help="name or file of the model (default: the one that ships)")
    found.add_argument("--docs", type=Path, help="also put table, figure and rows beside this page")
    found.add_argument("--resume", action="store_true", help="keep the rows that DIR already holds")
    found.add_argument("--crop", type=int, help="only the middle so many voxels along each axis (a quick run)")
    return found


def head(data: Path, crop: int | None) -> Truth:
    """The person whom nobody was trained or tuned on."""
    group = GROUPS["uih-b"]
    ((name, path),) = group.people(data)
    return Truth.load(path, name, group, crop=crop)


def prior(name: str) -> Preconditioned:
    return load_model(find_model(name), torch.device("cpu"))[0]


def fill(
    rows: Rows,
    key: Mapping[str, str | float],
    methods: Mapping[str, Method],
    baseline: str,
    truth: Truth,
    mask: Array | None = None,
) -> None:
    """Score the methods of one case; rows that are there are not computed again.

    Args:
        methods: By name; each returns (i, j, k) in the truth's units. Gains are over ``baseline``, one of them.
        mask: Where to score; inside the head by default.
    """
    wanted = [name for name in methods if key | {"method": name} not in rows]
    if not wanted:
        return
    target, where = truth.volume.data[0], truth.mask if mask is None else mask & truth.mask
    size = {"mask": where, "seed": 0, "edge": BLOCK}
    strong = methods[baseline]()
    for name in wanted:
        print(*key.values(), name, flush=True)
        done = machine.measure(methods[name])
        level = psnr_interval(done.result, target, data_range=truth.data_range, **size)
        gain = gain_interval(done.result, strong, target, **size)
        rows.add(
            dict(key) | {
                "method": name, "psnr": level.value, "psnr_low": level.low, "psnr_high": level.high,
                "gain": gain.value, "gain_low": gain.low, "gain_high": gain.high,
                "ssim": ssim(done.result, target, data_range=truth.data_range, mask=where),
                "cpu_seconds": done.cost.cpu_seconds, "blocks": level.count, "voxels": int(where.sum()),
            }
        )  # fmt: skip


def table(rows: Sequence[Row], key: Sequence[str], baseline: str) -> str:
    """A line a row."""
    names = [*key, "method", "PSNR dB", f"gain over {baseline}, dB", "SSIM", "CPU s"]
    lines = ["| " + " | ".join(names) + " |", "|" + "---|" * len(names)]
    for row in rows:
        gain = "0"
        if row["method"] != baseline:
            gain = f"{float(row['gain']):+.2f} [{float(row['gain_low']):+.2f}, {float(row['gain_high']):+.2f}]"
        cells = [
            *(str(row[k]) for k in key), str(row["method"]), f"{float(row['psnr']):.2f}", gain,
            f"{float(row['ssim']):.3f}", f"{float(row['cpu_seconds']):.1f}",
        ]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def losses(rows: Sequence[Row], key: Sequence[str]) -> str:
    """Every case in which ours is not the best, said aloud."""
    found = []
    for case in dict.fromkeys(tuple(str(r[k]) for k in key) for r in rows):
        part = [r for r in rows if tuple(str(r[k]) for k in key) == case]
        ours = [r for r in part if str(r["method"]).startswith("medidiff")]
        best = max(part, key=lambda r: float(r["psnr"]))
        if ours and best not in ours:
            behind = float(best["psnr"]) - max(float(r["psnr"]) for r in ours)
            found.append(f"{' '.join(case)}: {behind:.2f} dB behind {best['method']}")
    return "Losses: " + ("; ".join(found) if found else "none") + "."


def bars(rows: Sequence[Row], key: Sequence[str], title: str, out: Path) -> None:
    """PSNR by case and method, with intervals."""
    cases = list(dict.fromkeys(" ".join(str(r[k]) for k in key) for r in rows))
    methods = list(dict.fromkeys(str(r["method"]) for r in rows))
    figure = Figure(figsize=(max(6, 1.5 * len(cases)), 3.8), dpi=120, layout="constrained", facecolor="white")
    canvas, axes = FigureCanvasAgg(figure), figure.subplots()
    width = 0.8 / len(methods)
    for number, method in enumerate(methods):
        part = {" ".join(str(r[k]) for k in key): r for r in rows if r["method"] == method}
        where = [n for n, case in enumerate(cases) if case in part]
        values = np.array([[float(part[cases[n]][c]) for c in ("psnr", "psnr_low", "psnr_high")] for n in where])
        axes.bar(
            np.array(where) + (number - (len(methods) - 1) / 2) * width, values[:, 0], width, label=method,
            yerr=[values[:, 0] - values[:, 1], values[:, 2] - values[:, 0]], error_kw={"linewidth": 0.8},
            color=COLOURS.get(method, CYCLE[number % len(CYCLE)]),
        )  # fmt: skip
    low = min(float(r["psnr_low"]) for r in rows)
    axes.set_ylim(bottom=max(0, low - 2))
    axes.set_xticks(range(len(cases)), cases, fontsize=7)
    axes.set_ylabel("PSNR (dB)")
    axes.set_title(title, fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    save(canvas, out)


def save(canvas: FigureCanvasAgg, out: Path) -> None:
    buffer = io.BytesIO()
    canvas.print_png(buffer, metadata={"Software": None})
    atomic_write_bytes(out, buffer.getvalue())


def report(task: str, text: str, args: argparse.Namespace) -> None:
    """Write and print the table; put it, the rows and the figure into the documentation."""
    text += "\n\nMeasured on: " + ", ".join(f"{k} {v}" for k, v in machine.describe().items()) + "."
    atomic_write_text(args.out / f"{task}.md", text + "\n")
    print(text)
    if args.docs:
        include(args.docs, task, text)
        folder = args.docs.parent / "benchmarks"
        folder.mkdir(exist_ok=True)
        for suffix in ("csv", "png"):
            atomic_write_bytes(folder / f"{task}.{suffix}", (args.out / f"{task}.{suffix}").read_bytes())
