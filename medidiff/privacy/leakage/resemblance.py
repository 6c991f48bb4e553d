"""How much a volume looks like one person, and like nobody else, however it was flipped, moved, bent or re-contrasted.

Two people's scans agree in what all people share: the coarse shapes, and which tissue is bright. What tells a copy is
fine structure at many places at once. So volumes are reduced to a band of spatial frequencies of unit local size, in
which contrast and shading are gone, and compared block by block: each block of one is sought in the neighbourhood of
its place in the other, so that small rotations and bending are movements of blocks. The sign of a correlation does not
count: an inverted contrast is no disguise. All eight flips are tried.

First coarsely against everybody; then finely against the few that came nearest. ``lead`` is how much further the
likeness to the nearest person goes than to the next ones: a blurred or blended copy is less alike, and still leads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

from medidiff.errors import InputError

Array = NDArray[Any]
Box = tuple[int, int, int]

# More voxels a side than this cost much and tell nothing more of who it is.
MOST_SIDE = 64
FEWEST_SIDE = 16
# Bands in voxels: standard deviations of the narrow and the wide Gaussian whose difference they are.
COARSE_BAND, FINE_BAND = (1.0, 3.0), (0.6, 2.0)
# The coarse grid has every second voxel.
COARSE_BLOCK, COARSE_REACH = 10, 3
FINE_BLOCK, FINE_REACH = 12, 2
# A cropped copy has lost some blocks, a bent one has some beyond reach: the best of them count.
COUNTED = 2 / 3
SHORTLIST = 6
FLIPS = tuple(product((False, True), repeat=3))
_PEOPLE_AT_ONCE, _QUERIES_AT_ONCE = 20, 40


@dataclass(frozen=True, slots=True)
class Match:
    """What was found for one volume among some people.

    Args:
        person: The nearest one: index into the gallery.
        likeness: Correlation of fine structure with that person, 0 to 1.
        lead: How much higher that is than the middle of the next people's.
        flips: Axes under which it was nearest.
        inverted: Whether dark and bright were exchanged.
    """

    person: int
    likeness: float
    lead: float
    flips: tuple[bool, bool, bool]
    inverted: bool

    @property
    def under(self) -> str:
        """The transformation in words."""
        # Axes of a gallery lie along right, anterior, superior.
        directions = ("left to right", "front to back", "top to bottom")
        names = [name for name, is_flipped in zip(directions, self.flips, strict=True) if is_flipped]
        told = [f"flipped {' and '.join(names)}"] if names else []
        return ", ".join(told + (["contrast inverted"] if self.inverted else [])) or "as it is"


@dataclass(frozen=True, slots=True, eq=False)
class Searched:
    """The result of a search.

    Args:
        coarse: Coarse likeness to everybody, shape (queries, people), 0 to 1; NaN where one was left out.
        matches: For each group of people that was asked for, a match for each query.
    """

    coarse: Array
    matches: tuple[tuple[Match, ...], ...]


def joined(parts: Sequence[Searched]) -> Searched:
    """One result of searches that were made in pieces, in order."""
    groups = zip(*(part.matches for part in parts), strict=True)
    matches = tuple(tuple(match for piece in group for match in piece) for group in groups)
    return Searched(np.concatenate([part.coarse for part in parts]), matches)


class Gallery:
    """People among whom copies are sought.

    Args:
        volumes: Shape (n, i, j, k), any units.
    Raises:
        InputError: nobody, or a grid with fewer than 16 voxels a side.
    """

    def __init__(self, volumes: Array) -> None:
        if len(volumes) == 0 or min(volumes.shape[1:]) < FEWEST_SIDE:
            raise InputError(
                f"copies are sought among volumes of {FEWEST_SIDE} voxels a side or more, got {volumes.shape}"
            )
        fine, coarse = zip(*(_bands(volume) for volume in volumes), strict=True)
        self._fine, self._coarse = torch.stack(fine), torch.stack(coarse)
        self._coarse_starts = _spread(self._coarse.shape[1:], COARSE_BLOCK)
        self._fine_starts = _tiled(self._fine.shape[1:], FINE_BLOCK)

    def __len__(self) -> int:
        return len(self._fine)

    def search(
        self, queries: Array, groups: Sequence[Sequence[int]] | None = None, leave_out: Sequence[int] | None = None
    ) -> Searched:
        """Look for each query among everybody.

        Args:
            queries: Shape (q, i, j, k), on the gallery's grid.
            groups: Lists of people within each of which the nearest is wanted; everybody as one group by default.
            leave_out: For each query a person who does not count: itself; -1 for none.
        """
        wanted = [list(group) for group in groups] if groups is not None else [list(range(len(self)))]
        rows: list[Array] = []
        found: list[list[Match]] = [[] for _ in wanted]
        for start in range(0, len(queries), _QUERIES_AT_ONCE):
            pieces = [_bands(query) for query in queries[start : start + _QUERIES_AT_ONCE]]
            scores, flips, shifts = self._coarsely(torch.stack([coarse for _, coarse in pieces]))
            for number, (fine, coarse) in enumerate(pieces):
                row = scores[number].numpy().astype(np.float64)
                if leave_out is not None and leave_out[start + number] >= 0:
                    row[leave_out[start + number]] = np.nan
                rows.append(row)
                for group, told in zip(wanted, found, strict=True):
                    told.append(self._nearest(fine, coarse, row, flips[number], shifts[number], group))
        return Searched(np.stack(rows), tuple(tuple(told) for told in found))

    def _coarsely(self, queries: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Likeness, the flip and the common shift of the blocks at which it was found, each (queries, people)."""
        blocks = torch.stack([_blocks(_flipped(queries, flip), self._coarse_starts, COARSE_BLOCK) for flip in FLIPS], 1)
        count, turned, places = blocks.shape[:3]
        width = 2 * COARSE_REACH + 1
        parts: list[tuple[Tensor, Tensor, Tensor]] = []
        for start in range(0, len(self), _PEOPLE_AT_ONCE):
            people = self._coarse[start : start + _PEOPLE_AT_ONCE]
            total = torch.zeros(count * turned * len(people), 1, width, width, width)
            windows = _windows(people, self._coarse_starts, COARSE_BLOCK, COARSE_REACH)
            for place, (window, length) in enumerate(windows):
                found = blocks[:, :, place].flatten(0, 1) @ window.flatten(0, 1).T / length.flatten()
                # Squares: the sign is no disguise, and the blocks that agree well count most.
                total += _pooled(found.square().view(-1, 1, width, width, width))
            best, where = total.view(count, turned, len(people), -1).max(-1)
            best, flip = best.max(1)
            parts.append(((best / places).sqrt(), flip, where.gather(1, flip[:, None])[:, 0]))
        likeness, flip, where = (torch.cat(part, 1) for part in zip(*parts, strict=True))
        return likeness, flip, where

    def _nearest(
        self, fine: Tensor, coarse: Tensor, row: Array, flips: Tensor, shifts: Tensor, group: list[int]
    ) -> Match:
        """The fine comparison with the few of the group that are coarsely nearest."""
        known = [person for person in group if not np.isnan(row[person])]
        chosen = sorted(known, key=lambda person: -row[person])[:SHORTLIST]
        found = []
        for person in chosen:
            flip = FLIPS[int(flips[person])]
            moved = self._block_shifts(_flipped(coarse[None], flip), person, int(shifts[person]))
            likeness, inverted = self._finely(_flipped(fine[None], flip), person, moved)
            found.append((likeness, person, flip, inverted))
        found.sort(key=lambda one: (-one[0], one[1]))
        likeness, person, flip, inverted = found[0]
        others = [one[0] for one in found[1:]]
        lead = likeness - float(np.median(others)) if others else 0.0
        return Match(person, likeness, lead, (flip[0], flip[1], flip[2]), inverted)

    def _block_shifts(self, query: Tensor, person: int, common: int) -> Array:
        """Where each coarse block fits best, near the shift that fits them all; voxels of the fine grid."""
        width = 2 * COARSE_REACH + 1
        centre = np.array(np.unravel_index(common, (width,) * 3))
        low, high = np.maximum(centre - 1, 0), np.minimum(centre + 2, width)
        box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        blocks = _blocks(query, self._coarse_starts, COARSE_BLOCK)[0]
        windows = _windows(self._coarse[person : person + 1], self._coarse_starts, COARSE_BLOCK, COARSE_REACH)
        shifts = []
        for block, (window, length) in zip(blocks, windows, strict=True):
            near = (window[0] @ block / length[0]).square().view(width, width, width)[box]
            place = np.unravel_index(int(near.argmax()), near.shape)
            shifts.append((np.array(place) + low - COARSE_REACH) * 2)
        return np.array(shifts, dtype=np.float64)

    def _finely(self, query: Tensor, person: int, moved: Array) -> tuple[float, bool]:
        """Mean correlation of the best blocks with the person, each sought where its coarse neighbours were found."""
        size, reach = _size(self._fine.shape[1:], FINE_BLOCK), FINE_REACH
        room = 2 * COARSE_REACH + reach + 2
        padded = functional.pad(self._fine[person][None, None], (room,) * 6, mode="replicate")[0]
        centres = (np.array(self._coarse_starts) + np.array(_size(self._coarse.shape[1:], COARSE_BLOCK)) / 2) * 2
        starts = []
        for start in self._fine_starts:
            weight = 1 / (((centres - (np.array(start) + np.array(size) / 2)) ** 2).sum(1) + 25.0)
            shift = np.rint((weight[:, None] * moved).sum(0) / weight.sum()).astype(int)
            starts.append(tuple(int(a) for a in np.array(start) + shift + room))
        blocks = _blocks(query, self._fine_starts, FINE_BLOCK)[0]
        cuts = (_cut(padded, start, size, reach) for start in starts)
        found = torch.stack(
            [window[0] @ block / length[0] for (window, length), block in zip(cuts, blocks, strict=True)]
        )
        counted = max(1, round(COUNTED * len(found)))
        upright, inverted = (float((s * found).amax(1).topk(counted).values.mean()) for s in (1, -1))
        return max(upright, inverted), inverted > upright


