"""Choose the rivals' one free number on a training head: ``python -m benchmarks.superresolution.tune [--data DIR]``.

The people scored in the benchmark are not looked at. The best weights go into ``tv.WEIGHT_PER_SQUARE`` by hand.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from benchmarks.superresolution.cases import TUNING, Case, Truth
from benchmarks.superresolution.tv import STEPS, total_variation
from medidiff.metrics import psnr
from medidiff.operators.slices import Profile

WEIGHTS = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
PROFILES: tuple[Profile, ...] = ("box", "gaussian")
CASES = tuple(Case(factor, profile, 2) for profile in PROFILES for factor in (2.0, 4.0, 6.0))
CROP = 128


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path(__file__).resolve().parents[3] / "shared" / "data")
    parser.add_argument("--steps", type=int, default=STEPS)
    args = parser.parse_args()
    truth = Truth.load(args.data / TUNING.files, TUNING.name, TUNING, crop=CROP)
    print("weight   " + "  ".join(f"{case.name:>13}" for case in CASES) + "          mean   (PSNR, dB)")
    for weight in WEIGHTS:
        values = [_score(truth, case, weight, args.steps) for case in CASES]
        print(f"{weight:<8g} " + "  ".join(f"{v:13.3f}" for v in values) + f"  {sum(values) / len(values):12.3f}")


def _score(truth: Truth, case: Case, weight: float, steps: int) -> float:
    operator = case.operator(truth.mask.shape)
    x = total_variation(operator, operator.forward(truth.x), weight=weight, steps=steps)
    return psnr(x, truth.x, data_range=truth.data_range, mask=truth.mask)


if __name__ == "__main__":
    main()
