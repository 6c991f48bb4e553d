"""Finds what looks like drawn text, without reading it.

Text that a machine drew has strokes of one value, characters of one height, and stands in lines. Anatomy and noise
hardly ever have all three. Candidates come from masks of single grey values that stand out of the histogram and of
thin structures brighter or darker than what is around them; connected parts of a character's size are then chained
into lines. Needs no OCR, so it also tells a machine without OCR what it must not let pass.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

_MIN_HEIGHT, _MAX_HEIGHT = 5, 120
# A line needs so many separate parts; "ID 7" is three. Shorter texts are left to OCR and to the rules by modality.
_MIN_PARTS = 4
# On plain ground three are enough, if they have one value (real slices: at most 0.43).
FEW_PARTS = 3
_PLAIN_SCORE, _PLAIN_GROUND = 0.8, 0.35
# Smooth edges leave less of one value; then more characters are asked for. Tall characters have flat strokes whatever
# their edges; rows of brains in a mosaic stand on plain ground too (score up to 0.46, three of them 0.77).
_SMOOTH_PARTS, _SMOOTH_SCORE = 6, 0.55
_TALL, _TALL_SCORE = 24, 0.88
_MAX_PARTS = 3000
_STROKE = (9, 25)


@dataclass(frozen=True, slots=True)
class TextLine:
    """A line that looks like text.

    Args:
        row0, row1, column0, column1: Where, ends exclusive.
        parts: Number of its characters, or of what is left when some join.
        score: Share of its pixels that have nearly one value, 0 to 1.
        value, ground: Grey value of the strokes, and of what is between them.
        alone: Whether it was seen to stand alone on plain ground.
    """

    row0: int
    row1: int
    column0: int
    column1: int
    parts: int
    score: float
    value: float = 0.0
    ground: float = 0.0
    alone: bool = False

    @property
    def box(self) -> tuple[int, int, int, int]:
        return self.row0, self.row1, self.column0, self.column1


def find_text_lines(image: Array, *, min_parts: int = _MIN_PARTS) -> list[TextLine]:
    """Lines of text-like structure in one grey image.

    Args:
        image: Grey values, shape (rows, columns), any scale.
        min_parts: Least number of separate parts (characters, or joined ones) in a line.
    Returns:
        Lines, best first; they may overlap. The score is the share of a line's pixels that have nearly its value.
    """
    grey = np.asarray(image, dtype=np.float32)
    if min(grey.shape) < 8 or not np.isfinite(grey).all():
        return []
    low, high = (float(value) for value in np.percentile(grey, (0.5, 99.5)))
    span = max(high - low, float(grey.max() - grey.min()) * 0.05)
    if span <= 0:
        return []
    found: list[TextLine] = []
    for mask in (*_spike_masks(image), *_thin_masks(grey, span)):
        found.extend(_lines(mask, grey, span, min_parts))
    return sorted(found, key=lambda line: (-line.score * min(line.parts, 12), line.box))


def _spike_masks(image: Array) -> list[Array]:
    """Masks of single values that are far more frequent than their neighbours in the histogram."""
    values, counts = np.unique(image, return_counts=True)
    if len(values) < 2:
        return []
    padded = np.pad(counts.astype(np.float64), 8, mode="reflect" if len(counts) > 8 else "constant")
    windows = np.lib.stride_tricks.sliding_window_view(padded, 17)
    expected = np.median(windows, axis=1)
    fits = (
        (counts >= 40)
        & (counts < 0.35 * image.size)
        & ((counts > 6 * expected) | (values == values[-1]) | (values == values[0]))
    )
    chosen = values[fits][np.argsort(-counts[fits])][:6]
    return [image == value for value in chosen]


def _thin_masks(grey: Array, span: float) -> list[Array]:
    """Masks of structures thinner than a stroke, bright on dark and dark on bright."""
    from scipy import ndimage

    masks = []
    for size in _STROKE:
        if min(grey.shape) <= 2 * size:
            continue
        bright = grey - ndimage.grey_opening(grey, size=(size, size))
        dark = ndimage.grey_closing(grey, size=(size, size)) - grey
        for hat in (bright, dark):
            noise = float(np.median(hat)) / 0.6745
            for threshold in {max(0.12 * span, 6 * noise), max(0.4 * span, 6 * noise)}:
                mask = hat > threshold
                if 20 < mask.sum() < 0.3 * mask.size:
                    masks.append(mask)
    return masks


def _lines(mask: Array, grey: Array, span: float, min_parts: int) -> list[TextLine]:
    from scipy import ndimage

    labels, count = ndimage.label(mask, structure=np.ones((3, 3)))
    if count < min_parts:
        return []
    sizes = np.bincount(labels.ravel())
    places = ndimage.find_objects(labels)
    parts, kept = [], []
    for label, place in enumerate(places, start=1):
        if place is None:
            continue
        height, width = place[0].stop - place[0].start, place[1].stop - place[1].start
        fill = sizes[label] / (height * width)
        if _MIN_HEIGHT <= height <= _MAX_HEIGHT and width <= 8 * height and fill > 0.12 and sizes[label] >= 5:
            parts.append((place[0].start, place[0].stop, place[1].start, place[1].stop))
            kept.append(label)
    if not min_parts <= len(parts) <= _MAX_PARTS:
        return []
    boxes = np.asarray(parts)
    return [
        line
        for members in _chains(boxes)
        if len(members) >= min_parts
        for line in [_judge(boxes[members], [kept[member] for member in members], labels, grey, span)]
        if line is not None
    ]


def _chains(boxes: Array) -> list[list[int]]:
    """Groups of boxes that stand beside one another like characters of one line."""
    order = np.argsort(boxes[:, 2], kind="stable")
    parent = list(range(len(boxes)))

    def root(item: int) -> int:
        while parent[item] != item:
            parent[item] = parent[parent[item]]
            item = parent[item]
        return item

    heights = boxes[:, 1] - boxes[:, 0]
    for position, one in enumerate(order):
        row0, row1, _, column1 = boxes[one]
        later = order[position + 1 :]
        gap = boxes[later, 2] - column1
        overlap = np.minimum(row1, boxes[later, 1]) - np.maximum(row0, boxes[later, 0])
        least = np.minimum(heights[one], heights[later])
        most = np.maximum(heights[one], heights[later])
        near = (gap <= 1.0 * most) & (gap >= -0.5 * most) & (overlap >= 0.6 * least) & (most <= 1.9 * least)
        for other in later[near]:
            parent[root(int(other))] = root(int(one))
    groups: dict[int, list[int]] = {}
    for item in range(len(boxes)):
        groups.setdefault(root(item), []).append(item)
    return list(groups.values())


def _judge(boxes: Array, labels: list[int], labelled: Array, grey: Array, span: float) -> TextLine | None:
    """A line, if its characters stand on one baseline and have one value."""
    row0, column0 = int(boxes[:, 0].min()), int(boxes[:, 2].min())
    row1, column1 = int(boxes[:, 1].max()), int(boxes[:, 3].max())
    height = float(np.median(boxes[:, 1] - boxes[:, 0]))
    bottoms, tops = boxes[:, 1], boxes[:, 0]
    aligned = max(
        np.mean(np.abs(bottoms - np.median(bottoms)) <= max(1.0, 0.15 * height)),
        np.mean(np.abs(tops - np.median(tops)) <= max(1.0, 0.15 * height)),
    )
    if aligned < 0.6 or column1 - column0 < 1.5 * height or row1 - row0 > 2.5 * height:
        return None
    inside = labelled[row0:row1, column0:column1]
    glyphs = np.isin(inside, labels)
    values, around = grey[row0:row1, column0:column1][glyphs], grey[row0:row1, column0:column1][~glyphs]
    if around.size == 0 or not _stands_out(values, around, span):
        return None
    strokes = values.size / max(1.0, float(((boxes[:, 1] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 2])).sum()))
    score = float(np.mean(np.abs(values - np.median(values)) <= 0.04 * span))
    if strokes > 0.85:  # filled blocks, not strokes
        return None
    ground = float(np.median(around))
    value = float(np.percentile(values, 80 if np.median(values) > ground else 20))
    return TextLine(row0, row1, column0, column1, len(boxes), score, value, ground)


def stands_alone(line: TextLine, image: Array) -> bool:
    """Whether a line of three or more characters of one value has nothing but plain ground around it."""
    tall = min(line.row1 - line.row0, line.column1 - line.column0) > _TALL
    least = _TALL_SCORE if tall else _SMOOTH_SCORE if line.parts >= _SMOOTH_PARTS else _PLAIN_SCORE
    if line.parts < FEW_PARTS or line.score < least:
        return False
    margin = max(4, (line.row1 - line.row0) // 2 + 1)
    row0, column0 = max(0, line.row0 - margin), max(0, line.column0 - margin)
    part = np.asarray(image[row0 : line.row1 + margin, column0 : line.column1 + margin], dtype=np.float32)
    around = np.ones(part.shape, dtype=bool)
    # one pixel at the strokes is their smooth edge, not ground
    rows = slice(max(0, line.row0 - row0 - 1), line.row1 - row0 + 1)
    columns = slice(max(0, line.column0 - column0 - 1), line.column1 - column0 + 1)
    around[rows, columns] = False
    if not around.any():
        return False
    away = float(np.percentile(np.abs(part[around] - line.ground), 98))
    return away < _PLAIN_GROUND * abs(line.value - line.ground)


def extended(line: TextLine, image: Array) -> tuple[int, int, int, int]:
    """The line's box with the characters beside it that were joined to something or too few to be a line.

    Columns are added while ink of the line's value comes within 1.2 times its height, at most four heights each way.
    """
    rows = np.asarray(image[line.row0 : line.row1], dtype=np.float32)
    tolerance = 0.35 * abs(line.value - line.ground)
    inked = (np.abs(rows - line.value) <= tolerance).any(axis=0)
    height = line.row1 - line.row0
    ends = []
    for start, step in ((line.column0, -1), (line.column1 - 1, 1)):
        end = last = start
        while 0 <= end + step < len(inked) and abs(end - start) < 4 * height and abs(end - last) <= 1.2 * height:
            end += step
            last = end if inked[end] else last
        ends.append(last)
    return line.row0, line.row1, ends[0], ends[1] + 1


def _stands_out(values: Array, around: Array, span: float) -> bool:
    """Whether the strokes differ from what is between them: against the picture's range, or against quiet ground."""
    middle = float(np.median(around))
    contrast = abs(float(np.median(values)) - middle)
    noise = float(np.median(np.abs(around - middle))) / 0.6745
    return contrast > 4 * noise and (contrast > 0.1 * span or (noise < 0.002 * span and contrast > 0.02 * span))
