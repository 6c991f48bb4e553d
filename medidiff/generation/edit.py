"""Regenerate part of a scan: the posterior of a generator whose measurement is everything that is to stay.

No editor is trained. The prior knows anatomy, the mask operator knows which voxels (and which label channels) are
given, and ``sample`` draws from the two together, as it does for every other measurement.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medidiff.diffusion.denoiser import Denoiser
from medidiff.diffusion.path import sigma_schedule, t_to_sigma
from medidiff.diffusion.sampler import SOLVERS, Solver, renoise, sample
from medidiff.errors import ConfigError, InputError
from medidiff.guidance import Posterior, rule
from medidiff.operators.likelihood import Likelihood
from medidiff.operators.mask import MaskOperator
from medidiff.rng import generators

Array = NDArray[Any]
OnStep = Callable[[int, int], None]

# Noise of the first and last level over the prior's spread: at the first the image says nothing, at the last all.
FROM, TO = 80.0, 0.02
MOST_STEPS = 1000
# What is known may not bind quite: a rule that divides by its noise needs some. Kept voxels are copied anyway.
KEPT_NOISE = 0.01
RENOISE = "renoise"


@dataclass(frozen=True, slots=True)
class EditSettings:
    """How to regenerate.

    Args:
        strength: Share of noise that the old content is drowned in, above 0; at 1 nothing of it is left. Content ``x``
            becomes ``(1 - strength) x + strength noise`` in units of the prior's spread, and is denoised again.
        steps: Evaluations a sample.
        solver: One of ``SOLVERS``, or ``renoise``: fresh noise after every estimate, which lets new and old grow
            together where the prior was never told of the mask.
        guidance: One of ``medidiff.guidance.RULES``.
        seed: One generator a sample.
        samples: How many.
    """

    strength: float = 1.0
    steps: int = 24
    solver: str = "multistep"
    guidance: str = "projection"
    seed: int = 0
    samples: int = 1

    def __post_init__(self) -> None:
        if not 0 < self.strength <= 1:
            raise ConfigError(f"strength must be above 0 and at most 1, got {self.strength:g}")
        if self.samples < 1 or not 2 <= self.steps <= MOST_STEPS:
            raise ConfigError(f"samples must be >= 1 and steps 2 to {MOST_STEPS}, got {self.samples}, {self.steps}")
        if self.solver not in (*SOLVERS, RENOISE):
            raise ConfigError(f"unknown solver {self.solver!r}; expected one of {', '.join((*SOLVERS, RENOISE))}")
        rule(self.guidance)

    def sigmas(self, prior: Denoiser) -> Tensor:
        """Noise levels from where the strength begins, to 0."""
        top = min(FROM * prior.spread, prior.sigma_max)
        low = max(TO * prior.spread, prior.sigma_min)
        if self.strength < 1:
            begin = prior.spread * float(t_to_sigma(torch.tensor(self.strength)))
            top = min(top, max(begin, 1.5 * low))
        return sigma_schedule(low, top, self.steps)


@torch.no_grad()
def regenerate(
    prior: Denoiser, image: Tensor, keep: Tensor, settings: EditSettings, on_step: OnStep | None = None
) -> list[Tensor]:
    """Draw what is not kept, given what is.

    Args:
        prior: Over whole images of this shape.
        image: Model units, shape (1, c, i, j, k).
        keep: True where a value is given and stays, shape (c, i, j, k).
        settings: How.
        on_step: Called with (done, total) over all samples.
    Returns:
        ``settings.samples`` images, each of the shape of ``image``, and equal to it where ``keep`` is True.
    """
    operator = MaskOperator(tuple(image.shape[1:]), keep)
    y = operator.forward(image)
    noise_std = 0.0 if settings.guidance == "projection" else KEPT_NOISE
    posterior = Posterior(prior, Likelihood(operator, y, noise_std), rule(settings.guidance))
    # At full strength nothing of the old content may shine through, however faintly.
    start = image if settings.strength < 1 else y
    sigmas = settings.sigmas(prior)
    drawn = []
    for index in range(settings.samples):
        own = [generators(settings.seed, index + 1)[index]]
        solver: Solver = renoise(own) if settings.solver == RENOISE else SOLVERS[settings.solver]

        def step(done: int, total: int, before: int = index) -> None:
            if on_step is not None:
                on_step(before * total + done, settings.samples * total)

        found = sample(posterior, image.shape, sigmas, generators=own, solver=solver, start=start, on_step=step)
        drawn.append(torch.where(operator.mask.to(image.device), image, found))
    return drawn


@dataclass(frozen=True, slots=True)
class Window:
    """A box of a scan, laid on a grid that a model works on.

    Args:
        start: The scan's voxel in the grid's first corner; negative where the grid sticks out.
        shape: Voxels of the grid.
    """

    start: tuple[int, int, int]
    shape: tuple[int, int, int]

    @classmethod
    def around(cls, region: Array, shape: tuple[int, int, int]) -> Window:
        """The grid with the region in its middle, moved inside the scan; a scan that is smaller lies in its middle.

        Raises:
            InputError: the region is larger than the grid.
        """
        start = []
        for axis, (n, size) in enumerate(zip(region.shape, shape, strict=True)):
            hit = np.flatnonzero(region.any(axis=tuple(a for a in range(3) if a != axis)))
            first, last = int(hit[0]), int(hit[-1])
            if last - first >= size:
                raise InputError(
                    f"the region to change is {last - first + 1} voxels long along axis {axis}, the model works on "
                    f"{size}: mark less, or choose a model for larger volumes"
                )
            inside = min(max((first + last + 1 - size) // 2, 0), n - size)
            start.append(inside if n >= size else -((size - n) // 2))
        return cls((start[0], start[1], start[2]), shape)

    def cut(self, data: Array, *, outside: Any = None) -> Array:
        """The box out of ``data`` of shape (..., i, j, k); ``outside`` the scan a value, or the edge repeated."""
        inner, _, pad = self._meet(data.shape[-3:])
        widths = [(0, 0)] * (data.ndim - 3) + pad
        part = data[..., inner[0], inner[1], inner[2]]
        if outside is None:
            return np.ascontiguousarray(np.pad(part, widths, mode="edge"))
        return np.ascontiguousarray(np.pad(part, widths, constant_values=outside))

    def paste(self, part: Array, whole: Array, where: Array) -> None:
        """Write the voxels of the box at which ``where``, on the scan's grid, is True into the scan, in place."""
        inner, own, _ = self._meet(whole.shape[-3:])
        hit = where[inner]
        whole[inner][hit] = part[own][hit]

    def _meet(self, scan: tuple[int, ...]) -> tuple[tuple[slice, ...], tuple[slice, ...], list[tuple[int, int]]]:
        """Slices of the scan, the same of the grid, and what sticks out on either side."""
        inner, own, pad = [], [], []
        for start, size, n in zip(self.start, self.shape, scan, strict=True):
            low, high = max(0, start), min(n, start + size)
            inner.append(slice(low, high))
            own.append(slice(low - start, high - start))
            pad.append((low - start, start + size - high))
        return tuple(inner), tuple(own), pad


