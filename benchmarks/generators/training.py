"""The same loop for all: so many processor seconds, the same batches, an averaged copy, what was seen on the way."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.generators.contestant import Contestant
from medidiff.diffusion.ema import EMA
from medidiff.rng import derive_seed

WARM_UP_STEPS = 20
DESCENT = 0.4


@dataclass(frozen=True, slots=True)
class Curve:
    """What a training run did.

    Args:
        steps: How many it came to.
        seconds: Processor seconds used.
        losses: (share of the time, loss), some fifty of them.
        diverged: A loss or a weight was no number; training ended there.
    """

    steps: int
    seconds: float
    losses: tuple[tuple[float, float], ...]
    diverged: bool


def fit(contestant: Contestant, images: Tensor, seconds: float, seed: int) -> Curve:
    """Train for so many processor seconds and leave the averaged weights in ``contestant.drawing``.

    Processor seconds and not wall time: the minutes are equal whatever else the machine does. The rate rises over the
    first steps and falls to zero over the last 40% of the time.
    """
    standardised = contestant.scale.standardised(images)
    ema = EMA(contestant.drawing, contestant.ema)
    losses: list[tuple[float, float]] = []
    step, diverged = 0, False
    start = time.process_time()
    while (used := time.process_time() - start) < seconds:
        done = used / seconds
        rate = min(1.0, (step + 1) / WARM_UP_STEPS) * min(1.0, (1 - done) / DESCENT)
        generator = torch.Generator().manual_seed(derive_seed(seed, step))
        chosen = torch.randint(len(images), (contestant.batch,), generator=generator)
        loss = contestant.step(standardised[chosen], rate, done, generator)
        if not math.isfinite(loss):
            diverged = True
            break
        ema.update(contestant.drawing, step)
        step += 1
        if not losses or done - losses[-1][0] >= 0.02:
            losses.append((done, loss))
    ema.copy_to(contestant.drawing)
    return Curve(step, time.process_time() - start, tuple(losses), diverged)
