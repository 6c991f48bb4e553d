"""An attack on what DP-SGD claims here: ``python -m benchmarks.canaries --out DIR [--docs docs/private-training.md]``.

Nothing but canaries is trained on: each pushes along a direction of its own with all the length that clipping allows,
the attacker sees every noisy gradient and looks along that direction. Writes canaries.csv and canaries.md.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks import machine
from benchmarks.docs import include
from benchmarks.rows import Row, Rows
from medidiff.io.atomic import atomic_write_bytes, atomic_write_text
from medidiff.privacy.accountants import noise_for
from medidiff.privacy.canaries import Audit, audit
from medidiff.training.private_noise import KeyedOptimizer, taking_part

CLIP, TINY = 1.0, 1e-6
KEY = ("claim", "fault", "seed")
COLUMNS = (*KEY, "noise", "canaries", "guesses", "correct", "epsilon")
# As it is; without noise; with noise made for a clip six times shorter than the gradients' length.
FAULTS = {"none": (1.0, 1.0), "no noise": (0.0, 1.0), "clip six times too long": (1.0, 6.0)}


def attack(
    noise: float,
    *,
    canaries: int,
    length: int,
    steps: int,
    sampling: float,
    delta: float,
    longer: float = 1.0,
    seed: int = 0,
) -> Audit:
    """Run DP-SGD on canaries and audit it.

    Args:
        noise: Noise multiplier.
        length: How many parameters there are.
        longer: A planted fault: gradients are this many times as long as the noise is made for.
    """
    generator = torch.Generator().manual_seed(seed)
    directions = torch.nn.functional.normalize(torch.randn(canaries, length, generator=generator), dim=1)
    planted = torch.rand(canaries, generator=generator) < 0.5
    weight = torch.nn.Parameter(torch.zeros(length))
    optimizer = KeyedOptimizer(
        torch.optim.SGD([weight], lr=1.0), seed.to_bytes(32, "big"), noise_multiplier=noise / longer,
        max_grad_norm=CLIP * longer, expected_batch_size=1,
    )  # fmt: skip
    seen = torch.zeros(length)
    for step in range(steps):
        optimizer.zero_grad()
        for canary in taking_part(optimizer.key, step, canaries, sampling):
            if planted[canary]:
                optimizer.contribute([100 * CLIP * directions[canary]])
        optimizer.finish(step)
        if weight.grad is not None:
            seen += weight.grad
    return audit((directions @ seen).numpy(), planted.numpy(), delta)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.canaries", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--docs", type=Path, help="also put the table and the rows beside this page")
    parser.add_argument("--canaries", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=5)
    args = parser.parse_args(arguments)
    args.out.mkdir(parents=True, exist_ok=True)
    delta, sampling, steps, length = 1 / 1600, 0.25, 50, 2552
    rows = Rows(args.out / "canaries.csv", COLUMNS, KEY, resume=True)
    for claim in (1.0, 8.0):
        noise = noise_for(claim, delta, sampling, steps)
        for fault, (keep, longer) in FAULTS.items():
            for seed in range(args.seeds):
                key = {"claim": claim, "fault": fault, "seed": seed}
                if key in rows:
                    continue
                found = attack(
                    max(TINY, keep * noise), canaries=args.canaries, length=length, steps=steps, sampling=sampling,
                    delta=delta, longer=longer, seed=seed,
                )  # fmt: skip
                figures = {name: getattr(found, name) for name in ("canaries", "guesses", "correct", "epsilon")}
                rows.add(key | {"noise": noise} | figures)
    text = table(rows.all) + "\n\nMeasured on: " + ", ".join(f"{k} {v}" for k, v in machine.describe().items()) + "."
    atomic_write_text(args.out / "canaries.md", text + "\n")
    print(text)
    if args.docs:
        include(args.docs, "canaries", text)
        atomic_write_bytes(args.docs.parent / "benchmarks" / "canaries.csv", (args.out / "canaries.csv").read_bytes())


def table(rows: Sequence[Row]) -> str:
    """A line a claim and fault: the lower bounds over seeds."""
    lines = ["| claimed epsilon | planted fault | guesses right | lower bounds of epsilon |", "|---|---|---|---|"]
    for claim, fault in dict.fromkeys((row["claim"], row["fault"]) for row in rows):
        mine = [row for row in rows if (row["claim"], row["fault"]) == (claim, fault)]
        right = 100 * sum(int(row["correct"]) for row in mine) / sum(int(row["guesses"]) for row in mine)
        bounds = ", ".join(f"{float(row['epsilon']):.2f}" for row in mine)
        lines.append(f"| {claim} | {fault} | {right:.0f}% of {len(mine)} x {mine[0]['guesses']} | {bounds} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