def seam(image: Array, region: Array) -> float:
    """How much harder the step across a region's border is than the steps on either side of it.

    The mean absolute difference between neighbours of which one is inside and one outside, over that of the pairs
    one voxel further in and one further out along the same lines. A real image has about 1 wherever the region lies
    by chance, more where it follows an edge: compare with the image before. NaN if the region has no such border.

    Args:
        image: Shape (i, j, k), any units.
        region: True inside, same shape.
    """
    across, beside = 0.0, 0.0
    x = image.astype(np.float64)
    for axis in range(3):
        if x.shape[axis] < 4:
            continue
        steps = np.abs(np.diff(x, axis=axis))
        border = np.diff(region.astype(np.int8), axis=axis) != 0
        middle = _part(border, axis, 1, -1)
        # Neither neighbour of a border pair may be a border itself: thin regions have no inside.
        clean = middle & ~_part(border, axis, 0, -2) & ~_part(border, axis, 2, None)
        across += float(_part(steps, axis, 1, -1)[clean].sum())
        beside += float((_part(steps, axis, 0, -2)[clean] + _part(steps, axis, 2, None)[clean]).sum() / 2)
    return across / beside if beside > 0 else float("nan")


def _part(x: Array, axis: int, start: int, stop: int | None) -> Array:
    return x[tuple(slice(start, stop) if a == axis else slice(None) for a in range(3))]
