"""Intervals on held-out people: ``python -m benchmarks.coverage --out DIR [--data DIR] [--calibration FILE]``.

Writes coverage.csv (one row a person and operator), coverage.png and coverage.md into DIR. What one width for every
voxel would have cost is told by ``medidiff calibrate``.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.coverage.summary import write_figure, write_table
from benchmarks.docs import include
from benchmarks.rows import Rows
from medidiff.calibrate import CalibrateOptions, fine_scan, restored, slice_operator
from medidiff.diffusion.checkpoint import load_model
from medidiff.diffusion.denoiser import Preconditioned
from medidiff.io.atomic import atomic_write_bytes
from medidiff.io.source import file_sha256
from medidiff.models import find_model
from medidiff.uncertainty import Calibration, beside_model, load_calibration

Array = NDArray[Any]

KEY = ("group", "person", "profile", "factor", "axis")
COLUMNS = (
    *KEY, "voxels", "covered", "half_width", "covered_edges", "covered_flat", "covered_dark", "covered_bright",
    "covered_narrow", "covered_wide", "flags_large_errors", "correlation",
)  # fmt: skip
LARGE = 0.95  # quantile of the error


@dataclass(frozen=True, slots=True)
class Group:
    """Held-out people of one kind; ``last`` keeps so many by file name, ``axes`` None takes each in its turn."""

    name: str
    files: str
    about: str
    region: str
    last: int | None = None
    axis: int | None = None


GROUPS = (
    Group("hippocampus", "msd-hippocampus/images/*.nii.gz", "T1 crops, 40 held-out people", "whole", last=40),
    Group("uih-b", "head-t1-dcm-qa-uih/uih-b_T1w_1mm.nii.gz", "T1 whole head of another hospital, one person", "head",
          axis=2),
)  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    args = _parse(arguments)
    args.out.mkdir(parents=True, exist_ok=True)
    path = find_model(args.model)
    model, calibration = load_model(path)[0], load_calibration(args.calibration or beside_model(path))
    if calibration.model_sha256 != file_sha256(path) or calibration.samples:
        raise SystemExit("the calibration was made for other weights, or for samples: give the one of this model")
    tried = [(stratum.profile, stratum.factor) for stratum in calibration.strata]
    profiles = dict.fromkeys(profile for profile, _ in tried)
    operators = (
        tried if args.factors is None else [(profile, factor) for profile in profiles for factor in args.factors]
    )
    rows = Rows(args.out / "coverage.csv", COLUMNS, KEY, resume=args.resume)
    for group in (g for g in GROUPS if g.name in args.people):
        paths = sorted(args.data.glob(group.files))[-(group.last or 1) :][: args.limit]
        for number, scan in enumerate(paths):
            for profile, factor in operators:
                axis = number % 3 if group.axis is None else group.axis
                key = {"group": group.name, "person": number + 1, "profile": profile, "factor": factor}
                key |= {"axis": "RAS"[axis]}
                if key not in rows:
                    rows.add(key | _score(model, calibration, group.region, scan, axis, profile, factor))
            print(f"{group.name} {number + 1} of {len(paths)}", flush=True)
    about = {group.name: group.about for group in GROUPS}
    write_table(rows.all, about, calibration, args.out / "coverage.md")
    write_figure(rows.all, args.out / "coverage.png")
    text = (args.out / "coverage.md").read_text(encoding="utf-8")
    print(text)
    if args.docs:
        include(args.docs, "coverage", text)
        folder = args.docs.parent / "benchmarks"
        folder.mkdir(exist_ok=True)
        for name in ("coverage.csv", "coverage.png"):
            atomic_write_bytes(folder / name, (args.out / name).read_bytes())


def _score(
    model: Preconditioned, calibration: Calibration, region: str, scan: Path, axis: int, profile: Any, factor: float
) -> dict[str, Any]:
    volume = fine_scan(scan)
    operator = slice_operator(volume.geometry.shape, axis, profile, factor)
    options = CalibrateOptions(region=region)  # type: ignore[arg-type]
    one = restored(model, volume, operator, options)
    width = calibration.half_width(one.seen, operator.profile)  # type: ignore[arg-type]
    truth = one.error + one.seen.mean
    slope = np.sqrt(sum(np.square(g) for g in np.gradient(truth)))[one.where]
    error, width, truth = np.abs(one.error[one.where]), width[one.where], truth[one.where]
    held = error <= width
    large = error > np.quantile(error, LARGE)

    def share(chosen: Array) -> float:
        return float(held[chosen].mean())

    wide = width > np.quantile(width, 0.8)
    dark, bright = truth < np.quantile(truth, 0.2), truth > np.quantile(truth, 0.8)
    return {
        "voxels": error.size, "covered": float(held.mean()), "half_width": float(width.mean(dtype=np.float64)),
        "covered_edges": share(slope > np.quantile(slope, 0.8)), "covered_flat": share(slope < np.quantile(slope, 0.2)),
        "covered_dark": share(dark), "covered_bright": share(bright),
        "covered_narrow": share(width < np.quantile(width, 0.2)), "covered_wide": share(wide),
        "flags_large_errors": float(wide[large].mean()), "correlation": float(np.corrcoef(width, error)[0, 1]),
    }  # fmt: skip


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.coverage", description=(__doc__ or "").splitlines()[0])
    shared = Path(__file__).resolve().parents[3] / "shared" / "data"
    parser.add_argument("--out", type=Path, required=True, help="folder for the CSV, the figure and the table")
    parser.add_argument("--data", type=Path, default=shared, help="folder of real volumes (default: ../shared/data)")
    parser.add_argument("--model", default="brain-t1", help="name or file of the model")
    parser.add_argument("--calibration", type=Path, help="calibration (default: beside the model)")
    parser.add_argument("--people", nargs="+", choices=[g.name for g in GROUPS], default=[g.name for g in GROUPS])
    parser.add_argument("--factors", nargs="+", type=float, help="slice distances (default: those of the calibration)")
    parser.add_argument("--limit", type=int, help="only so many people of each group")
    parser.add_argument("--docs", type=Path, help="also put table, figure and rows beside this page")
    parser.add_argument("--resume", action="store_true", help="keep the rows that DIR already holds")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
