"""Boxes in a picture: how they lie to one another, and how tightly they hold what is drawn in them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medidiff.privacy.textlike import TextLine

Array = NDArray[Any]
Region = tuple[int, int, int, int]


def grown(region: Region, shape: tuple[int, ...]) -> Region:
    """Room for serifs, descenders and the smooth edge of glyphs."""
    row0, row1, column0, column1 = region
    along = 2 + min(row1 - row0, column1 - column0) // 3
    up, side = (1, along) if column1 - column0 >= row1 - row0 else (along, 1)
    return max(0, row0 - up), min(shape[0], row1 + up), max(0, column0 - side), min(shape[1], column1 + side)


def overlap(one: Region, other: Region) -> float:
    rows = min(one[1], other[1]) - max(one[0], other[0])
    columns = min(one[3], other[3]) - max(one[2], other[2])
    area = (one[1] - one[0]) * (one[3] - one[2])
    return max(0, rows) * max(0, columns) / max(1, area)


def touches_any(box: Region, regions: list[Region]) -> bool:
    return any(overlap(box, region) > 0 for region in regions)


def covers_any(box: Region, regions: list[Region]) -> bool:
    """Whether a region lies on the line, and not just across a corner of it."""
    return any(overlap(region, box) > 0.4 or overlap(box, region) > 0.4 for region in regions)


def tight(region: Region, views: list[Array], shape: tuple[int, ...]) -> Region:
    """The region without the rows and columns at its edges where nothing stands out, plus one pixel for smooth edges.

    Strokes are what differs from the ground (the median of the region's border) by a quarter of the largest difference.
    """
    row0, row1, column0, column1 = region
    inked = np.zeros((row1 - row0, column1 - column0), dtype=bool)
    for view in views:
        part = view[row0:row1, column0:column1]
        border = np.concatenate([part[0], part[-1], part[:, 0], part[:, -1]])
        away = np.abs(part - np.median(border))
        inked |= away > 0.25 * max(float(away.max()), 1e-6)
    rows, columns = np.flatnonzero(inked.any(axis=1)), np.flatnonzero(inked.any(axis=0))
    if not len(rows):
        return region
    return (
        max(0, row0 + int(rows[0]) - 1), min(shape[0], row0 + int(rows[-1]) + 2),
        max(0, column0 + int(columns[0]) - 1), min(shape[1], column0 + int(columns[-1]) + 2),
    )  # fmt: skip


def distinct(lines: list[TextLine]) -> list[TextLine]:
    """The best of lines that lie in the same place."""
    kept: list[TextLine] = []
    for line in sorted(lines, key=lambda item: -item.score * min(item.parts, 12)):
        if not any(overlap(line.box, other.box) > 0.7 and overlap(other.box, line.box) > 0.4 for other in kept):
            kept.append(line)
    return kept


def merged(regions: list[Region]) -> list[Region]:
    """Regions of one line of text as one: what stands between two words goes too."""
    merged = sorted(set(regions))
    changed = True
    while changed:
        changed = False
        for first in range(len(merged)):
            for second in range(first + 1, len(merged)):
                one, other = merged[first], merged[second]
                if _one_line(one, other):
                    joined = (
                        min(one[0], other[0]),
                        max(one[1], other[1]),
                        min(one[2], other[2]),
                        max(one[3], other[3]),
                    )
                    merged = [item for position, item in enumerate(merged) if position not in (first, second)] + [
                        joined
                    ]
                    changed = True
                    break
            if changed:
                break
    return merged


def _one_line(one: Region, other: Region) -> bool:
    rows = min(one[1], other[1]) - max(one[0], other[0])
    heights = (one[1] - one[0], other[1] - other[0])
    gap = max(one[2], other[2]) - min(one[3], other[3])
    return rows >= 0.6 * min(heights) and max(heights) <= 1.8 * min(heights) and gap <= 0.8 * max(heights)


def share(regions: list[Region], shape: tuple[int, ...]) -> float:
    mask = np.zeros(shape, dtype=bool)
    for row0, row1, column0, column1 in regions:
        mask[row0:row1, column0:column1] = True
    return float(mask.mean())


def turned_back(line: TextLine, shape: tuple[int, ...]) -> TextLine:
    """A line found in a picture turned counter-clockwise, where it is in the picture as it was."""
    columns = shape[1]
    return replace(
        line, row0=line.column0, row1=line.column1, column0=columns - line.row1, column1=columns - line.row0
    )  # fmt: skip
