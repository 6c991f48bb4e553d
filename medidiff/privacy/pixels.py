"""Burned-in text: found, blanked, and searched for again until nothing is left; else the file is set apart.

Two finders, one reading (``ocr``) and one not (``textlike``), and rules by kind of image. Screens (ultrasound,
secondary captures, frames with text by design) lose everything that looks like text. Slices and radiographs lose what
both finders agree on, so that no anatomy is blanked for looking like a letter. A screen that no OCR could read is
never let through.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from medidiff.privacy import ocr
from medidiff.privacy.noise import has_strokes, is_noisy
from medidiff.privacy.policy import CannotClean
from medidiff.privacy.textlike import FEW_PARTS, TextLine, extended, find_text_lines, stands_alone

Array = NDArray[Any]
Box = tuple[int, int, int, int, int]
Region = tuple[int, int, int, int]
Views = Callable[[], list[Array]]

# Pictures of a screen: text is part of them.
_SCREENS = ("1.2.840.10008.5.1.4.1.1.7", "1.2.840.10008.5.1.4.1.1.6.", "1.2.840.10008.5.1.4.1.1.3.")
# Radiographs and scouts: annotations are often burned in.
_RADIOGRAPHS = re.compile(r"1\.2\.840\.10008\.5\.1\.4\.1\.1\.(?:1|12|13|20)(?:\..*)?")
_PAGES = {"DOSE_INFO", "PATIENT_INFO", "DOSE", "REPORT", "CSA REPORT", "SCREEN SAVE", "RESULTS"}
_SCREEN_SHARE = 0.35
_ROUNDS = 4
_OCR_FRAMES = 6
# Whole slices of this size or less are read in any case: characters that small escape the other finder.
_SMALL_SIDE = 192


@dataclass(frozen=True, slots=True)
class _Kind:
    """How suspicious an object is."""

    screen: bool
    risky: bool


@dataclass(frozen=True, slots=True)
class _Found:
    """Regions to blank, and lines that look like text though nobody could read them."""

    regions: list[Region]
    unread: list[TextLine]


def clean_frames(frames: Array, source: Dataset, names: frozenset[str]) -> tuple[str, list[Box]]:
    """Blank burned-in text in place.

    Args:
        frames: Stored values, shape (frames, rows, columns, samples); changed in place.
        source: The object as read: its class and description tell how suspicious it is.
        names: Lower-case names of the file's persons.
    Returns:
        ``"clean"`` (nothing found), ``"blanked"``, or ``"not-verified"`` (so noisy that text may have been missed), and
        the boxes, as (frame or -1 for all, rows, columns).
    Raises:
        CannotClean: a page of text, or text that cannot be found for certain (no OCR, or still there after blanking).
    """
    kind = _kind_of(source)
    if kind.risky and not ocr.available():
        raise CannotClean(
            "text-unverified", "this kind of image may hold burned-in text and tesseract is not installed"
        )
    noisy = _noisy(frames)
    if len(frames) == 1:
        regions = _clean_views(partial(_views, frames[0], source), kind, names, partial(_blank_in, frames, source))
        boxes = [(0, *region) for region in regions]
    else:
        boxes = _clean_many(frames, source, kind, names)
    return ("not-verified" if noisy else "blanked" if boxes else "clean"), boxes


def _noisy(frames: Array) -> bool:
    """Whether noise may hide text from the finders in any frame; strokes seen in it set the file apart."""
    noisy = [frame[..., 0] for frame in frames if frame.shape[-1] == 1 and is_noisy(frame[..., 0])]
    if any(has_strokes(grey) for grey in noisy):
        raise CannotClean(
            "text-suspected", "strokes of one value stand in noise and could not be read; look at the image"
        )
    return bool(noisy)


def _clean_many(frames: Array, source: Dataset, kind: _Kind, names: frozenset[str]) -> list[Box]:
    """Text that stands still is found on extremes over all frames; every frame is searched on its own besides."""
    boxes: list[Box] = []

    def extremes() -> list[Array]:
        return [*_views(frames.max(axis=0), source), *_views(frames.min(axis=0), source)]

    still = _clean_views(extremes, kind, names, partial(_blank_in, frames, source), confirm=True)
    boxes += [(-1, *region) for region in still]
    read = (
        set(np.linspace(0, len(frames) - 1, min(_OCR_FRAMES, len(frames))).astype(int).tolist())
        if kind.risky
        else set()
    )
    for index in range(len(frames)):
        frame_kind = kind if index in read else _Kind(screen=False, risky=False)
        target = frames if kind.screen else frames[index : index + 1]
        found = _clean_views(
            partial(_views, frames[index], source),
            frame_kind,
            names,
            partial(_blank_in, target, source),
            read_small=False,
        )
        boxes += [(-1 if kind.screen else index, *region) for region in found]
    return boxes


def _clean_views(
    views: Views,
    kind: _Kind,
    names: frozenset[str],
    blank: Callable[[Region], None],
    *,
    confirm: bool = False,
    read_small: bool = True,
) -> list[Region]:
    """Find and blank until nothing more is found."""
    regions: list[Region] = []
    for _ in range(_ROUNDS):
        found = _find(views(), kind, names, confirm=confirm, read_small=read_small, first=not regions)
        if found.unread:
            raise CannotClean(
                "text-suspected", "something drawn looks like text and could not be read; look at the image"
            )
        fresh = [region for region in found.regions if region not in regions]
        if not fresh:
            return regions
        for region in fresh:
            blank(region)
        regions += fresh
        shape = views()[0].shape
        if kind.screen and _share(regions, shape) > _SCREEN_SHARE:
            raise CannotClean("text-page", "most of the picture is text: a report or a table, not an image")
    raise CannotClean("text-remains", "after blanking, text is still found")


def _find(
    views: list[Array], kind: _Kind, names: frozenset[str], *, confirm: bool, read_small: bool, first: bool
) -> _Found:
    lines = _distinct([line for view in views for line in _lines_in(view)])
    upright = [line for view in views for line in _lines_in(np.rot90(view)) if _is_text(line)]
    lines += [_turned_back(line, views[0].shape) for line in upright]
    small = read_small and max(views[0].shape) <= _SMALL_SIDE
    if not ocr.available():
        sure = [line for line in lines if _is_strong(line)]
        return _Found([], sure)
    if not (lines or kind.risky or small or confirm):
        return _Found([], [])
    words = [word for picture in _pictures(views, kind) for word in ocr.read_words(picture)]
    if kind.risky and first:
        for turns in (1, 3):
            words += [
                word
                for word in ocr.read_words(_stretched(views[0]), turns=turns)
                if word.confidence > 75 and word.letters > 3
            ]
    words += _read_lines(lines, views, kind)
    shape = views[0].shape
    accepted = _with_neighbours([word for word in words if _accepted(word, lines, kind, names)], words)
    regions = [_grown(_on_line(word, lines), shape) for word in _best_read(accepted)]
    for line in lines:
        if _is_text(line) or _covers_any(line.box, regions) or (kind.screen and line.score > 0.25):
            flat = line.column1 - line.column0 >= line.row1 - line.row0
            boxes = (
                [extended(line, view) for view in views] if flat and _is_text(line) and not kind.screen else [line.box]
            )
            regions += [_grown(box, shape) for box in boxes]
    merged = [_tight(region, views, shape) for region in _merged(regions)]
    unread = [line for line in lines if _is_strong(line) and not _touches_any(line.box, merged)]
    return _Found(merged, [] if kind.screen else unread)


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
        covered = any(_overlap(box, (other.row0, other.row1, other.column0, other.column1)) > 0.6 for other in kept)
        if word.confidence > 70 or not covered:
            kept.append(word)
    return kept


def _on_line(word: ocr.Word, lines: list[TextLine]) -> Region:
    """Where a word is: its columns, and the rows of its line, which the other finder knows to the pixel."""
    box = (word.row0, word.row1, word.column0, word.column1)
    on = [line for line in lines if _is_strong(line) and _overlap(line.box, (*box[:2], 0, 1 << 30)) > 0.5]
    on = [line for line in on if min(box[3], line.column1) > max(box[2], line.column0)]
    if not on:
        return box
    best = max(on, key=lambda line: min(box[3], line.column1) - max(box[2], line.column0))
    return best.row0, best.row1, word.column0, word.column1


def _is_strong(line: TextLine) -> bool:
    return (line.score >= 0.9 and line.parts >= 5) or _is_text(line)


def _is_text(line: TextLine) -> bool:
    """Characters of one value, many in a line or alone on plain ground: no reading is needed; real slices show none."""
    return line.alone or (line.score >= 0.5 and line.parts >= 8)


def _turned_back(line: TextLine, shape: tuple[int, ...]) -> TextLine:
    """A line found in a picture turned counter-clockwise, where it is in the picture as it was."""
    columns = shape[1]
    return replace(
        line, row0=line.column0, row1=line.column1, column0=columns - line.row1, column1=columns - line.row0
    )  # fmt: skip


def _read_lines(lines: list[TextLine], views: list[Array], kind: _Kind) -> list[ocr.Word]:
    """Read the best candidates one by one, cut out and enlarged: OCR misses text that stands in anatomy."""
    words = []
    doubtful = [line for line in lines if not _is_text(line) and line.score > 0.15 and line.row1 - line.row0 <= 64]
    for line in sorted(doubtful, key=lambda item: -item.score * item.parts)[: 4 if kind.screen else 10]:
        pad = 4 + (line.row1 - line.row0) // 2
        row0, column0 = max(0, line.row0 - pad), max(0, line.column0 - pad)
        for view in views:
            part = _stretched(view[row0 : line.row1 + pad, column0 : line.column1 + pad])
            words += [
                replace(
                    word,
                    row0=word.row0 + row0,
                    row1=word.row1 + row0,
                    column0=word.column0 + column0,
                    column1=word.column1 + column0,
                )
                for word in ocr.read_words(part, sparse=False)
            ]
    return words


def _accepted(word: ocr.Word, lines: list[TextLine], kind: _Kind, names: frozenset[str]) -> bool:
    """Whether a word that was read is there: sure by itself, seen by the other finder too, or a known name."""
    text = word.text.lower()
    height = min(word.row1 - word.row0, word.column1 - word.column0)  # text may run up the picture
    if not 4 <= height <= 200:
        return False
    if word.letters >= 4 and any(SequenceMatcher(None, text, name).ratio() > 0.75 for name in names if len(name) > 3):
        return True
    box = (word.row0, word.row1, word.column0, word.column1)
    seen = any(_overlap(box, line.box) > 0.5 and line.score > 0.1 for line in lines)
    if kind.screen:
        return word.letters >= 1 and word.confidence > (80 if height > 64 else 30 if seen else 45)
    if height > (120 if kind.risky else 48) or len(set(text)) < 3:  # a row of tiles or of vertebrae reads as "oooo"
        return False
    if seen:
        return word.letters >= 3 and word.confidence > (40 if kind.risky else 55)
    return word.letters >= 5 and word.confidence > 80


def _kind_of(source: Dataset) -> _Kind:
    sop_class = str(source.get("SOPClassUID", ""))
    image_type = {str(part).upper() for part in (source.get("ImageType") or [])}
    if image_type & _PAGES:
        raise CannotClean("text-page", "the image type says that this is a page of text, not an image")
    colour = int(source.get("SamplesPerPixel", 1) or 1) > 1 or "PALETTE" in str(
        source.get("PhotometricInterpretation", "")
    )
    screen = sop_class.startswith(_SCREENS) or (colour and sop_class != "1.2.840.10008.5.1.4.1.1.4.3")
    said = str(source.get("BurnedInAnnotation", "") or "").upper() == "YES"
    scout = bool(image_type & {"LOCALIZER", "SCOUT", "SURVIEW"}) and str(source.get("Modality", "")) != "MR"
    captured = "ConversionType" in source or "SecondaryCaptureDeviceManufacturer" in source
    risky = screen or said or scout or captured or _RADIOGRAPHS.fullmatch(sop_class) is not None
    return _Kind(screen, risky)


def _views(frame: Array, source: Dataset) -> list[Array]:
    """Grey pictures of one frame in which text of any colour differs from its ground."""
    photometric = str(source.get("PhotometricInterpretation", ""))
    indices: list[Array] = []
    if photometric == "PALETTE COLOR":
        from pydicom.pixels import apply_color_lut

        # text can be drawn with an index that the palette makes black: it is in the stored values all the same
        indices = [frame[..., 0].astype(np.float32)]
        try:
            frame = np.asarray(apply_color_lut(frame[..., 0], source))
        except Exception as error:  # pydicom fails in many ways on a damaged palette
            raise CannotClean("pixels-undescribed", "the colour palette is missing or damaged") from error
    if frame.shape[-1] == 1:
        return [frame[..., 0].astype(np.float32)]
    if photometric.startswith("YBR"):
        return [frame[..., 0].astype(np.float32)]
    colours = frame[..., :3].astype(np.float32)
    brightest, darkest = colours.max(axis=-1), colours.min(axis=-1)
    return [*indices, brightest] if np.array_equal(brightest, darkest) else [*indices, brightest, darkest]


def _pictures(views: list[Array], kind: _Kind) -> list[Array]:
    """Pictures for OCR: the whole range, the usual window, and for suspicious kinds all contrasts equalised."""
    pictures = []
    for view in views:
        whole, usual = _stretched(view), _stretched(view, 0.5, 99.5)
        pictures.append(whole)
        if np.abs(whole.astype(int) - usual).mean() > 4:
            pictures.append(usual)
        if kind.risky:
            ranks = np.searchsorted(np.unique(view), view)
            pictures.append((ranks * (255.0 / max(1, int(ranks.max())))).astype(np.uint8))
    return pictures


def _stretched(view: Array, low: float = 0, high: float = 100) -> Array:
    bottom, top = (float(value) for value in np.percentile(view, (low, high)))
    return np.asarray(np.clip((view - bottom) / max(top - bottom, 1e-6), 0, 1) * 255, dtype=np.uint8)


def _blank_in(frames: Array, source: Dataset, region: Region) -> None:
    """Fill a region with the darkest value, whatever dark means for the object."""
    row0, row1, column0, column1 = region
    photometric = str(source.get("PhotometricInterpretation", ""))
    value: Any = frames.min()
    if photometric == "MONOCHROME1":
        value = frames.max()
    elif photometric.startswith("YBR"):
        value = np.array([0, 128, 128], dtype=frames.dtype)
    elif photometric == "PALETTE COLOR":
        value = _darkest(source, frames)
    frames[:, row0:row1, column0:column1] = value


def _darkest(source: Dataset, frames: Array) -> int:
    from pydicom.pixels import apply_color_lut

    used = np.unique(frames)
    return int(used[np.argmin(np.asarray(apply_color_lut(used.reshape(1, -1), source), dtype=float).sum(axis=-1)[0])])


def _grown(region: Region, shape: tuple[int, ...]) -> Region:
    """Room for serifs, descenders and the smooth edge of glyphs."""
    row0, row1, column0, column1 = region
    along = 2 + min(row1 - row0, column1 - column0) // 3
    up, side = (1, along) if column1 - column0 >= row1 - row0 else (along, 1)
    return max(0, row0 - up), min(shape[0], row1 + up), max(0, column0 - side), min(shape[1], column1 + side)


def _overlap(one: Region, other: Region) -> float:
    rows = min(one[1], other[1]) - max(one[0], other[0])
    columns = min(one[3], other[3]) - max(one[2], other[2])
    area = (one[1] - one[0]) * (one[3] - one[2])
    return max(0, rows) * max(0, columns) / max(1, area)


def _touches_any(box: Region, regions: list[Region]) -> bool:
    return any(_overlap(box, region) > 0 for region in regions)


def _covers_any(box: Region, regions: list[Region]) -> bool:
    """Whether a region lies on the line, and not just across a corner of it."""
    return any(_overlap(region, box) > 0.4 or _overlap(box, region) > 0.4 for region in regions)


def _tight(region: Region, views: list[Array], shape: tuple[int, ...]) -> Region:
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


def _distinct(lines: list[TextLine]) -> list[TextLine]:
    """The best of lines that lie in the same place."""
    kept: list[TextLine] = []
    for line in sorted(lines, key=lambda item: -item.score * min(item.parts, 12)):
        if not any(_overlap(line.box, other.box) > 0.7 and _overlap(other.box, line.box) > 0.4 for other in kept):
            kept.append(line)
    return kept


def _merged(regions: list[Region]) -> list[Region]:
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


def _share(regions: list[Region], shape: tuple[int, ...]) -> float:
    mask = np.zeros(shape, dtype=bool)
    for row0, row1, column0, column1 in regions:
        mask[row0:row1, column0:column1] = True
    return float(mask.mean())
