"""One run of one contestant: trained, drawn from, and kept on disk, so that a comparison goes on where it stopped."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from benchmarks import machine
from benchmarks.generators.contestant import Contestant, Settings
from benchmarks.generators.diffusion import Diffusion
from benchmarks.generators.gan import WassersteinGAN
from benchmarks.generators.people import Scale
from benchmarks.generators.training import Curve, fit
from benchmarks.generators.vae import VariationalAutoencoder
from medidiff.io.atomic import atomic_file
from medidiff.rng import derive_seed, generators

CONTESTANTS: dict[str, type[Contestant]] = {c.name: c for c in (Diffusion, WassersteinGAN, VariationalAutoencoder)}
DRAWING_STREAM = 2


@dataclass(frozen=True, slots=True)
class Run:
    """What is left of a run.

    Args:
        images: What was drawn, model units, shape (n, 1, i, j, k).
        curve: Of the training.
        parameters: Trained, in all networks together.
        seconds_each: Processor seconds to draw one.
        train_mb, draw_mb: Growth of the resident memory while training, and while drawing 16.
    """

    images: Tensor
    curve: Curve
    parameters: int
    seconds_each: float
    train_mb: float | None
    draw_mb: float | None


def run(name: str, settings: Settings, training: Tensor, seconds: float, count: int, seed: int) -> Run:
    """Train a contestant for so many processor seconds and draw from it."""
    scale = Scale.of(training)
    shape: tuple[int, int, int] = tuple(training.shape[2:])  # type: ignore[assignment]
    contestant = CONTESTANTS[name](settings, scale, shape, derive_seed(seed, 1))
    trained = machine.measure(lambda: fit(contestant, training, seconds, seed))
    first = min(16, count)
    source = generators(derive_seed(seed, DRAWING_STREAM), count)
    some = machine.measure(lambda: contestant.draw(first, source[:first]))
    rest = [contestant.draw(count - first, source[first:])] if count > first else []
    images = scale.physical(torch.cat([some.result, *rest]))
    each = some.cost.cpu_seconds / first
    return Run(images, trained.result, contestant.parameters, each, trained.cost.memory_mb, some.cost.memory_mb)


def keep(path: Path, done: Run) -> None:
    """Write a run, whole or not at all."""
    record = {name: getattr(done, name) for name in ("parameters", "seconds_each", "train_mb", "draw_mb")}
    with atomic_file(path) as temporary:
        save_file(
            {"images": done.images.half().contiguous()},
            temporary,
            metadata={"run": json.dumps(record | {"curve": asdict(done.curve)})},
        )


def kept(path: Path) -> Run:
    """Read what ``keep`` wrote."""
    with safe_open(path, framework="pt") as file:
        record: dict[str, Any] = json.loads(file.metadata()["run"])
        images = file.get_tensor("images").float()
    curve = record.pop("curve")
    curve["losses"] = tuple(tuple(pair) for pair in curve["losses"])
    return Run(images=images, curve=Curve(**curve), **record)
