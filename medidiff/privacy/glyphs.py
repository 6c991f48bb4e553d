"""Single drawn characters, and too few of them to be a line: initials, an age, a side marker.

A line gives itself away by its characters standing side by side. One character has only its strokes: thin for its
height, of one value, and ending sharply all around. Two kinds are looked for: strokes of exactly one value, on any
ground; and strokes with smooth edges but a flat top, on plain ground. Anatomy that has all of this is rare, and small.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from medidiff.privacy.regions import Region, merged

Array = NDArray[Any]

_HEIGHTS = (6, 64)
_LEAST_PIXELS, _MOST_SHARE = 10, 0.02
_MOST_EQUAL, _MOST_TEXTS = 2000, 8
# Where so many neighbours have one value by nature (few grey values), that says nothing.
_EQUAL_SHARE, _GROUND_SHARE = 0.15, 0.05
# Strokes end: so many of the pixels two steps away differ by so much of the range.
_SHARP, _SHARP_SHARE = 0.05, 0.88
_STROKE, _FILL = 0.22, 0.72
# Smooth strokes: how flat their top is and how plain the ground around, as parts of the contrast; least contrast.
_FLAT, _PLAIN, _CONTRAST = 0.10, 0.12, 0.2


def find_glyphs(image: Array) -> list[Region]:
    """Boxes of what looks like a drawn character by itself.

    Args:
        image: Grey values, shape (rows, columns), any scale.
    Returns:
        Boxes with one pixel around the strokes; none where more are found than anybody draws one by one.
    """
    grey = np.asarray(image, dtype=np.float32)
    if min(grey.shape) < 16 or not np.isfinite(grey).all():
        return []
    low, high = (float(value) for value in np.percentile(grey, (0.5, 99.5)))
    span = max(high - low, 0.05 * float(grey.max() - grey.min()))
    if span <= 0:
        return []
    values, counts = np.unique(grey, return_counts=True)
    ground = values[counts > _GROUND_SHARE * grey.size]
    found = [*_of_one_value(np.asarray(image), grey, span), *_flat_on_plain(grey, span, ground)]
    boxes = merged(found)
    return boxes if len(boxes) <= _MOST_TEXTS else []


def _of_one_value(image: Array, grey: Array, span: float) -> list[Region]:
    """Connected pixels of exactly one value that end sharply all around, with what stands beside them on their line.

    One of them by itself has to stand on plain ground; a bare bar may be the edge of anything and needs another part.
    """
    found: list[tuple[Region, float, bool]] = []
    if _is_coarse(image):
        return []
    values, counts = np.unique(image, return_counts=True)
    ground = values[counts > _GROUND_SHARE * image.size]
    for place, part in _equal_parts(image):
        if image[place][part][0] in ground:
            continue
        value = float(grey[place][part][0])
        mask = image[_around(place, 3)] == image[place][part][0]
        if _is_thin(part) and _ends_sharply(grey, mask, place, part, value, span):
            alone = _is_stroke(part) and _is_flat_on_plain(grey, place, part, span)
            found.append((_box(place, grey.shape), value, alone))
    boxes = []
    for box, value, alone in found:
        if alone or any(other is not box and level == value and _beside(box, other) for other, level, _ in found):
            boxes.append(_extended(box, grey == value))
    return boxes


def _is_coarse(image: Array) -> bool:
    """Whether neighbours outside the ground often have one value."""
    values, codes, counts = np.unique(image, return_inverse=True, return_counts=True)
    del values
    ink = ~np.isin(codes.reshape(image.shape), np.flatnonzero(counts > _GROUND_SHARE * image.size))
    both = ink[:, 1:] & ink[:, :-1]
    return bool(both.any()) and float(np.mean((image[:, 1:] == image[:, :-1])[both])) > _EQUAL_SHARE


def _equal_parts(image: Array) -> list[tuple[tuple[slice, slice], Array]]:
    """Connected parts whose pixels all have one value, of a character's size."""
    from scipy import ndimage
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    number = np.arange(image.size).reshape(image.shape)
    pairs = []
    for one, other in (
        ((slice(None), slice(None, -1)), (slice(None), slice(1, None))),
        ((slice(None, -1), slice(None)), (slice(1, None), slice(None))),
        ((slice(None, -1), slice(None, -1)), (slice(1, None), slice(1, None))),
        ((slice(None, -1), slice(1, None)), (slice(1, None), slice(None, -1))),
    ):
        same = image[one] == image[other]
        pairs.append(np.stack([number[one][same], number[other][same]]))
    rows, columns = np.concatenate(pairs, axis=1)
    graph = coo_array((np.ones(rows.size, dtype=bool), (rows, columns)), shape=(image.size, image.size))
    _, labels = connected_components(graph, directed=False)
    sizes = np.bincount(labels)
    chosen = np.flatnonzero((sizes >= _LEAST_PIXELS) & (sizes < _MOST_SHARE * image.size))
    if not 0 < len(chosen) <= _MOST_EQUAL:
        return []
    renumbered = np.zeros(sizes.size, dtype=np.int32)
    renumbered[chosen] = np.arange(1, len(chosen) + 1)
    labelled = renumbered[labels].reshape(image.shape)
    parts = []
    for label, place in enumerate(ndimage.find_objects(labelled), start=1):
        height, width = place[0].stop - place[0].start, place[1].stop - place[1].start
        if _HEIGHTS[0] <= height <= _HEIGHTS[1] and width <= 1.6 * height:
            parts.append((place, labelled[place] == label))
    return parts


def _around(place: tuple[slice, slice], margin: int) -> tuple[slice, slice]:
    rows, columns = (slice(max(0, side.start - margin), side.stop + margin) for side in place)
    return rows, columns


