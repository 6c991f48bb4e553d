"""The command: see the package's docstring."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from benchmarks.machine import describe
from benchmarks.rows import Rows
from benchmarks.set_metrics.damage import KINDS
from benchmarks.set_metrics.run import COLUMNS, TRAINED, load
from benchmarks.set_metrics.summary import page
from medidiff.io.atomic import atomic_write_text
from medidiff.metrics.utility import SegmenterOptions

app = typer.Typer(add_completion=False)
_KEY = ("kind", "severity", "figure")


@app.command()
def run(
    data: Annotated[Path, typer.Option(help="The folder of real volumes.")] = Path("../shared/data"),
    out: Annotated[Path, typer.Option(help="Folder of rows.csv and table.md.")] = Path("runs/set-metrics"),
    features: Annotated[str, typer.Option(help="The encoder.")] = "features-t1",
    count: Annotated[int, typer.Option("--people", min=48, max=TRAINED, help="On both sides together.")] = TRAINED,
    draws: Annotated[int, typer.Option(min=100, help="Resamples behind each interval.")] = 500,
    steps: Annotated[int, typer.Option(min=0, help="Of the segmenter; 0 leaves it out.")] = 150,
    bfloat16: Annotated[bool, typer.Option(help="For a processor with AVX512-BF16.")] = False,
) -> None:
    """Spoil people, take every figure, print the tables."""
    out.mkdir(parents=True, exist_ok=True)
    begin = time.process_time()
    segmenter = SegmenterOptions(steps=steps, bfloat16=bfloat16) if steps else None
    bench = load(data, features, count=count, draws=draws, segmenter=segmenter)
    rows = Rows(out / "rows.csv", COLUMNS, _KEY, resume=True)

    def say(what: str) -> None:
        sys.stderr.write(f"{time.process_time() - begin:6.0f} CPU-s  {what}\n")

    bench.rows(KINDS, rows, say)
    show(out)


@app.command()
def show(out: Annotated[Path, typer.Argument(help="Folder of rows.csv.")] = Path("runs/set-metrics")) -> None:
    """Print the tables of a run."""
    text = page(Rows(out / "rows.csv", COLUMNS, _KEY, resume=True).all, describe())
    atomic_write_text(out / "table.md", text)
    print(text)


if __name__ == "__main__":
    app()
