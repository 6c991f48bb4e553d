"""Contact sheets: every volume of a dataset at a glance."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from medidiff.errors import InputError
from medidiff.report.figures import CT_WINDOW
from medidiff.volume import Modality, Volume

Array = NDArray[Any]

CELL = 132
GAP = 6
CAPTION = 30
COLUMNS = 3
ROWS = 12
PER_SHEET = COLUMNS * ROWS
MOST_PIXELS = 16 << 20
BACKGROUND, TEXT, FAINT, WARN = (16, 18, 22), (232, 234, 237), (154, 160, 166), (224, 112, 63)


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """One volume of a sheet.

    Args:
        png: Of ``thumbnail_png``.
        title, note: Lines below it; must hold no identifier.
        marked: Drawn with a coloured frame: somebody should look.
    """

    png: bytes
    title: str
    note: str
    marked: bool = False


def thumbnail_png(volume: Volume) -> bytes:
    """Axial, coronal and sagittal middle slice of the first frame side by side, right proportions, as a PNG."""
    upright = Volume(np.asarray(volume.data[:1]), volume.geometry, volume.modality).reoriented()
    data = np.nan_to_num(np.asarray(upright.data[0], dtype=np.float32))
    low, high = _window(data, volume.modality)
    sheet = Image.new("L", (3 * CELL + 2 * GAP, CELL), 0)
    for number, (axis, across, up) in enumerate(((2, 0, 1), (1, 0, 2), (0, 1, 2))):
        middle = data.take(data.shape[axis] // 2, axis=axis)
        # Rows from the top down, and the patient's right (or front) on the left: as radiologists look at it.
        picture = middle.T[::-1, ::-1]
        grey = np.clip((picture - low) / (high - low), 0, 1) * 255
        width, height = (data.shape[a] * upright.geometry.spacing[a] for a in (across, up))
        scale = CELL / max(width, height)
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        drawn = Image.fromarray(grey.astype(np.uint8)).resize(size, Image.Resampling.BILINEAR)
        place = (number * (CELL + GAP) + (CELL - size[0]) // 2, (CELL - size[1]) // 2)
        sheet.paste(drawn, place)
    return _png(sheet)


def contact_sheets(thumbnails: Sequence[Thumbnail]) -> Iterator[bytes]:
    """PNG pages of up to 36 volumes each, in the given order."""
    for start in range(0, len(thumbnails), PER_SHEET):
        yield _sheet(thumbnails[start : start + PER_SHEET])


def side_by_side(pictures: Sequence[bytes]) -> bytes:
    """PNGs in a row, from the left, on one PNG.

    Raises:
        InputError: one is no picture that can be read, or has more than 16 million pixels.
    """
    opened = [_opened(picture) for picture in pictures]
    width = sum(picture.width for picture in opened) + GAP * (len(opened) - 1)
    row = Image.new("RGB", (width, max(picture.height for picture in opened)), BACKGROUND)
    left = 0
    for picture in opened:
        row.paste(picture, (left, 0))
        left += picture.width + GAP
    return _png(row)


def _opened(picture: bytes) -> Image.Image:
    try:
        with Image.open(io.BytesIO(picture), formats=("PNG",)) as found:
            if found.width * found.height > MOST_PIXELS:
                raise InputError(f"a picture of {found.width} x {found.height} pixels is larger than any of ours")
            return found.convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # what Pillow has for bad PNGs
        raise InputError("a picture is damaged: not a PNG that can be read") from error


def _sheet(thumbnails: Sequence[Thumbnail]) -> bytes:
    width, height = 3 * CELL + 2 * GAP, CELL + CAPTION
    columns = min(COLUMNS, len(thumbnails))
    rows = -(-len(thumbnails) // columns)
    margin = 3 * GAP
    sheet = Image.new("RGB", (columns * (width + margin) + margin, rows * (height + margin) + margin), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    for number, item in enumerate(thumbnails):
        left = margin + number % columns * (width + margin)
        top = margin + number // columns * (height + margin)
        with Image.open(io.BytesIO(item.png)) as picture:
            sheet.paste(picture.convert("RGB"), (left, top))
        if item.marked:
            draw.rectangle((left - 3, top - 3, left + width + 2, top + height + 2), outline=WARN)
        draw.text((left, top + CELL + 3), item.title[:70], fill=TEXT)
        draw.text((left, top + CELL + 16), item.note[:70], fill=WARN if item.marked else FAINT)
    return _png(sheet)


def _window(data: Array, modality: Modality) -> tuple[float, float]:
    if modality is Modality.CT:
        return CT_WINDOW
    sample = data[:: max(1, data.shape[0] // 64), :: max(1, data.shape[1] // 64), :: max(1, data.shape[2] // 64)]
    low, high = (float(value) for value in np.percentile(sample, (1, 99.5)))
    return (low, high) if high > low else (low, low + 1.0)


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
