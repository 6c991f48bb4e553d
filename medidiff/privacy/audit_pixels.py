"""Searches pictures for given strings: pages, screenshots, DICOM images and the slices of volumes, read by tesseract.

Every plane of a volume is looked at for lines that look like text (``textlike``); those are read. Pictures (PNG, JPEG
and the like, single DICOM images) are read in any case. What was read is compared with the secrets as OCR errs: 0 and
O, 1 and l are one, and in a longer word one letter of six may be another.
"""

from __future__ import annotations

import io
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medidiff.errors import InputError
from medidiff.privacy import ocr
from medidiff.privacy.audit_match import Secrets, fold
from medidiff.privacy.policy import CannotClean
from medidiff.privacy.textlike import TextLine, find_text_lines

Array = NDArray[Any]
Box = tuple[int, int, int, int]
NotSearched = Callable[[str, str], None]

_PICTURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF8", b"BM", b"II*\0", b"MM\0*", b"RIFF")
_MOST_PIXELS = 100_000_000
_MOST_FRAMES = 2000
# So many planes of a file are read, spread over it; where more look like text, that is said.
_MOST_READ = 60
_MOST_LINES = 6
# Edges of a slice that are this much coarser than others are not those that text was burned along.
_FLAT = 1.5
_CONFUSED = str.maketrans("01l|5826", "oiiisbzb")
_LIKE, _LONG = 0.84, 6


@dataclass(slots=True)
class PixelSearch:
    """What was done about the pixels.

    Args:
        pictures: Pictures, images and volumes met.
        planes: Planes looked at.
        read: Planes read by OCR.
    """

    pictures: int = 0
    planes: int = 0
    read: int = 0


def holds_picture(data: bytes) -> bool:
    """Whether a file's beginning is that of a picture, a DICOM file or a volume."""
    from medidiff.io.formats import FORMATS

    head = data[:65536]
    return (
        head.startswith(_PICTURES)
        or head[128:132] == b"DICM"
        or any(known.recognises(_ungzipped(head)) for known in FORMATS)
    )


def search_pixels(data: bytes, name: str, secrets: Secrets, done: PixelSearch, not_searched: NotSearched) -> set[int]:
    """Numbers of the secrets that can be read in what ``data`` shows.

    Args:
        data: Content of a file, or of a part of one.
        name: Its place, for what is not searched.
        secrets: What is looked for.
        done: Counts what was looked at.
        not_searched: Called with a place and a reason.
    """
    found: set[int] = set()
    try:
        planes, whole = _planes(data)
        done.pictures += 1
        suspects: list[list[Array]] = []
        for plane in planes:
            done.planes += 1
            lines = find_text_lines(plane)
            if whole or lines:
                suspects.append([_grey(plane), *_crops(plane, lines)])
        if len(suspects) > _MOST_READ:
            not_searched(name, f"{len(suspects)} planes look like text; {_MOST_READ} of them were read")
            places = np.linspace(0, len(suspects) - 1, _MOST_READ).round().astype(int)
            suspects = [suspects[place] for place in places]
        for views in suspects:
            done.read += 1
            for number, view in enumerate(views):
                words = ocr.read_words(view, sparse=number == 0)
                found |= matches([word.text for word in words], secrets)
    except _NotShown as reason:
        not_searched(name, f"its pixels: {reason}")
    except CannotClean as error:
        not_searched(name, f"its pixels: {error.explanation}")
    except InputError as error:
        not_searched(name, f"its pixels cannot be read ({type(error).__name__})")
    return found


def matches(words: list[str], secrets: Secrets) -> set[int]:
    """Numbers of the secrets that words read by OCR spell, nearly."""
    parts = [_spelled(word) for word in words]
    text = "".join(parts)
    near = {"".join(parts[at : at + count]) for count in (1, 2, 3, 4) for at in range(len(parts))}
    found = set()
    for secret, number in secrets.folded.items():
        spelled = _spelled(secret)
        if len(spelled) < _LONG:
            hit = spelled in parts
        else:
            hit = spelled in text or any(_alike(spelled, other) for other in near)
        if hit:
            found.add(number)
    return found


def _spelled(word: str) -> str:
    return fold(word).translate(_CONFUSED)