def reduced(volume: Array) -> Array:
    """The volume with at most ``MOST_SIDE`` voxels a side, an even number of them, by averages over whole blocks."""
    step = -(-max(volume.shape) // MOST_SIDE)
    counts = [n // step // 2 * 2 for n in volume.shape]
    starts = [(n - count * step) // 2 for n, count in zip(volume.shape, counts, strict=True)]
    kept = volume[tuple(slice(a, a + count * step) for a, count in zip(starts, counts, strict=True))]
    i, j, k = counts
    return np.asarray(kept.reshape(i, step, j, step, k, step).mean((1, 3, 5)), dtype=np.float32)


def _bands(volume: Array) -> tuple[Tensor, Tensor]:
    small = reduced(volume)
    coarse = _band(small, *COARSE_BAND)
    i, j, k = coarse.shape
    halved = coarse.reshape(i // 2, 2, j // 2, 2, k // 2, 2).mean((1, 3, 5))
    return torch.from_numpy(_band(small, *FINE_BAND)), torch.from_numpy(halved)


def _band(volume: Array, narrow: float, wide: float) -> Array:
    """A band of frequencies, divided by its own local size: neither contrast nor shading is left."""
    smooth = [ndimage.gaussian_filter(volume, s, mode="nearest") for s in (narrow, wide)]
    band = smooth[0] - smooth[1]
    local = np.sqrt(ndimage.gaussian_filter(band * band, 2 * wide, mode="nearest"))
    return np.asarray(band / (local + 0.02 * band.std() + 1e-6), dtype=np.float32)


def flip_axes(flip: Sequence[bool]) -> tuple[int, ...]:
    """The axes that a flip turns around."""
    return tuple(axis for axis in range(3) if flip[axis])


def _flipped(volumes: Tensor, flip: Sequence[bool]) -> Tensor:
    return torch.flip(volumes, [axis + 1 for axis in range(3) if flip[axis]])


def _size(shape: Sequence[int], block: int) -> Box:
    i, j, k = (min(block, n) for n in shape)
    return i, j, k


def _spread(shape: Sequence[int], block: int) -> list[Box]:
    """Corners of blocks that cover the whole grid, overlapping evenly."""
    axes = [np.linspace(0, max(0, n - block), -(-n // block)).round().astype(int).tolist() for n in shape]
    return [(i, j, k) for i, j, k in product(*axes)]


def _tiled(shape: Sequence[int], block: int) -> list[Box]:
    """Corners of blocks side by side around the middle."""
    axes = []
    for n in shape:
        count = max(1, n // block)
        axes.append([(n - min(n, count * block)) // 2 + number * block for number in range(count)])
    return [(i, j, k) for i, j, k in product(*axes)]


def _unit(values: Tensor) -> Tensor:
    centred = values - values.mean(-1, keepdim=True)
    unit: Tensor = centred / (centred.norm(dim=-1, keepdim=True) + 1e-6)
    return unit


def _blocks(volumes: Tensor, starts: Sequence[Box], block: int) -> Tensor:
    """Blocks as unit vectors, shape (n, blocks, voxels)."""
    a, b, c = _size(volumes.shape[1:], block)
    cut = [volumes[:, i : i + a, j : j + b, k : k + c].flatten(1) for i, j, k in starts]
    return _unit(torch.stack(cut, 1))


def _windows(volumes: Tensor, starts: Sequence[Box], block: int, reach: int) -> Iterator[tuple[Tensor, Tensor]]:
    """For each block every piece within reach of it; see ``_cut``."""
    size = _size(volumes.shape[1:], block)
    padded = functional.pad(volumes[:, None], (reach,) * 6, mode="replicate")[:, 0]
    for i, j, k in starts:
        yield _cut(padded, (i + reach, j + reach, k + reach), size, reach)


def _cut(volumes: Tensor, start: Sequence[int], size: Box, reach: int) -> tuple[Tensor, Tensor]:
    """Every piece of a size within reach of a place, shape (n, shifts, voxels), and its length about its mean.

    A product of a piece with a block of mean zero, divided by that length, is their correlation: the pieces, which are
    many, need not be centred themselves.
    """
    region = volumes
    for axis in range(3):
        region = region.narrow(axis + 1, start[axis] - reach, size[axis] + 2 * reach)
    count = size[0] * size[1] * size[2]
    stacked = torch.stack([region, region.square()], 1)
    mean, square = functional.avg_pool3d(stacked, size, stride=1).flatten(2).unbind(1)
    length = ((square - mean.square()).clamp_min(0) * count).sqrt() + 1e-6
    for axis in range(3):
        region = region.unfold(axis + 1, size[axis], 1)
    windows: Tensor = region.flatten(4).flatten(1, 3)
    return windows, length


def _pooled(values: Tensor) -> Tensor:
    """The largest value within one step along each axis: blocks may move one step from the common shift."""
    for axis in range(3):
        kernel, padding = [1, 1, 1], [0, 0, 0]
        kernel[axis], padding[axis] = 3, 1
        values = functional.max_pool3d(values, kernel, 1, padding)
    return values
