"""Burned-in text: found (``textfind``), blanked, and searched for again until nothing is left; else set apart.

Rules by kind of image: screens (ultrasound, secondary captures, frames with text by design), radiographs and scouts,
slices. A screen that no OCR could read is never let through.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from medidiff.privacy import ocr
from medidiff.privacy.glyphs import find_glyphs
from medidiff.privacy.noise import has_marks, has_strokes, is_noisy, smoothed
from medidiff.privacy.policy import CannotClean
from medidiff.privacy.regions import Region, share
from medidiff.privacy.textfind import Kind, find_text
from medidiff.privacy.views import blank, views_of

Array = NDArray[Any]
Box = tuple[int, int, int, int, int]
Views = Callable[[], list[Array]]

# Pictures of a screen: text is part of them.
_SCREENS = ("1.2.840.10008.5.1.4.1.1.7", "1.2.840.10008.5.1.4.1.1.6.", "1.2.840.10008.5.1.4.1.1.3.")
# Radiographs and scouts: annotations are often burned in.
_RADIOGRAPHS = re.compile(r"1\.2\.840\.10008\.5\.1\.4\.1\.1\.(?:1|12|13|20)(?:\..*)?")
_PAGES = {"DOSE_INFO", "PATIENT_INFO", "DOSE", "REPORT", "CSA REPORT", "SCREEN SAVE", "RESULTS"}
_SCREEN_SHARE = 0.35
_ROUNDS = 4
_OCR_FRAMES = 6


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
    noisy = [frame for frame in frames if frame.shape[-1] == 1 and is_noisy(frame[..., 0])]
    for frame in noisy:
        _check_noisy(frame[..., 0], names)
    if len(frames) == 1:
        regions = _clean_views(partial(views_of, frames[0], source), kind, names, partial(blank, frames, source))
        boxes = [(0, *region) for region in regions]
    else:
        boxes = _clean_many(frames, source, kind, names)
    if not kind.screen:
        boxes += _clean_glyphs(frames, source)
    return ("not-verified" if noisy else "blanked" if boxes else "clean"), boxes


def _clean_glyphs(frames: Array, source: Dataset) -> list[Box]:
    """Blank characters that stand by themselves; in noise there is nothing to tell them by."""
    boxes: list[Box] = []
    if frames.shape[-1] != 1:
        return boxes
    for index in range(len(frames)):
        grey = frames[index, ..., 0]
        found = [] if is_noisy(grey) else find_glyphs(grey)
        for region in found:
            blank(frames[index : index + 1], source, region)
            boxes.append((index, *region))
    return boxes


def _check_noisy(grey: Array, names: frozenset[str]) -> None:
    """Set a frame apart in whose noise there may be text.

    Raises:
        CannotClean: strokes of one value, or faint marks that look like text once the noise is smoothed away.
    """
    if has_strokes(grey):
        raise CannotClean(
            "text-suspected", "strokes of one value stand in noise and could not be read; look at the image"
        )
    if not has_marks(grey):
        return  # noise and nothing else, as far as words of twice its height
    calm = smoothed(grey)
    hidden = is_noisy(calm)
    if not hidden:
        found = find_text([calm], Kind(screen=False, risky=False), names, confirm=False, read_small=False, first=True)
        hidden = bool(found.regions or found.unread)
    if hidden:
        raise CannotClean("text-suspected", "marks in the noise may be text and could not be read; look at the image")


def _clean_many(frames: Array, source: Dataset, kind: Kind, names: frozenset[str]) -> list[Box]:
    """Text that stands still is found on extremes over all frames; every frame is searched on its own besides."""
    boxes: list[Box] = []

    def extremes() -> list[Array]:
        return [*views_of(frames.max(axis=0), source), *views_of(frames.min(axis=0), source)]

    still = _clean_views(extremes, kind, names, partial(blank, frames, source), confirm=True)
    boxes += [(-1, *region) for region in still]
    read = (
        set(np.linspace(0, len(frames) - 1, min(_OCR_FRAMES, len(frames))).astype(int).tolist())
        if kind.risky
        else set()
    )
    for index in range(len(frames)):
        frame_kind = kind if index in read else Kind(screen=False, risky=False)
        target = frames if kind.screen else frames[index : index + 1]
        found = _clean_views(
            partial(views_of, frames[index], source),
            frame_kind,
            names,
            partial(blank, target, source),
            read_small=False,
        )
        boxes += [(-1 if kind.screen else index, *region) for region in found]
    return boxes


def _clean_views(
    views: Views,
    kind: Kind,
    names: frozenset[str],
    blank: Callable[[Region], None],
    *,
    confirm: bool = False,
    read_small: bool = True,
) -> list[Region]:
    """Find and blank until nothing more is found."""
    regions: list[Region] = []
    for _ in range(_ROUNDS):
        found = find_text(views(), kind, names, confirm=confirm, read_small=read_small, first=not regions)
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
        if kind.screen and share(regions, shape) > _SCREEN_SHARE:
            raise CannotClean("text-page", "most of the picture is text: a report or a table, not an image")
    raise CannotClean("text-remains", "after blanking, text is still found")


def _kind_of(source: Dataset) -> Kind:
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
    return Kind(screen, risky)
