"""What of a picture is text: two finders, one reading (``ocr``) and one not (``textlike``), weighed by kind of image.

Screens lose everything that looks like text. Slices and radiographs lose what is text for certain and what both
finders agree on, so that no anatomy is blanked for looking like a letter.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medidiff.privacy import ocr
from medidiff.privacy.regions import (
    Region,
    covers_any,
    distinct,
    grown,
    merged,
    overlap,
    tight,
    touches_any,
    turned_back,
)
from medidiff.privacy.textlike import FEW_PARTS, TextLine, extended, find_text_lines, stands_alone
from medidiff.privacy.views import pictures_of, stretched

Array = NDArray[Any]

# Whole slices of this size or less are read in any case: characters that small escape the other finder.
_SMALL_SIDE = 192
# A word and the line that it stands in are of one height, as far as margins and descenders let one tell.
_SAME_HEIGHT = 0.45
# Characters this tall have strokes of several pixels, so most of their ink has one value; tiles with brains (at most
# 0.46) read as rows of zeros.
_TALL, _TALL_SCORE = 20, 0.5
_CERTAIN_SCORE, _CERTAIN_TALL_SCORE = 0.5, 0.65
_ROUND = frozenset("0oq8dcgu6@9()&ae")


@dataclass(frozen=True, slots=True)
class Kind:
    """How suspicious an object is."""

    screen: bool
    risky: bool


@dataclass(frozen=True, slots=True)
class Found:
    """Regions to blank, and lines that look like text though nobody could read them."""

    regions: list[Region]
    unread: list[TextLine]


def find_text(
    views: list[Array], kind: Kind, names: frozenset[str], *, confirm: bool, read_small: bool, first: bool
) -> Found:
    """Look once for text in one frame.

    Args:
        views: Grey pictures of the frame.
        kind: How suspicious it is.
        names: Lower-case names of the file's persons.
        confirm: Read even if nothing looks like text.
        read_small: Read small pictures in any case.
        first: Whether to read sideways, too: once is enough.
    """
    lines = distinct([line for view in views for line in _lines_in(view)])
    upright = [line for view in views for line in _lines_in(np.rot90(view)) if _is_text(line)]
    lines += [turned_back(line, views[0].shape) for line in upright]
    small = read_small and max(views[0].shape) <= _SMALL_SIDE
    if not ocr.available():
        sure = [line for line in lines if is_strong(line)]
        return Found([], sure)
    if not (lines or kind.risky or small or confirm):
        return Found([], [])
    words = [word for picture in pictures_of(views, equalised=kind.risky) for word in ocr.read_words(picture)]
    if kind.risky and first:
        for turns in (1, 3):
            words += [
                word
                for word in ocr.read_words(stretched(views[0]), turns=turns)
                if word.confidence > 75 and word.letters > 3
            ]
    words += _read_lines(lines, views, kind)
    shape = views[0].shape
    accepted = _with_neighbours([word for word in words if _accepted(word, lines, kind, names)], words)
    regions = [grown(_on_line(word, lines), shape) for word in _best_read(accepted)]
    for line in lines:
        read = [region for region in regions if kind.screen or _of_one_height(region, line.box)]
        if _is_text(line) or covers_any(line.box, read) or (kind.screen and line.score > 0.25):
            flat = line.column1 - line.column0 >= line.row1 - line.row0
            boxes = (
                [extended(line, view) for view in views] if flat and _is_text(line) and not kind.screen else [line.box]
            )
            regions += [grown(box, shape) for box in boxes]
    sure = [line for line in lines if is_strong(line)]
    chosen = [tight(region, views, shape) for region in merged(regions)]
    unread = [line for line in sure if not touches_any(line.box, chosen)]
    return Found(chosen, [] if kind.screen else unread)


def _lines_in(view: Array) -> list[TextLine]:
    """Lines of four and more characters, and of three where they stand alone on plain ground."""
    lines = [replace(line, alone=stands_alone(line, view)) for line in find_text_lines(view, min_parts=FEW_PARTS)]
    return [line for line in lines if line.alone or line.parts > FEW_PARTS]


def _with_neighbours(accepted: list[ocr.Word], words: list[ocr.Word]) -> list[ocr.Word]:
    """What was read less surely, but stands right beside a sure word on its line, is the rest of the text."""
    chosen, waiting = list(accepted), [word for word in words if word not in accepted and word.letters]
    grew = True
    while grew:
        beside = [word for word in waiting if any(_beside(word, other) for other in chosen)]
        chosen += beside
        waiting = [word for word in waiting if word not in beside]
        grew = bool(beside)
    return chosen


def _beside(word: ocr.Word, other: ocr.Word) -> bool:
    heights = (word.row1 - word.row0, other.row1 - other.row0)
    rows = min(word.row1, other.row1) - max(word.row0, other.row0)
    gap = max(word.column0, other.column0) - min(word.column1, other.column1)
    return rows > 0.6 * min(heights) and max(heights) < 1.6 * min(heights) and gap < 1.2 * max(heights)


def _best_read(words: list[ocr.Word]) -> list[ocr.Word]:
    """Without unsure readings of what was read well in another picture: their boxes are often too large."""
    kept: list[ocr.Word] = []
    for word in sorted(words, key=lambda item: -item.confidence):
        box = (word.row0, word.row1, word.column0, word.column1)
        covered = any(overlap(box, (other.row0, other.row1, other.column0, other.column1)) > 0.6 for other in kept)
        if word.confidence > 70 or not covered:
            kept.append(word)
    return kept


def _on_line(word: ocr.Word, lines: list[TextLine]) -> Region:
    """Where a word is: its columns, and the rows of its line, which the other finder knows to the pixel."""
    box = (word.row0, word.row1, word.column0, word.column1)
    on = [line for line in lines if is_strong(line) and overlap(line.box, (*box[:2], 0, 1 << 30)) > 0.5]
    on = [line for line in on if min(box[3], line.column1) > max(box[2], line.column0)]
    if not on:
        return box
    best = max(on, key=lambda line: min(box[3], line.column1) - max(box[2], line.column0))
    return best.row0, best.row1, word.column0, word.column1


def is_strong(line: TextLine) -> bool:
    return (line.score >= 0.9 and line.parts >= 5) or _is_text(line)


def _is_text(line: TextLine) -> bool:
    """Characters of one value, many in a line or alone on plain ground: no reading is needed; real slices show none."""
    tall = min(line.row1 - line.row0, line.column1 - line.column0) > _TALL
    return line.alone or (line.score >= (_CERTAIN_TALL_SCORE if tall else _CERTAIN_SCORE) and line.parts >= 8)


def _read_lines(lines: list[TextLine], views: list[Array], kind: Kind) -> list[ocr.Word]:
    """Read the best candidates cut out and enlarged, all in one go: OCR misses text that stands in anatomy."""
    doubtful = [line for line in lines if not _is_text(line) and line.score > 0.15 and line.row1 - line.row0 <= 64]
    corners, crops = [], []
    for line in sorted(doubtful, key=lambda item: -item.score * item.parts)[: 4 if kind.screen else 10]:
        pad = 4 + (line.row1 - line.row0) // 2
        row0, column0 = max(0, line.row0 - pad), max(0, line.column0 - pad)
        for view in views:
            crops.append(stretched(view[row0 : line.row1 + pad, column0 : line.column1 + pad]))
            corners.append((row0, column0))
    return [
        replace(
            word,
            row0=word.row0 + row0,
            row1=word.row1 + row0,
            column0=word.column0 + column0,
            column1=word.column1 + column0,
        )
        for (row0, column0), words in zip(corners, ocr.read_crops(crops), strict=True)
        for word in words
    ]


def _of_one_height(one: Region, other: Region) -> bool:
    """Whether two boxes may hold the same characters: folds that read as a word do not make a row of brains a line."""
    heights = [min(box[1] - box[0], box[3] - box[2]) for box in (one, other)]
    return min(heights) >= _SAME_HEIGHT * max(heights)


def _accepted(word: ocr.Word, lines: list[TextLine], kind: Kind, names: frozenset[str]) -> bool:
    """Whether a word that was read is there: sure by itself, seen by the other finder too, or a known name."""
    text = word.text.lower()
    height = min(word.row1 - word.row0, word.column1 - word.column0)  # text may run up the picture
    if not 4 <= height <= 200:
        return False
    if word.letters >= 4 and any(SequenceMatcher(None, text, name).ratio() > 0.75 for name in names if len(name) > 3):
        return True
    box = (word.row0, word.row1, word.column0, word.column1)
    drawn = _TALL_SCORE if height > _TALL and not kind.screen else 0.1
    seen = any(
        overlap(box, line.box) > 0.5 and line.score > drawn and (kind.screen or _of_one_height(box, line.box))
        for line in lines
    )
    if kind.screen:
        return word.letters >= 1 and word.confidence > (80 if height > 64 else 30 if seen else 45)
    if height > (120 if kind.risky else 48) or len(set(text)) < 3:  # a row of tiles or of vertebrae reads as "oooo"
        return False
    if seen:
        return word.letters >= 3 and word.confidence > (40 if kind.risky else 55)
    if height > _TALL and set(text) <= _ROUND:
        return False
    return word.letters >= 5 and word.confidence > 80
