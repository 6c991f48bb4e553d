"""Several looks: the network's answer is brought back to the data, and shown to it again as the reference.

One look removes what it can tell from the classical image alone. What it got wrong shows in the data, and a few steps
of conjugate gradients put it right; the network, trained on such images as well, then goes on from there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from medidiff.diffusion.denoiser import Condition, Preconditioned
from medidiff.diffusion.sampler import posterior_mean
from medidiff.diffusion.tiling import TiledDenoiser, Tiling
from medidiff.guidance import condition_from
from medidiff.operators.projection import ParallelBeam
from medidiff.operators.task import Task

# Looks that a reconstruction takes; more than it was trained for make it drift away.
LOOKS = 2
# How wrong an answer still is, over what was expected to be wrong with its reference: the weight of the data against
# the network. Measured on the people of the training set.
TRUST = 0.5
DATA_STEPS = 5
# The network for planes sees further than that for volumes: its first level is four pixels wide.
PLANES = Tiling(halo=96)


def later_look(task: Task) -> Task:
    """The task of a look after the first."""
    return replace(task, reference=2.0)


def look_again(
    model: Preconditioned,
    operator: ParallelBeam,
    y: Tensor,
    noise_std: float,
    *,
    looks: int = LOOKS,
    trust: float = TRUST,
    tiling: Tiling = PLANES,
    condition: Condition | None = None,
    on_look: Callable[[], None] | None = None,
) -> list[Tensor]:
    """The estimates after each look, each brought back to the data.

    Args:
        model: Prior.
        operator: How the data were measured.
        y: Measurements, shape (b, *operator.out_shape), model units.
        noise_std: Of the noise in ``y``.
        trust: See ``TRUST``.
        tiling: How large planes are cut.
        condition: What the first look is told; from operator and data if None.
        on_look: Called after each look.
    Returns:
        One tensor a look, shape (b, 1, i, j, k).
    """
    task = operator.task(noise_std)
    condition = condition or condition_from(operator, y, noise_std)
    estimates: list[Tensor] = []
    for _ in range(looks):
        prior = TiledDenoiser(model, condition, tiling)
        x0 = posterior_mean(prior, (len(y), *operator.in_shape), device=y.device)
        damping = (noise_std / (trust * prior.spread)) ** 2
        estimates.append(operator.consistent(x0, y, damping, steps=DATA_STEPS).clamp_min(0))
        condition = _later(condition, task, estimates[-1])
        if on_look is not None:
            on_look()
    return estimates


def _later(condition: Condition, task: Task, reference: Tensor) -> Condition:
    """The condition of a look after the first."""
    again = later_look(task)
    return Condition(
        reference=reference,
        known=condition.known,
        task=again.vector().to(reference).expand(len(reference), -1),
        scale=torch.full_like(condition.scale, again.scale),
    )
