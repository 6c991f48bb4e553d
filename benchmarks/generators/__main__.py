"""Three kinds of generator on equal terms: ``python -m benchmarks.generators --out DIR [--docs docs/generators.md]``.

Tunes each on training people alone (``--tune``, whose choice is kept in ``tuned.json``), trains each three times for so
many processor seconds, scores what they draw against people never trained on. Every finished piece stays in DIR; the
same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.docs import include
from benchmarks.generators import people
from benchmarks.generators.runs import CONTESTANTS, keep, kept, run
from benchmarks.generators.scoring import in_space
from benchmarks.generators.summary import write_figures, write_rows, write_table
from medidiff.io.atomic import atomic_write_bytes, atomic_write_text
from medidiff.metrics.features import load_encoder

TUNED = Path(__file__).with_name("tuned.json")
# What was tried for each, for equal processor seconds. What came before, by eye on training people, is on the page.
GRID: dict[str, list[dict[str, float]]] = {
    "diffusion": [{"lr": 1e-3}, {"lr": 2e-3}, {"lr": 5e-4}],
    "WGAN-GP": [
        {"lr": 1e-3, "critic_lr": 1.0, "critic_steps": 1},
        {"lr": 1e-3, "critic_lr": 1.0, "critic_steps": 2},
        {"lr": 5e-4, "critic_lr": 2.0, "critic_steps": 1},
    ],
    "VAE": [{"lr": 1e-3, "kl": 0.3}, {"lr": 1e-3, "kl": 0.1}, {"lr": 1e-3, "kl": 0.03}],
}


def main(arguments: Sequence[str] | None = None) -> None:
    args = _parse(arguments)
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    if args.tune:
        tune(args)
        return
    settings = json.loads(TUNED.read_text(encoding="utf-8"))
    training = people.training(args.data)
    for name, seed, path in _pieces(args):
        if not path.exists():
            print(f"{name}, seed {seed}", flush=True)
            keep(path, run(name, settings[name], training, args.seconds, args.images, seed))
            if args.one:
                return
    runs = {(name, seed): kept(path) for name, seed, path in _pieces(args)}
    write_rows(runs, training, people.held_out(args.data), args.encoder, args.out / "generators.csv")
    write_figures(runs, people.held_out(args.data), args.out)
    text = write_table(args.out / "generators.csv", args.seconds, settings)
    print(text)
    atomic_write_text(args.out / "generators.md", text + "\n")
    if args.docs:
        include(args.docs, "generators", text)
        folder = args.docs.parent / "benchmarks"
        for file in ("generators.csv", "generators.png", "generators_samples.png"):
            atomic_write_bytes(folder / file, (args.out / file).read_bytes())


def _pieces(args: argparse.Namespace) -> Iterator[tuple[str, int, Path]]:
    for seed in range(args.seeds):
        for name in CONTESTANTS:
            yield name, seed, args.out / f"{name}-{seed}-{args.seconds:g}s.safetensors"


def tune(args: argparse.Namespace) -> None:
    """Try each contestant's settings on some training people, judge them by the others, and keep the best."""
    everybody = people.training(args.data)
    training, choosing = everybody[: -people.CHOOSING], everybody[-people.CHOOSING :]
    # Not principal components: there the mean of all people scores as well as real ones do.
    space = load_encoder(args.encoder)
    log = args.out / "tuning.json"
    tried: dict[str, Any] = json.loads(log.read_text(encoding="utf-8")) if log.exists() else {}
    for place in range(max(len(grid) for grid in GRID.values())):
        for name, grid in GRID.items():
            key = f"{name} {json.dumps(grid[place])} {args.tune:g}s"
            if key in tried:
                continue
            done = run(name, grid[place], training, args.tune, 24, 0)
            # What diverged is left out of the choice.
            scores = {} if done.curve.diverged else in_space(space, choosing.numpy(), done.images.numpy())
            about = {"name": name, "settings": grid[place], "seconds": args.tune, "steps": done.curve.steps}
            tried[key] = about | scores
            print(key, {k: round(v, 4) for k, v in scores.items()}, flush=True)
            atomic_write_text(log, json.dumps(tried, indent=1) + "\n")
            if args.one:
                return
    best = {}
    for name in CONTESTANTS:
        mine = [t for t in tried.values() if t["name"] == name and t["seconds"] == args.tune and "mmd" in t]
        best[name] = min(mine, key=lambda trial: trial["mmd"])["settings"]
    atomic_write_text(TUNED, json.dumps(best, indent=2) + "\n")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    about = (__doc__ or "").splitlines()[0]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.generators", description=about)
    shared = Path(__file__).resolve().parents[3] / "shared" / "data" / "msd-hippocampus" / "images"
    parser.add_argument("--out", type=Path, required=True, help="folder for runs, CSV, figures and table")
    parser.add_argument("--data", type=Path, default=shared, help="folder of 200 hippocampus crops")
    parser.add_argument("--seconds", type=float, default=180.0, help="processor seconds of training each")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--images", type=int, default=64, help="how many are drawn of each")
    parser.add_argument("--encoder", default="features-t1", help="name or file of the learned features")
    parser.add_argument("--tune", type=float, help="instead: try settings for so many processor seconds each")
    parser.add_argument("--one", action="store_true", help="stop after one piece of work")
    parser.add_argument("--docs", type=Path, help="also put table, figures and rows beside this page")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
