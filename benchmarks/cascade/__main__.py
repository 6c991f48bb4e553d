"""``python -m benchmarks.cascade prepare | measure``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from medidiff.training.coarse_heads import CoarseHeadsConfig, prepare

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
# The last two label maps are for measuring.
LABELS = ("synthseg-labels/training_seg_0?.nii.gz", "synthseg-labels/training_seg_1[0-2].nii.gz")


def _prepare(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cascade prepare",
        description="Write what `medidiff train configs/head-coarse.yaml` reads: heads at 4 mm and their tissues.",
    )
    parser.add_argument("--data", type=Path, default=SHARED, help="folder of real volumes (default: ../shared/data)")
    parser.add_argument("--out", type=Path, default=Path("runs/coarse-heads"), help="folder to write")
    parser.add_argument("--drawn", type=int, default=6, help="images of each kind of contrast from each label map")
    args = parser.parse_args(arguments)
    config = CoarseHeadsConfig(root=args.data, labels=LABELS, drawn=args.drawn)
    print(f"{prepare(config, args.out)} heads in {args.out}")


def main() -> None:
    words = sys.argv[1:]
    if words[:1] == ["prepare"]:
        _prepare(words[1:])
    elif words[:1] == ["measure"]:
        from benchmarks.cascade.measure import main as measure

        measure(words[1:])
    else:
        raise SystemExit(__doc__)


if __name__ == "__main__":
    main()
