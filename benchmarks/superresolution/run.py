"""Score every method on every case, one finished row at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from benchmarks.machine import measure
from benchmarks.rows import Rows
from benchmarks.superresolution.cases import AXES, Case, Truth
from benchmarks.superresolution.rivals import Method
from medidiff.metrics import data_consistency, gain_interval, psnr_interval, scores

KEY = ("group", "person", "factor", "profile", "axis", "method", "version")
COLUMNS = (
    *KEY, "psnr", "psnr_low", "psnr_high", "gain", "gain_low", "gain_high", "ssim", "ssim_whole", "nrmse",
    "hfen", "gradient_error", "data_consistency", "seconds", "cpu_seconds", "memory_mb", "blocks", "voxels",
    "data_range", "noise_sigma", "ceiling",
)  # fmt: skip
SEED = 0
BLOCK = 24  # voxels: errors are correlated over a few slices, at most 7 voxels thick


def run(
    work: Sequence[tuple[Truth, Case]],
    methods: Mapping[str, Method],
    versions: Mapping[str, str],
    rows: Rows,
) -> None:
    """Fill the table.

    Args:
        work: Who is restored from what.
        methods: By name; ``versions`` names the exact weights of learned ones, so that a new model is scored anew.
        rows: Where finished rows go; rows that it holds already are not computed again.
    """
    wanted = [(t, c, m) for t, c in work for m in methods if _key(t, c, m, versions) not in rows]
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, transient=False) as progress:
        task = progress.add_task("benchmark", total=len(wanted))
        for truth, case, method in wanted:
            progress.update(task, description=f"{truth.name} {case.name} {method}")
            rows.add(_key(truth, case, method, versions) | _row(truth, case, methods[method]))
            progress.advance(task)


def _key(truth: Truth, case: Case, method: str, versions: Mapping[str, str]) -> dict[str, str | float]:
    return {
        "group": truth.group.name, "person": truth.name, "factor": float(case.factor), "profile": case.profile,
        "axis": AXES[case.axis], "method": method, "version": versions.get(method, ""),
    }  # fmt: skip


@torch.no_grad()
def _row(truth: Truth, case: Case, method: Method) -> dict[str, str | float | int | None]:
    operator = case.operator(truth.mask.shape)
    y = operator.forward(truth.x)
    measured = measure(lambda: method(operator, y))
    x = measured.result
    estimate, target, baseline = _array(x), _array(truth.x), _array(operator.reference(y))
    size = {"mask": truth.mask, "seed": SEED, "edge": BLOCK}
    level = psnr_interval(estimate, target, data_range=truth.data_range, **size)
    gain = gain_interval(estimate, baseline, target, **size)
    values = scores(
        estimate, target, data_range=truth.data_range, mask=truth.mask, spacing=truth.volume.geometry.spacing
    )
    # Slices are means of ``factor`` voxels: that share of the truth's noise has been measured.
    ceiling = truth.noise.ceiling(truth.data_range, unmeasured=1 - 1 / case.factor)
    return values | {
        "psnr_low": level.low, "psnr_high": level.high, "gain": gain.value,
        "gain_low": gain.low, "gain_high": gain.high, "data_consistency": data_consistency(operator, x, y),
        "seconds": measured.cost.seconds, "cpu_seconds": measured.cost.cpu_seconds,
        "memory_mb": measured.cost.memory_mb, "blocks": level.count, "voxels": int(truth.mask.sum()),
        "data_range": truth.data_range, "noise_sigma": truth.noise.sigma, "ceiling": ceiling,
    }  # fmt: skip


def _array(x: Tensor) -> NDArray[Any]:
    return np.asarray(x[0, 0].cpu().numpy())


def open_rows(folder: Path, *, resume: bool) -> Rows:
    return Rows(folder / "superresolution.csv", COLUMNS, KEY, resume=resume)