def _beside(one: Region, other: Region) -> bool:
    """Whether two boxes stand on one line, no farther apart than characters of two words."""
    height = min(one[1] - one[0], other[1] - other[0])
    overlap = min(one[1], other[1]) - max(one[0], other[0])
    gap = max(one[2], other[2]) - min(one[3], other[3])
    return overlap > 0.5 * height and gap < 1.5 * height


def _extended(box: Region, mask: Array) -> Region:
    """With the columns beside it in which more of its value comes, up to two heights away on each side."""
    row0, row1, column0, column1 = box
    inked: Array = np.asarray(mask[row0 + 1 : row1 - 1].any(axis=0))
    reach = row1 - row0
    for _ in range(2):
        left = np.flatnonzero(inked[max(0, column0 - reach) : column0])
        right = np.flatnonzero(inked[column1 : column1 + reach])
        column0 = max(0, column0 - reach) + int(left[0]) if len(left) else column0
        column1 = column1 + int(right[-1]) + 1 if len(right) else column1
    return row0, row1, max(0, column0 - 1), min(mask.shape[1], column1 + 1)


def _flat_on_plain(grey: Array, span: float, ground: Array) -> list[Region]:
    """Thin parts with a flat top that have nothing but plain ground around them.

    What is as dark as the picture's background is a hole in what is shown (furrows of a masked brain), not ink.
    """
    from scipy import ndimage

    boxes = []
    for size in (9, 17):
        if min(grey.shape) <= 2 * size:
            continue
        bright = grey - ndimage.grey_opening(grey, size=(size, size))
        dark = ndimage.grey_closing(grey, size=(size, size)) - grey
        for hat in (bright, dark):
            mask = hat > max(0.5 * _CONTRAST * span, 6 * float(np.median(hat)) / 0.6745)
            if not 0 < mask.sum() < 0.3 * mask.size:
                continue
            for place, part in _parts(mask):
                if hat is dark and _is_hole(grey[place][part], ground, span):
                    continue
                if _is_stroke(part) and _is_flat_on_plain(grey, place, part, span):
                    boxes.append(_box(place, grey.shape))
    return boxes


def _is_hole(values: Array, ground: Array, span: float) -> bool:
    away = np.abs(values[:, None] - ground[None, :])
    return bool(ground.size) and float(np.mean(away.min(axis=1) < _SHARP * span)) > 0.5


def _parts(mask: Array) -> list[tuple[tuple[slice, slice], Array]]:
    """Connected parts of a character's size; none if there are too many of them to be drawn."""
    from scipy import ndimage

    labels, count = ndimage.label(mask, structure=np.ones((3, 3)))
    if not 0 < count <= 3000:
        return []
    parts = []
    for label, place in enumerate(ndimage.find_objects(labels), start=1):
        if place is None:
            continue
        height, width = place[0].stop - place[0].start, place[1].stop - place[1].start
        if _HEIGHTS[0] <= height <= _HEIGHTS[1] and 2 <= width <= 1.6 * height:
            part = labels[place] == label
            if part.sum() >= _LEAST_PIXELS:
                parts.append((place, part))
    return parts


def _is_stroke(part: Array) -> bool:
    """Thin for its height everywhere; neither a filled blob nor a bare bar."""
    height, width = part.shape
    return bool(part.mean() <= _FILL and width >= 0.25 * height) and _is_thin(part)


def _is_thin(part: Array) -> bool:
    from scipy import ndimage

    thick = float(ndimage.distance_transform_edt(np.pad(part, 1)).max())
    return bool(thick <= max(1.5, _STROKE * part.shape[0]))


def _ends_sharply(grey: Array, mask: Array, place: tuple[slice, slice], part: Array, value: float, span: float) -> bool:
    from scipy import ndimage

    rows, columns = _around(place, 3)
    inside = np.zeros(grey[rows, columns].shape, dtype=bool)
    top, left = place[0].start - rows.start, place[1].start - columns.start
    inside[top : top + part.shape[0], left : left + part.shape[1]] = part
    eight = np.ones((3, 3), dtype=bool)
    near = ndimage.binary_dilation(inside, eight)
    ring = ndimage.binary_dilation(near, eight) & ~near & ~mask
    if ring.sum() < 8:
        return False
    away = np.abs(grey[rows, columns][ring] - value)
    return float(np.mean(away > _SHARP * span)) >= _SHARP_SHARE


def _is_flat_on_plain(grey: Array, place: tuple[slice, slice], part: Array, span: float) -> bool:
    height = part.shape[0]
    margin = max(4, height // 2)
    rows, columns = _around(place, margin)
    around = np.ones(grey[rows, columns].shape, dtype=bool)
    top, left = place[0].start - rows.start, place[1].start - columns.start
    around[max(0, top - 2) : top + height + 2, max(0, left - 2) : left + part.shape[1] + 2] = False
    # what stands beside it on its line may be another character
    beside = np.zeros_like(around)
    beside[max(0, top - 2) : top + height + 2] = True
    ring = around & ~beside
    if ring.sum() < 16:
        return False
    ground = float(np.median(grey[rows, columns][ring]))
    values = grey[place][part]
    contrast = float(np.percentile(np.abs(values - ground), 90))
    if contrast < _CONTRAST * span:
        return False
    away = float(np.percentile(np.abs(grey[rows, columns][ring] - ground), 98))
    strokes = np.abs(values - ground)
    top_spread = float(np.percentile(strokes, 97) - np.percentile(strokes, 65))
    return away < _PLAIN * contrast and top_spread < _FLAT * contrast


def _box(place: tuple[slice, slice], shape: tuple[int, ...]) -> Region:
    return (
        max(0, place[0].start - 2), min(shape[0], place[0].stop + 2),
        max(0, place[1].start - 2), min(shape[1], place[1].stop + 2),
    )  # fmt: skip
