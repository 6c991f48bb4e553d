"""Several looks: the network's answer is brought back to the data, and shown to it again as the reference.

One look removes what it can tell from the classical image alone. What it got wrong shows in the data, and a few steps
of conjugate gradients put it right; the network, trained on such images as well, then goes on from there.

Each look is the mean of what the network makes of the plane in its eight orientations: a plane that is mirrored or
turned is as good as any, and errors that depend on how it lies average out. How closely an answer is brought back is
said by the noise, or by what the first reference leaves unexplained if that is more: structure finer than pixels is in
the data as well, and an image that explained it would be wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from medidiff.diffusion.denoiser import Condition, Preconditioned
from medidiff.diffusion.sampler import posterior_mean
from medidiff.diffusion.tiling import TiledDenoiser, Tiling
from medidiff.guidance import condition_from, condition_of
from medidiff.operators.projection import ParallelBeam
from medidiff.operators.task import Task

# Looks that a reconstruction takes; more than it was trained for make it drift away.
LOOKS = 2
# Mirror images along either axis, and their transposes.
ORIENTATIONS = 8
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
    orientations: int = ORIENTATIONS,
    condition: Condition | None = None,
    on_look: Callable[[], None] | None = None,
) -> list[Tensor]:
    """The estimates after each look, each brought back to the data.

    Args:
        model: Prior.
        operator: How the data were measured.
        y: Measurements, shape (b, *operator.out_shape), model units.
        noise_std: Of the noise in ``y``.
        looks: How often the network is asked.
        trust: See ``TRUST``.
        tiling: How large planes are cut.
        orientations: Of the plane that a look is the mean over, 1 to 8.
        condition: What the first look is told; from operator and data if None.
        on_look: Called after each evaluation of the network, ``orientations`` of them a look.
    Returns:
        One tensor a look, shape (b, 1, i, j, k).
    """
    task = operator.task(noise_std)
    condition = condition or condition_from(operator, y, noise_std)
    level = unexplained(operator, y, condition.reference, noise_std)
    estimates: list[Tensor] = []
    for _ in range(looks):
        answers = []
        for orientation in range(orientations):
            prior = TiledDenoiser(model, _turned(condition, orientation), tiling)
            answers.append(_back(posterior_mean(prior, prior.condition.reference.shape, device=y.device), orientation))
            if on_look is not None:
                on_look()
        damping = (level / (trust * prior.spread)) ** 2
        x0 = torch.stack(answers).mean(0)
        estimates.append(operator.consistent(x0, y, damping, steps=DATA_STEPS).clamp_min(0))
        condition = condition_of(estimates[-1], condition.known, later_look(task))
    return estimates


def unexplained(operator: ParallelBeam, y: Tensor, reference: Tensor, noise_std: float) -> float:
    """What separates data from the projections of any image: the noise, or what ``reference`` leaves, root mean square.

    Args:
        y: Line integrals, shape (b, *operator.out_shape).
        reference: A classical image, shape (b, *operator.in_shape).
        noise_std: Of the noise in ``y``.
    """
    return max(noise_std, float((operator.forward(reference) - y).square().mean().sqrt()))


def _turned(condition: Condition, orientation: int) -> Condition:
    """The condition of the plane in one of its eight orientations."""
    reference, known = (_turn(part, orientation) for part in (condition.reference, condition.known))
    return replace(condition, reference=reference, known=known)


def _turn(x: Tensor, orientation: int) -> Tensor:
    """Bits of ``orientation``: mirror i, mirror j, then swap them."""
    x = x.flip([2 + axis for axis in range(2) if orientation >> axis & 1])
    return (x.transpose(2, 3) if orientation & 4 else x).contiguous()


def _back(x: Tensor, orientation: int) -> Tensor:
    """Undo ``_turn``."""
    x = x.transpose(2, 3) if orientation & 4 else x
    return x.flip([2 + axis for axis in range(2) if orientation >> axis & 1])
