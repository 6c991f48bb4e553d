"""Whole volumes from overlapping tiles, blended inside every evaluation.

The tiles' estimates of the clean image are averaged before the sampler takes its step, under one noise field of the
whole volume, so that tiles cannot drift apart. Memory grows with the tile, not with the volume.

Tiles start at multiples of the network's own grid; a tile then differs from the whole volume only by what lies
beyond its halo, and that is cut away.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from types import EllipsisType

import torch
from torch import Tensor
from torch.nn import functional

from medidiff.diffusion.denoiser import Condition, GivenDenoiser, Preconditioned
from medidiff.errors import ConfigError

Span = tuple[int, int]
Box = tuple[Span, Span, Span]

# A tile's outermost voxels have seen padding instead of the head. The receptive radius of the shipped network is 98
# voxels, but what it sees so far away hardly counts: on a T1 head tiles differ from the whole volume by at most 7.5e-3
# of the intensity range with a halo of 8, 6e-4 with 16, 3e-5 with 32 (6e-7 rms) and 7e-7 with 48; a test holds to it.
HALO = 32
# Voxels of one evaluation of the shipped network; about 1.1 GB at 4 bytes and 64 channels on the half grid.
MAX_TILE_VOXELS = 8_500_000


@dataclass(frozen=True, slots=True)
class Tiling:
    """How a volume is cut.

    Args:
        tile: Side of a tile's *core* in voxels, rounded up to the network's grid; None takes the largest that
            ``max_voxels`` allows.
        halo: Voxels around the core that are computed and thrown away.
        max_voxels: Largest tile that the network is shown, halo and padding included; used if ``tile`` is None.
    """

    tile: int | None = None
    halo: int = HALO
    max_voxels: int = MAX_TILE_VOXELS

    def cores(
        self,
        shape: tuple[int, int, int],
        multiple: tuple[int, int, int],
        halos: tuple[int, int, int] | None = None,
    ) -> list[Box]:
        """Boxes that cover the volume without overlap, starting at multiples of the network's grid.

        Args:
            halos: Along each axis; ``halo`` along all if None.
        Raises:
            ConfigError: not even the smallest tile fits into ``max_voxels`` with its halo.
        """
        counts = [1, 1, 1]
        if self.tile is not None:
            counts = [max(1, -(-n // self.tile)) for n in shape]
        else:
            halos = halos or (self.halo,) * 3
            while self._largest(shape, counts, multiple, halos) > self.max_voxels:
                # An axis whose core is one step of the network's grid cannot be cut further.
                free = [a for a in range(3) if shape[a] > counts[a] * multiple[a]]
                if not free:
                    raise ConfigError(
                        f"a tile with a halo of {self.halo} voxels does not fit into {self.max_voxels} voxels; "
                        "allow larger tiles or a smaller halo"
                    )
                counts[max(free, key=lambda a: shape[a] / counts[a])] += 1
        i, j, k = (_spans(n, c, m) for n, c, m in zip(shape, counts, multiple, strict=True))
        return list(itertools.product(i, j, k))

    def _largest(
        self,
        shape: tuple[int, int, int],
        counts: list[int],
        multiple: tuple[int, int, int],
        halos: tuple[int, int, int],
    ) -> int:
        """Voxels of the largest tile that the network would be shown."""
        voxels = 1
        for n, c, m, h in zip(shape, counts, multiple, halos, strict=True):
            seen = (_grow(span, h, n, m) for span in _spans(n, c, m))
            voxels *= max(-(-(stop - start) // m) * m for start, stop in seen)
        return voxels


def _spans(size: int, count: int, multiple: int) -> list[Span]:
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
        multiple, halo = self.model.multiple, self.tiling.halo
        # Planes that never meet in the network need no neighbours.
        halos = (halo, halo, 0 if self.model.planar else halo)
        for core in self.tiling.cores(shape, multiple, halos):
            i, j, k = (_grow(c, h, n, m) for c, h, n, m in zip(core, halos, shape, multiple, strict=True))
            seen = (i, j, k)
            estimate = self._evaluate(x, sigma, seen, multiple)
            inner = tuple((c0 - s0, c1 - s0) for (c0, c1), (s0, _) in zip(core, seen, strict=True))
            out[_slices(core)] = estimate[_slices(inner)]
        return out

    def _evaluate(self, x: Tensor, sigma: Tensor, seen: Box, multiple: tuple[int, int, int]) -> Tensor:
        (i0, i1), (j0, j1), (k0, k1) = seen
        part = self.condition.crop((i0, j0, k0), (i1, j1, k1))
        size = [b - a for a, b in seen]
        # The last axis comes first, as ``functional.pad`` has it.
        missing = [-n % m for n, m in zip(size, multiple, strict=True)]
        pad = [0, missing[2], 0, missing[1], 0, missing[0]]
        padded = Condition(_extend(part.reference, pad), _extend(part.known, pad), part.task, part.scale)
        estimate: Tensor = self.model(_extend(x[_slices(seen)], pad), sigma, padded)
        return estimate[..., : size[0], : size[1], : size[2]]


def _grow(span: Span, halo: int, size: int, multiple: int) -> Span:
    """A core's extent along an axis with its halo, clipped to the volume and starting on the network's grid."""
    return max(0, (span[0] - halo) // multiple * multiple), min(size, span[1] + halo)


def _slices(box: tuple[Span, ...]) -> tuple[EllipsisType, slice, slice, slice]:
    i, j, k = (slice(a, b) for a, b in box)
    return ..., i, j, k


def _extend(x: Tensor, pad: list[int]) -> Tensor:
    """Repeat the last voxel up to the next multiple of the network's grid."""
    return functional.pad(x, pad, mode="replicate") if any(pad) else x
