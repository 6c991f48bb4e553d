"""Several evaluations of the network, each followed by a step toward the data: nearer to the truth than one look.

Each time the network is told that less is wrong with what it is shown, and sees it mirrored another way: it was trained
to know no left and right, but is not perfect in that, and what it gets wrong differently each time does not add up.

Source: half-quadratic splitting with a trained denoiser is Zhang et al. (2021), Plug-and-Play Image Restoration with
Deep Denoiser Prior (DPIR), IEEE TPAMI 44, 6360, algorithm 1; a random symmetry in each step is Terris et al. (2024),
Equivariant Plug-and-Play Image Reconstruction, CVPR, algorithm 1 (here the symmetries come in a fixed order).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from medidiff.diffusion.denoiser import Condition, Preconditioned
from medidiff.diffusion.sampler import posterior_mean
from medidiff.diffusion.tiling import TiledDenoiser, Tiling

# Axes mirrored in each evaluation, in turn: every second one is the opposite of the one before.
MIRRORS: tuple[tuple[int, ...], ...] = ((), (-3, -2, -1), (-3,), (-2, -1), (-2,), (-3, -1), (-1,), (-3, -2))

OnEvaluation = Callable[[int, int], None]


@torch.no_grad()
def alternate(
    model: Preconditioned,
    start: Tensor,
    conditions: Sequence[Callable[[Tensor], Condition]],
    data_step: Callable[[Tensor], Tensor],
    *,
    tiling: Tiling | None = None,
    on_evaluation: OnEvaluation | None = None,
) -> Tensor:
    """Alternate between what the network expects and what was measured.

    Args:
        model: Prior; of a complex image it is shown the magnitude, and the phase stays.
        start: A classical image, real or complex, shape (b, 1, i, j, k).
        conditions: One evaluation each: the condition of the network for an image, real, like ``start``.
        data_step: From the network's answer to an image that agrees with the data, such as ``toward_data``.
        on_evaluation: Called with evaluations done, and in all.
    Returns:
        The estimate, like ``start``.
    """
    x = start
    for number, condition in enumerate(conditions):
        answer = look(model, condition(magnitude(x)), MIRRORS[number % len(MIRRORS)], tiling)
        x = data_step(with_phase(answer, x))
        if on_evaluation is not None:
            on_evaluation(number + 1, len(conditions))
    return x


def look(
    model: Preconditioned, condition: Condition, mirrored: tuple[int, ...] = (), tiling: Tiling | None = None
) -> Tensor:
    """One evaluation at the top of the noise range, with some axes mirrored, shape (b, 1, i, j, k)."""
    if mirrored:
        condition = Condition(
            condition.reference.flip(mirrored), condition.known.flip(mirrored), condition.task, condition.scale
        )
    prior = TiledDenoiser(model, condition, tiling or Tiling())
    answer = posterior_mean(prior, condition.reference.shape, device=condition.reference.device)
    return answer.flip(mirrored) if mirrored else answer


def magnitude(x: Tensor) -> Tensor:
    """What the network can be shown of an image."""
    return x.abs() if x.is_complex() else x


def with_phase(answer: Tensor, x: Tensor) -> Tensor:
    """An answer in magnitudes with the phase of ``x``, where that has one."""
    return torch.polar(answer.clamp_min(0), x.angle()) if x.is_complex() else answer
