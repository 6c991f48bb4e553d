"""Thick slices restored: ``python -m benchmarks.superresolution --out DIR [--data DIR] [--quick]``.

Writes superresolution.csv (every row), superresolution.png, superresolution.md and machine.json into DIR, and prints
what it ran on, the table, and every loss against the strong baseline.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from benchmarks import machine
from benchmarks.docs import include
from benchmarks.rows import Row
from benchmarks.superresolution import learned, summary
from benchmarks.superresolution.cases import AXES, GROUPS, Group, Truth, cases
from benchmarks.superresolution.rivals import BASELINE, RIVALS
from benchmarks.superresolution.run import open_rows, run
from medidiff.io.atomic import atomic_write_bytes, atomic_write_json

QUICK_CROP = 96
YOURS = Group("yours", "", "given by the user")


def main(arguments: list[str] | None = None) -> None:
    args = _parse(arguments)
    args.out.mkdir(parents=True, exist_ok=True)
    if args.threads:
        torch.set_num_threads(args.threads)
    crop = QUICK_CROP if args.quick else None
    groups = [YOURS] if args.volume else [GROUPS[name] for name in args.people]
    truths = [truth for group in groups for truth in _load(group, args, crop)]
    methods = dict(RIVALS)
    versions: dict[str, str] = {}
    found = learned.methods(
        args.model, args.regression_model, samples=args.samples, steps=args.steps, device=args.device
    )
    for name, method, version in found:
        methods[name], versions[name] = method, version
    if args.method:
        methods = {name: m for name, m in methods.items() if name in {*args.method, BASELINE}}
    rows = open_rows(args.out, resume=args.resume)
    axes = [AXES.index(a) for a in args.axes]
    work = [(t, c) for t in truths for c in cases(args.factors, args.profiles, axes, thorough=t.group.thorough)]
    run(work, methods, versions, rows)
    _report(args, [r for r in rows.all if r["version"] == versions.get(r["method"], "")], truths)


def _load(group: Group, args: argparse.Namespace, crop: int | None) -> Iterator[Truth]:
    # A name of the user's file may hold a patient's: people are numbered.
    people = [(f"volume {n}", p) for n, p in enumerate(args.volume, 1)] if args.volume else group.people(args.data)
    for name, path in people:
        yield Truth.load(path, name, group, crop=crop)


def _about(args: argparse.Namespace) -> dict[str, str]:
    """What each group is; says so where the model has seen these people."""
    seen = learned.training_files(args.model)
    about = {YOURS.name: YOURS.about}
    for group in GROUPS.values():
        trained = any(args.data.glob(group.files)) and group.trained_on(seen, args.data)
        about[group.name] = group.about + (", TRAINED ON" if trained else "")
    return about


def _report(args: argparse.Namespace, rows: Sequence[Row], truths: Sequence[Truth]) -> None:
    this, about, out = machine.describe(), _about(args), args.out
    summary.write_figure(rows, about, out / "superresolution.png")
    summary.write_table(rows, truths, about, this, out / "superresolution.md")
    atomic_write_json(out / "machine.json", this)
    text = (out / "superresolution.md").read_text(encoding="utf-8")
    lost = summary.losses(rows) or [f"No learned method fell below {BASELINE} in any case."]
    print(text, *lost, sep="\n")
    if args.docs:
        include(args.docs, "superresolution", "\n\n".join([text.strip(), "Losses: " + "; ".join(lost)]))
        folder = args.docs.parent / "benchmarks"
        folder.mkdir(exist_ok=True)
        for name in ("superresolution.csv", "superresolution.png"):
            atomic_write_bytes(folder / name, (out / name).read_bytes())


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.superresolution", description=__doc__.splitlines()[0])
    shared = Path(__file__).resolve().parents[3] / "shared" / "data"
    parser.add_argument("--out", type=Path, required=True, help="folder for the CSV, the figure and the table")
    parser.add_argument("--data", type=Path, default=shared, help="folder of real volumes (default: ../shared/data)")
    parser.add_argument("--people", nargs="+", choices=sorted(GROUPS), default=list(GROUPS))
    parser.add_argument("--volume", nargs="+", type=Path, help="your own thin-slice scans instead")
    parser.add_argument("--factors", nargs="+", type=float, help="slice distance in voxels (default: 2 4 6)")
    parser.add_argument("--profiles", nargs="+", choices=["box", "gaussian"])
    parser.add_argument("--axes", nargs="+", choices=AXES)
    parser.add_argument("--method", nargs="+", help="only these, and the baseline")
    parser.add_argument("--model", help="name or file of the model (default: the one that ships)")
    parser.add_argument("--regression-model", help="name or file of the same network trained as plain regression")
    parser.add_argument("--samples", type=int, default=0, help="also score one posterior sample, and the mean of N")
    parser.add_argument("--steps", type=int, default=8, help="network evaluations a sample")
    parser.add_argument("--device", default="cpu", help="where the networks run")
    parser.add_argument("--docs", type=Path, help="also put table, figure and rows beside this page")
    parser.add_argument("--threads", type=int, help="threads of torch")
    parser.add_argument("--quick", action="store_true", help="x4 box slices along k of the middle 96 voxels")
    parser.add_argument("--resume", action="store_true", help="keep the rows that DIR already holds")
    args = parser.parse_args(arguments)
    args.factors = args.factors or ([4.0] if args.quick else [2.0, 4.0, 6.0])
    args.profiles = args.profiles or (["box"] if args.quick else ["box", "gaussian"])
    args.axes = args.axes or (["k"] if args.quick else list(AXES))
    return args


if __name__ == "__main__":
    main()