def _alike(one: str, other: str) -> bool:
    if abs(len(one) - len(other)) > max(1, len(one) // 6):
        return False
    compared = SequenceMatcher(None, one, other, autojunk=False)
    return compared.quick_ratio() >= _LIKE and compared.ratio() >= _LIKE


class _NotShown(Exception):
    """A picture that cannot be turned into planes; the reason is for the report."""


def _planes(data: bytes) -> tuple[Iterator[Array], bool]:
    """Grey planes, and whether each is to be read though nothing in it looks like text."""
    if data[128:132] == b"DICM":
        return _dicom_planes(data)
    if data.startswith(_PICTURES):
        return _picture_planes(data), True
    return _volume_planes(data), False


def _picture_planes(data: bytes) -> Iterator[Array]:
    from PIL import Image, ImageSequence

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with Image.open(io.BytesIO(data)) as picture:
                if picture.width * picture.height > _MOST_PIXELS:
                    raise _NotShown(f"{picture.width} x {picture.height} are more than are read")
                for number, frame in enumerate(ImageSequence.Iterator(picture)):
                    if number >= _MOST_FRAMES:
                        raise _NotShown(f"more than {_MOST_FRAMES} frames")
                    yield np.asarray(frame.convert("L"))
    except _NotShown:
        raise
    except Exception as error:  # Pillow fails in many ways on damaged pictures
        raise _NotShown(f"a damaged picture, or none ({type(error).__name__})") from error


def _dicom_planes(data: bytes) -> tuple[Iterator[Array], bool]:
    import pydicom

    from medidiff.io.dicom.quiet import quiet
    from medidiff.privacy.pixel_data import as_frames, decode

    try:
        with quiet():
            dataset = pydicom.dcmread(io.BytesIO(data), force=True)
            if not any(f"{kind}PixelData" in dataset for kind in ("", "Float", "DoubleFloat")):
                return iter(()), False
            pixels, description = decode(dataset, _budget())
    except CannotClean:
        raise
    except Exception as error:
        raise _NotShown(f"a damaged DICOM file ({type(error).__name__})") from error
    if description.keys() >= {"SamplesPerPixel"}:
        frames = as_frames(pixels, description)
        brightest = frames[..., :3].max(axis=-1)
        return iter(brightest.astype(np.float32)), len(brightest) == 1
    return iter(pixels.astype(np.float32)), False


def _volume_planes(data: bytes) -> Iterator[Array]:
    from medidiff.io import read_volume

    with tempfile.TemporaryDirectory(prefix="medidiff-audit-") as folder:
        place = Path(folder) / "volume"
        place.write_bytes(data)
        volume = read_volume(place, budget=_budget())
    spacing = np.asarray(volume.geometry.spacing)
    # Text stands in the planes that were acquired: across the coarsest axis; where all are alike, across any.
    coarse = spacing >= spacing.max() / _FLAT
    axes = [axis for axis in (2, 1, 0) if coarse[axis] or axis == 2]
    for frame in volume.data:
        for axis in axes:
            for plane in np.moveaxis(np.nan_to_num(frame), axis, 0):
                yield plane.T


def _grey(plane: Array) -> Array:
    if plane.dtype == np.uint8:
        return plane
    low, high = float(plane.min()), float(plane.max())
    return np.asarray((plane - low) * (255.0 / max(high - low, 1e-6)), dtype=np.uint8)


def _crops(plane: Array, lines: list[TextLine]) -> list[Array]:
    """Lines cut out, at the contrast between their strokes and their ground: over anatomy a whole plane is not read."""
    crops: list[Array] = []
    for line, (row0, row1, column0, column1) in _joined(lines)[:_MOST_LINES]:
        margin = (row1 - row0) // 2 + 2
        rows = slice(max(row0 - margin, 0), row1 + margin)
        columns = slice(max(column0 - 2 * margin, 0), column1 + 2 * margin)
        span = line.value - line.ground
        if span:
            strokes = (plane[rows, columns].astype(np.float32) - line.ground) / span
            crops.append(np.asarray(np.clip(strokes, 0, 1) * 255, dtype=np.uint8))
    return crops


def _joined(lines: list[TextLine]) -> list[tuple[TextLine, Box]]:
    """Lines that overlap, or follow one another on one height, as one box with the best line's contrast."""
    joined: list[tuple[TextLine, Box]] = []
    for line in lines:
        best, box = line, line.box
        apart = []
        for other, place in joined:
            if _on_one_line(box, place):
                best = other
                box = (min(box[0], place[0]), max(box[1], place[1]), min(box[2], place[2]), max(box[3], place[3]))
            else:
                apart.append((other, place))
        joined = [*apart, (best, box)]
    return joined


def _on_one_line(one: Box, other: Box) -> bool:
    height = min(one[1] - one[0], other[1] - other[0])
    overlap = min(one[1], other[1]) - max(one[0], other[0])
    gap = max(one[2], other[2]) - min(one[3], other[3])
    return overlap >= 0.6 * height and gap <= height


def _budget() -> int:
    from medidiff.io.safety import default_budget

    return default_budget()


def _ungzipped(head: bytes) -> bytes:
    """The beginning of what a gzip stream holds; anything else as it is."""
    import zlib

    if head[:2] != b"\x1f\x8b":
        return head
    try:
        return zlib.decompressobj(zlib.MAX_WBITS | 16).decompress(head, 65536)
    except zlib.error:
        return head
