"""Slices whose noise is as large as their contrast: text in them is legible, yet no finder of lines can see it.

What can be seen there are strokes: in independent noise hardly ever do four pixels in a row have one and the same
value, in drawn text they do at every stem and bar. Text drawn with smooth edges or added to the noise has none, but it
shifts the mean of a box of a line's or word's size far more than chance does: words from twice the noise on are seen
so. Fainter ones may escape, and a noisy slice is never called free of text.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

# The share of the range that noise takes: real slices measured up to 0.09, noise alone (white, Rayleigh) 0.2 to 0.3.
_NOISE = 0.12
_NOISY_SHARE = 0.25
_TILE, _WIDE_TILE = 16, 32
_RUN = 4
# A value that so large a part of the picture has is ground (a masked background), not ink.
_GROUND_SHARE = 0.05
_LEAST_RUNS, _OVER_CHANCE = 5, 4.0
# Boxes of two characters to a line, 7 to 21 pixels high. In noise their means stray from their surroundings by up to
# 6.7 robust standard deviations (40 pictures, white, Rayleigh and smoothed), where there is a word of twice the noise's
# height by 7.4 and more.
_BOXES = ((7, 9), (9, 20), (11, 40), (15, 70), (21, 30))
_SURROUNDINGS, _STRAY = 33, 7.0
_SMOOTHING = 1.2


def is_noisy(image: Array) -> bool:
    """Whether noise hides what the finders look for, in a quarter of the picture or more.

    Noise is the median response, per tile of 16 by 16 pixels, to a kernel that smooth structure does not answer
    (Immerkaer, Computer Vision and Image Understanding 64:300, 1996), against the range of the picture.

    Args:
        image: Grey values, shape (rows, columns), any scale.
    """
    from scipy import ndimage

    grey = np.asarray(image, dtype=np.float64)
    rows, columns = (side // _TILE for side in grey.shape)
    if min(rows, columns) < 1 or not np.isfinite(grey).all():
        return False
    low, high = (float(value) for value in np.percentile(grey, (0.5, 99.5)))
    if high <= low:
        return False
    kernel = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]]) / 6.0
    response = np.abs(ndimage.convolve(grey, kernel))[: rows * _TILE, : columns * _TILE]
    tiles = response.reshape(rows, _TILE, columns, _TILE).swapaxes(1, 2).reshape(-1, _TILE * _TILE)
    noise = np.median(tiles, axis=1) / 0.6745
    return bool(np.mean(noise > _NOISE * (high - low)) >= _NOISY_SHARE)


def has_strokes(image: Array) -> bool:
    """Whether a noisy picture holds more straight strokes of one value than its noise has by chance.

    Chance is reckoned per tile of 32 by 32 pixels from the tile's own histogram.

    Args:
        image: Grey values, shape (rows, columns), any scale.
    """
    values, found, counts = np.unique(image, return_inverse=True, return_counts=True)
    codes: Array = found.reshape(image.shape)
    ground = np.flatnonzero(counts > _GROUND_SHARE * image.size)
    if len(ground) == len(values):
        return False
    ink = ~np.isin(codes, ground)
    starts = np.zeros(image.shape, dtype=np.int64)
    rows, columns = image.shape
    for axis, side in enumerate((rows, columns)):
        length = side - _RUN + 1
        if length < 1:
            continue
        first = np.take(codes, range(length), axis=axis)
        run = np.take(ink, range(length), axis=axis)
        for step in range(1, _RUN):
            run = run & (np.take(codes, range(step, step + length), axis=axis) == first)
        starts[tuple(slice(count) for count in run.shape)] += run
    for row in range(0, rows, _WIDE_TILE):
        for column in range(0, columns, _WIDE_TILE):
            tile = (slice(row, row + _WIDE_TILE), slice(column, column + _WIDE_TILE))
            inside = codes[tile]
            share = np.unique(inside[ink[tile]], return_counts=True)[1] / inside.size
            chance = 2 * inside.size * float((share**_RUN).sum())
            if starts[tile].sum() > _LEAST_RUNS + _OVER_CHANCE * chance:
                return True
    return False


def has_marks(image: Array) -> bool:
    """Whether somewhere in a picture of noise the mean of a box strays farther than chance has it.

    True where there is anatomy as well as where there is faint text.

    Args:
        image: Grey values, shape (rows, columns), any scale.
    """
    from scipy import ndimage

    grey = np.asarray(image, dtype=np.float32)
    low, high = np.percentile(grey, (1, 99))
    grey = np.clip(grey, low, high)
    flat = grey - ndimage.uniform_filter(grey, _SURROUNDINGS)
    spread = np.sqrt(ndimage.uniform_filter(flat**2, _SURROUNDINGS))
    even = flat / np.maximum(spread, 1e-6)
    for height, width in _BOXES:
        if 3 * height >= grey.shape[0] or width >= grey.shape[1]:
            continue
        for size in ((height, width), (width, height)):
            means = ndimage.uniform_filter(even, size)
            away = np.abs(means - np.median(means))
            if float(away.max()) > _STRAY * float(np.median(away)) / 0.6745:
                return True
    return False


def smoothed(image: Array) -> Array:
    """The picture as the eye sees it from farther away: text that is legible in noise stands out of it."""
    from scipy import ndimage

    return np.asarray(ndimage.gaussian_filter(np.asarray(image, dtype=np.float32), _SMOOTHING))
