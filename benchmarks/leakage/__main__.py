"""Does the audit find what it must? ``python -m benchmarks.leakage --out DIR [planted|overfitted] [--data DIR]``.

``planted``: near-copies of training people among real scans. ``overfitted``: generators that were trained on eight
people until they repeat them. Writes planted.csv, overfitted.csv and leakage.md into DIR; a run that was stopped goes
on where it was.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from benchmarks.docs import include
from benchmarks.leakage import planted
from benchmarks.rows import Rows
from medidiff.io.atomic import atomic_write_bytes, atomic_write_text
from medidiff.privacy.leakage.store import Store

PARTS = ("planted", "overfitted")


def main(arguments: Sequence[str] | None = None) -> None:
    args = _parse(arguments)
    args.out.mkdir(parents=True, exist_ok=True)
    for part in (args.part,) if args.part else PARTS:
        _run(part, args)
    texts = []
    for part in PARTS:
        path = args.out / f"{part}.csv"
        if path.is_file():
            module = _module(part)
            rows = Rows(path, module.COLUMNS, module.KEY, resume=True)
            texts.append(module.table(rows.all))
    text = "\n\n".join(texts) + "\n"
    atomic_write_text(args.out / "leakage.md", text)
    print(text)
    if args.docs:
        include(args.docs, "leakage", text)
        folder = args.docs.parent / "benchmarks"
        folder.mkdir(exist_ok=True)
        for part in PARTS:
            if (args.out / f"{part}.csv").is_file():
                atomic_write_bytes(folder / f"leakage-{part}.csv", (args.out / f"{part}.csv").read_bytes())


def _run(part: str, args: argparse.Namespace) -> None:
    module = _module(part)
    rows = Rows(args.out / f"{part}.csv", module.COLUMNS, module.KEY, resume=True)
    store = Store(args.out / "kept")
    if part == "planted":
        trained, others = planted.load(args.data, args.trained, args.held_out)
        planted.run(trained, others, args.each, rows, store)
    else:
        from benchmarks.leakage import overfitted

        overfitted.run(args.data, args.seeds, rows, store)


def _module(part: str) -> ModuleType:
    if part == "planted":
        return planted
    from benchmarks.leakage import overfitted

    return overfitted


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.leakage", description=(__doc__ or "").splitlines()[0])
    data = Path(__file__).resolve().parents[3] / "shared" / "data" / "msd-hippocampus"
    parser.add_argument("part", nargs="?", choices=PARTS, help="which part (default: both)")
    parser.add_argument("--out", type=Path, required=True, help="folder for tables and what is half done")
    parser.add_argument("--data", type=Path, default=data, help="folder with images/ and labels/, a file a person")
    parser.add_argument("--trained", type=int, default=160, help="the first so many people are trained on")
    parser.add_argument("--held-out", type=int, default=40, help="the last so many are not")
    parser.add_argument("--each", type=int, default=planted.EACH, help="copies of each kind")
    parser.add_argument("--seeds", type=int, default=20, help="overfitted models")
    parser.add_argument("--docs", type=Path, help="also put the tables into this page")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
