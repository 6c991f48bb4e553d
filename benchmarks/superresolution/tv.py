"""Total variation with the slices as a hard constraint: the best known hand-made prior, given the same operator.

    minimise  TV(x) + |x - reference|^2 / (2 weight)   subject to  A x = y

solved by the primal-dual algorithm of Chambolle & Pock (2011), J. Math. Imaging Vision 40, algorithm 1. The second
term starts from the strong baseline and keeps the problem strictly convex; a weight of zero is the baseline itself,
so tuning can only help. The weights were chosen on a training head (see ``tune``), never on the people scored: the
best of the grid grew as the square of the slice distance, faster for a Gaussian profile, which hides more.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from medidiff.operators.slices import SliceOperator

# Weight over (slice distance / voxel)^2, in units of the bright end of the scan. Best of the grid for x2, x4, x6: box
# 0.02, 0.1, 0.2; Gaussian 0.05, 0.5, 0.5, all within 0.02 dB of these. 200 steps change those scores by under 0.01 dB.
WEIGHT_PER_SQUARE = {"box": 0.006, "gaussian": 0.014}
STEPS = 60
# The gradient's squared norm in 3D is at most 12, and tau sigma |grad|^2 may not exceed 1.
TAU, SIGMA = 0.25, 1 / 3

Project = Callable[[Tensor], Tensor]


def total_variation(operator: SliceOperator, y: Tensor, *, weight: float | None = None, steps: int = STEPS) -> Tensor:
    """Restore slices; the result has shape (1, 1, i, j, k). ``weight`` is in units of the scan's bright end."""
    if weight is None:
        weight = WEIGHT_PER_SQUARE[operator.profile.kind] * operator.profile.factor**2
    reference = operator.reference(y)
    bright = float(torch.quantile(y.flatten()[:: max(1, y.numel() // 1_000_000)], 0.999))

    def project(x: Tensor) -> Tensor:
        return x + operator.adjoint(operator.solve_gram(y - operator.forward(x)))

    return denoise(reference, weight * bright, steps, project)


def denoise(start: Tensor, weight: float, steps: int, project: Project = lambda x: x) -> Tensor:
    """argmin TV(x) + |x - start|^2 / (2 weight) over the affine set that ``project`` projects onto.

    Args:
        start: Shape (1, 1, i, j, k).
        weight: In the units of the image.
    """
    if weight <= 0:
        return project(start)
    # In units of the weight both terms are of order one, and the step sizes need no tuning.
    x, goal = start / weight, start / weight
    ahead = x.clone()
    dual = [torch.zeros_like(x) for _ in range(3)]
    for _ in range(steps):
        norm = torch.zeros_like(x)
        for axis, p in enumerate(dual):
            n = x.shape[axis + 2] - 1
            p.narrow(axis + 2, 0, n).add_(ahead.narrow(axis + 2, 1, n) - ahead.narrow(axis + 2, 0, n), alpha=SIGMA)
            norm.addcmul_(p, p)
        norm.sqrt_().clamp_min_(1.0)
        step = torch.zeros_like(x)
        for axis, p in enumerate(dual):
            p.div_(norm)
            n = x.shape[axis + 2] - 1  # minus the adjoint of the forward difference
            step.narrow(axis + 2, 0, n).add_(p.narrow(axis + 2, 0, n))
            step.narrow(axis + 2, 1, n).sub_(p.narrow(axis + 2, 0, n))
        moved = project((x + TAU * step + TAU * goal).mul_(weight / (1 + TAU))).div_(weight)
        ahead = 2 * moved - x
        x = moved
    return x * weight
