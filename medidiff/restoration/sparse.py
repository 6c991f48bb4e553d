"""The strong classical answer to under-sampled k-space: of all images that agree with the data, one of few wavelets."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

# Daubechies' orthonormal filter of four taps, as BART and sigpy take it.
DB2 = (0.48296291314469025, 0.836516303737469, 0.22414386804185735, -0.12940952255092145)
LEVELS = 4
# Sides shorter than this are not split again.
SMALLEST_SIDE = 8
STEPS = 40


class Linear(Protocol):
    """What the solver needs of an operator, whose norm is at most 1."""

    in_shape: tuple[int, ...]

    def forward(self, x: Tensor) -> Tensor: ...
    def adjoint(self, y: Tensor) -> Tensor: ...


def sparse_reconstruction(
    operator: Linear,
    y: Tensor,
    weight: float,
    *,
    steps: int = STEPS,
    start: Tensor | None = None,
    anchor: tuple[Tensor, float] | None = None,
    dim: tuple[int, ...] = (-3, -2),
    seed: int = 0,
) -> Tensor:
    """Minimise ``|A x - y|^2 / 2 + weight |W x|_1 + pull |x - anchor|^2 / 2`` with orthonormal wavelets W.

    The wavelets are laid anew in every step, so that no block edges are left (cycle spinning).

    Args:
        operator: Measurement with a norm of at most 1.
        y: Measurements, shape (b, *operator.out_shape).
        weight: Of the wavelets, in units of the image.
        steps: Iterations.
        start: Image to begin from, shape (b, *operator.in_shape); by default the adjoint of the data.
        anchor: An image to stay near, and how strongly, against a weight of 1 for the data.
        dim: Axes of the wavelets.
        seed: For where the wavelets are laid.
    Source: Lustig, Donoho & Pauly (2007), Sparse MRI, Magn. Reson. Med. 58, 1182; solved as in Beck & Teboulle (2009),
    A fast iterative shrinkage-thresholding algorithm (FISTA), SIAM J. Imaging Sci. 2, 183, eq. (4.1) to (4.3).
    """
    generator = torch.Generator().manual_seed(seed)
    data = operator.adjoint(y)
    x = data if start is None else start.to(data.dtype)
    pull = 0.0 if anchor is None else anchor[1]
    lipschitz = 1 + pull
    before, ahead, t = x, x, 1.0
    for _ in range(steps):
        slope = operator.adjoint(operator.forward(ahead)) - data
        if anchor is not None:
            slope = slope + pull * (ahead - anchor[0])
        shift = [int(torch.randint(1 << LEVELS, (), generator=generator)) for _ in dim]
        x = shrink(ahead - slope / lipschitz, weight / lipschitz, dim, shift)
        t_next = (1 + (1 + 4 * t * t) ** 0.5) / 2
        ahead = x + (t - 1) / t_next * (x - before)
        before, t = x, t_next
    return x


def shrink(x: Tensor, threshold: float, dim: tuple[int, ...], shift: list[int]) -> Tensor:
    """Soft-threshold every wavelet coefficient but the coarsest averages."""
    moved = torch.roll(x, shift, dim)
    out = _shrink_level(moved, threshold, dim, LEVELS)
    return torch.roll(out, [-s for s in shift], dim)


def _shrink_level(x: Tensor, threshold: float, dim: tuple[int, ...], levels: int) -> Tensor:
    axes = [d for d in dim if x.shape[d] % 2 == 0 and x.shape[d] >= SMALLEST_SIDE]
    if levels == 0 or not axes:
        return x
    bands = [x]
    for d in axes:
        bands = [part for band in bands for part in split(band, d)]
    coarse, *details = bands
    done = [_shrink_level(coarse, threshold, dim, levels - 1), *(soft(band, threshold) for band in details)]
    for d in reversed(axes):
        done = [join(low, high, d) for low, high in zip(done[::2], done[1::2], strict=True)]
    return done[0]


def soft(x: Tensor, threshold: float) -> Tensor:
    """Shrink the modulus by the threshold, down to zero."""
    size = x.abs()
    return x * ((size - threshold).clamp_min(0) / size.clamp_min(torch.finfo(size.dtype).tiny))


def split(x: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Half as many averages and differences along an axis; the axis closes on itself."""
    even, odd = _phases(x, dim)
    h0, h1, h2, h3 = DB2
    even_next, odd_next = even.roll(-1, dim), odd.roll(-1, dim)
    low = h0 * even + h1 * odd + h2 * even_next + h3 * odd_next
    high = h3 * even - h2 * odd + h1 * even_next - h0 * odd_next
    return low, high


def join(low: Tensor, high: Tensor, dim: int) -> Tensor:
    """Undo ``split``: the transposed filters."""
    h0, h1, h2, h3 = DB2
    even = h0 * low + h3 * high + (h2 * low + h1 * high).roll(1, dim)
    odd = h1 * low - h2 * high + (h3 * low - h0 * high).roll(1, dim)
    axis = dim % low.ndim
    return torch.stack([even, odd], dim=axis + 1).flatten(axis, axis + 1)


def _phases(x: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    n = x.shape[dim]
    index = torch.arange(0, n, 2, device=x.device)
    return x.index_select(dim, index), x.index_select(dim, index + 1)
