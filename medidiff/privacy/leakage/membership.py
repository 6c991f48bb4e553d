"""Attacks that ask of a person: was this one trained on? With the model in hand, or with nothing but its samples.

Every attack gives a score a person, higher for those it takes for members. People are what is counted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

Array = NDArray[Any]
# Nearest items that count for a person: one may be chance, ten are everybody's.
NEAREST = 3
# Where the proximal attack reads the model's own noise, as a part of the smallest level it is asked at.
_PIA_START = 0.25


class Denoises(Protocol):
    """``D(x, sigma) = E[x0 | x0 + sigma n = x]``, x (b, c, i, j, k), sigma (b,)."""

    def __call__(self, x: Tensor, sigma: Tensor, /) -> Tensor: ...


def white_box(
    bind: Callable[[slice], Denoises],
    people: Tensor,
    sigmas: Sequence[float],
    *,
    draws: int,
    seed: int,
    inside: Tensor | None = None,
    batch: int = 4,
    on_batch: Callable[[int], None] | None = None,
) -> dict[str, Array]:
    """Three attacks on a model, at several noise levels.

    ``loss``: how well the model removes noise that was added (Matsumoto et al., 2023; Dubinski et al., 2024).
    ``PIA``: how well it agrees with its own noise, which it is asked for near the clean image (Kong et al., 2024, An
    efficient membership inference attack for the diffusion model by proximal initialization, eq. (11), norm 4).
    ``SimA``: how little it would change the clean image when told that there is noise, the norm of its score (Rao et
    al., 2025, Score-based membership inference on diffusion models).

    Args:
        bind: The model as it answers for a slice of the people, with what it is told of them bound.
        people: In the model's channels, shape (n, c, i, j, k).
        sigmas: Noise levels.
        draws: Noise drawn so many times for ``loss``; the same for everybody.
        inside: True where voxels count, broadcast against people.
        batch: People at once.
    Returns:
        By attack, scores of shape (levels, n).
    """
    counted = torch.ones_like(people[:1, :1]).expand(len(people), -1, -1, -1, -1) if inside is None else inside.float()
    found: dict[str, list[list[Tensor]]] = {name: [[] for _ in sigmas] for name in ("loss", "PIA", "SimA")}
    for start in range(0, len(people), batch):
        some = slice(start, min(start + batch, len(people)))
        x, weight, denoiser = people[some], counted[some], bind(some)
        with torch.no_grad():
            own = _noise(denoiser, x, _PIA_START * min(sigmas))
            for level, sigma in enumerate(sigmas):
                total = torch.zeros(len(x))
                for draw in range(draws):
                    generator = torch.Generator().manual_seed(seed * 1000 + draw)
                    noise = torch.randn(x[:1].shape, generator=generator)
                    error = _denoise(denoiser, x + sigma * noise, sigma) - x
                    total += _power(error, weight, 2)
                found["loss"][level].append(-total / draws)
                found["PIA"][level].append(-_power(_noise(denoiser, x + sigma * own, sigma) - own, weight, 4))
                found["SimA"][level].append(-_power(_noise(denoiser, x, sigma), weight, 2))
        if on_batch is not None:
            on_batch(start + len(x))
    return {name: np.stack([torch.cat(level).double().numpy() for level in rows]) for name, rows in found.items()}


def together(scores: Array) -> Array:
    """One score a person of several levels or attacks: the mean of normal scores, so that no level outweighs another.

    Args:
        scores: Shape (levels, n).
    """
    ranks = stats.rankdata(scores, axis=1) / (scores.shape[1] + 1)
    return np.asarray(stats.norm.ppf(ranks).mean(0))


def from_samples(likeness: Array, among_real: Array) -> Array:
    """A score a person from the samples alone: how near the nearest of them are, less how near real others are.

    Some people are near to everything; what real people who are not they reach is taken off (calibration by
    difficulty: Watson et al., 2022).

    Args:
        likeness: Of items to people, shape (items, n).
        among_real: Of reference people to people, shape (m, n), NaN where somebody meets himself.
    """
    return _top(likeness) - _top(among_real)


def _top(likeness: Array) -> Array:
    ranked = np.sort(np.where(np.isnan(likeness), -np.inf, likeness), axis=0)[::-1]
    return np.asarray(ranked[: min(NEAREST, len(ranked) - 1 or 1)].mean(0))


def _denoise(denoiser: Denoises, x: Tensor, sigma: float) -> Tensor:
    return denoiser(x, torch.full((len(x),), sigma)).float()


def _noise(denoiser: Denoises, x: Tensor, sigma: float) -> Tensor:
    """The noise, of unit size, that the model sees in ``x``."""
    return (x - _denoise(denoiser, x, sigma)) / sigma


def _power(values: Tensor, weight: Tensor, order: int) -> Tensor:
    """Mean of a power over the voxels that count, one value an item."""
    weight = weight.expand_as(values)
    return (values.abs() ** order * weight).flatten(1).sum(1) / weight.flatten(1).sum(1).clamp_min(1)
