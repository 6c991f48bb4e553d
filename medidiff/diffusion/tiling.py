"""Whole volumes from overlapping tiles, blended inside every evaluation.

The tiles' estimates of the clean image are averaged before the sampler takes its step, under one noise field of the
whole volume, so that tiles cannot drift apart. Memory grows with the tile, not with the volume.

Tiles start at multiples of the network's own grid; a tile then differs from the whole volume only by what lies
beyond its halo, and that is cut away.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from medidiff.diffusion.denoiser import Condition, GivenDenoiser, Preconditioned

Box = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]

# A tile's outermost voxels have seen padding instead of the head; beyond this many the effect on the shipped network
# is below 1e-4 of the intensity range (measured: benchmarks/tiling).
HALO = 32
# Voxels of one evaluation of the shipped network; about 1.1 GB at 4 bytes and 64 channels on the half grid.
MAX_TILE_VOXELS = 8_500_000


@dataclass(frozen=True, slots=True)
class Tiling:
    """How a volume is cut.

    Args:
        tile: Side of a tile's *core* in voxels; None takes the largest that ``max_voxels`` allows.
        halo: Voxels around the core that are computed and thrown away.
        max_voxels: Largest tile, halo included.
    """

    tile: int | None = None
    halo: int = HALO
    max_voxels: int = MAX_TILE_VOXELS

    def cores(self, shape: tuple[int, int, int], multiple: tuple[int, int, int]) -> list[Box]:
        """Boxes that cover the volume without overlap, starting at multiples of the network's grid."""
        counts = [1, 1, 1]
        if self.tile is not None:
            counts = [max(1, -(-n // self.tile)) for n in shape]
        else:
            while self._largest(shape, counts) > self.max_voxels:
                longest = max(range(3), key=lambda a: shape[a] / counts[a])
                counts[longest] += 1
        spans = [_spans(n, c, m) for n, c, m in zip(shape, counts, multiple, strict=True)]
        return list(itertools.product(*spans))

    def _largest(self, shape: tuple[int, int, int], counts: list[int]) -> int:
        voxels = 1
        for n, c in zip(shape, counts, strict=True):
            voxels *= min(n, -(-n // c) + 2 * self.halo)
        return voxels


def _spans(size: int, count: int, multiple: int) -> list[tuple[int, int]]:
    step = -(-size // (count * multiple)) * multiple
    return [(start, min(size, start + step)) for start in range(0, size, step)]


@dataclass(frozen=True, slots=True)
class TiledDenoiser:
    """A conditional model on a volume of any size: a ``Denoiser``.

    Args:
        model: Network with its preconditioning.
        condition: For the whole volume.
        tiling: How to cut it.
    """

    model: Preconditioned
    condition: Condition
    tiling: Tiling = Tiling()

    @property
    def sigma_min(self) -> float:
        return GivenDenoiser(self.model, self.condition).sigma_min

    @property
    def sigma_max(self) -> float:
        return GivenDenoiser(self.model, self.condition).sigma_max

    @property
    def spread(self) -> float:
        return GivenDenoiser(self.model, self.condition).spread

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        out = torch.empty_like(x)
        shape = (x.shape[2], x.shape[3], x.shape[4])
        multiple = self.model.network.multiple
        for core in self.tiling.cores(shape, multiple):
            seen = _grow(core, self.tiling.halo, shape, multiple)
            estimate = self._evaluate(x, sigma, seen, multiple)
            inner = tuple(slice(c0 - s0, c1 - s0) for (c0, c1), (s0, _) in zip(core, seen, strict=True))
            outer = tuple(slice(c0, c1) for c0, c1 in core)
            out[(..., *outer)] = estimate[(..., *inner)]
        return out

    def _evaluate(self, x: Tensor, sigma: Tensor, seen: Box, multiple: tuple[int, int, int]) -> Tensor:
        start, stop = tuple(a for a, _ in seen), tuple(b for _, b in seen)
        part = self.condition.crop(start, stop)  # type: ignore[arg-type]
        box = (..., *(slice(a, b) for a, b in seen))
        size = [b - a for a, b in seen]
        pad = list(itertools.chain.from_iterable((0, -n % m) for n, m in zip(reversed(size), reversed(multiple))))
        padded = Condition(_extend(part.reference, pad), _extend(part.known, pad), part.task, part.scale)
        estimate: Tensor = self.model(_extend(x[box], pad), sigma, padded)
        return estimate[..., : size[0], : size[1], : size[2]]


def _grow(core: Box, halo: int, shape: tuple[int, int, int], multiple: tuple[int, int, int]) -> Box:
    """The core with its halo, clipped to the volume and starting on the network's grid."""
    grown = []
    for (start, stop), size, m in zip(core, shape, multiple, strict=True):
        grown.append((max(0, (start - halo) // m * m), min(size, stop + halo)))
    return grown[0], grown[1], grown[2]


def _extend(x: Tensor, pad: list[int]) -> Tensor:
    """Repeat the last voxel up to the next multiple of the network's grid."""
    return functional.pad(x, pad, mode="replicate") if any(pad) else x
