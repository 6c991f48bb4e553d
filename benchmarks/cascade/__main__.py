"""``python -m benchmarks.cascade prepare | measure``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from medidiff.training.coarse_heads import CoarseHeadsConfig, prepare

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
LABELS = ("synthseg-labels/*.nii.gz",)
# Of the two people of dcm_qa_uih the second is nobody's training data.
HEADS = (
    "head-t1-dcm-qa-uih/uih-a_T1w_1mm.nii.gz",
    "head-t1-fnndsc/*.nii.gz",
    "head-t1-mne-misc/ecog_T1.mgz",
    "head-t1-ixi-2mm/*.nii.gz",
    "head-t1-dcm-qa-xa30/*.nii.gz",
)


def _prepare(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.cascade prepare",
        description="Write what `medidiff train configs/head-coarse.yaml` reads: heads at 4 mm and their tissues.",
    )
    parser.add_argument("--data", type=Path, default=SHARED, help="folder of real volumes (default: ../shared/data)")
    parser.add_argument("--out", type=Path, default=Path("runs/coarse-heads"), help="folder to write")
    parser.add_argument("--drawn", type=int, default=10, help="images from each label map")
    parser.add_argument("--variants", type=int, default=10, help="of each real head")
    args = parser.parse_args(arguments)
    config = CoarseHeadsConfig(root=args.data, labels=LABELS, heads=HEADS, drawn=args.drawn, variants=args.variants)
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
