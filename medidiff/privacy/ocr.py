"""Reading text in pictures with tesseract, a program of its own (Debian: tesseract-ocr).

Called as a process with a time limit and pictures on its standard input: nothing touches the disk, nothing can hang
the ingest. Absent, ``available`` says so and the caller sets apart what cannot be verified.
"""

from __future__ import annotations

import csv
import io
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medidiff.privacy.policy import CannotClean

Array = NDArray[Any]

_TIMEOUT_S = 60
# Characters should be about 30 pixels high for tesseract; small text needs enlarging.
_TARGET_SIDE = 1400
_PAD = 12
_SHEET = 24  # cut-outs read at once
_MAX_SCALE = 4  # cut-out lines are small, and four times is enough for 8-pixel characters


@dataclass(frozen=True, slots=True)
class Word:
    """A word that was read, where (rows and columns of the picture, ends exclusive) and how surely (0 to 100)."""

    text: str
    row0: int
    row1: int
    column0: int
    column1: int
    confidence: float

    @property
    def letters(self) -> int:
        """Letters and digits in it."""
        return len(re.sub(r"[\W_]", "", self.text))


def available() -> bool:
    """Whether tesseract can be called on this machine."""
    return shutil.which("tesseract") is not None


def read_words(picture: Array, *, sparse: bool = True, turns: int = 0) -> list[Word]:
    """All words tesseract finds in a grey picture, dark on light and light on dark.

    Args:
        picture: uint8, shape (rows, columns).
        sparse: Text anywhere in the picture (page mode 11) rather than one block of it (6).
        turns: Quarter turns (counter-clockwise) to make before reading, for text that runs up or down.
    Raises:
        CannotClean: tesseract is missing, fails or does not end.
    """
    words: list[Word] = []
    for inverted in (False, True):
        turned = np.rot90(255 - picture if inverted else picture, turns)
        words += [_turned_back(word, turned.shape, turns) for word in _call(turned, "11" if sparse else "6")]
    return words


def read_crops(crops: list[Array]) -> list[list[Word]]:
    """The words of many small cut-outs, read by one tesseract: it takes longer to start than to read a line.

    Args:
        crops: uint8, shape (rows, columns) each.
    Returns:
        For each crop its words, placed in the crop.
    Raises:
        CannotClean: as ``read_words``.
    """
    found: list[list[Word]] = [[] for _ in crops]
    for start in range(0, len(crops), _SHEET):
        sheets = [(number, crops[number]) for number in range(start, min(start + _SHEET, len(crops)))]
        for inverted in (False, True):
            for number, words in _read_sheet(sheets, inverted=inverted):
                found[number] += words
    return found


def _read_sheet(crops: list[tuple[int, Array]], *, inverted: bool) -> list[tuple[int, list[Word]]]:
    """Cut-outs below one another on a sheet of paper, each with its own ground around it."""
    from PIL import Image

    enlarged: list[Array] = []
    tops, top = [], 0
    for _, crop in crops:
        shown = np.pad(255 - crop if inverted else crop, _PAD, mode="edge")
        size = (shown.shape[1] * _MAX_SCALE, shown.shape[0] * _MAX_SCALE)
        enlarged.append(np.asarray(Image.fromarray(shown).resize(size, Image.Resampling.LANCZOS)))
        tops.append(top)
        top += enlarged[-1].shape[0]
    width = max(part.shape[1] for part in enlarged)
    sheet = np.concatenate([np.pad(part, ((0, 0), (0, width - part.shape[1])), mode="edge") for part in enlarged])
    words = _parse(_tesseract(sheet, "11"), 1, 0, sheet.shape)
    result = []
    for (number, crop), above, part in zip(crops, tops, enlarged, strict=True):
        mine = [word for word in words if above <= (word.row0 + word.row1) / 2 < above + part.shape[0]]
        placed = [_in_crop(word, above, crop.shape) for word in mine]
        result.append((number, [word for word in placed if word.row0 < word.row1 and word.column0 < word.column1]))
    return result


def _in_crop(word: Word, above: int, shape: tuple[int, ...]) -> Word:
    rows = [(value - above) / _MAX_SCALE - _PAD for value in (word.row0, word.row1)]
    columns = [value / _MAX_SCALE - _PAD for value in (word.column0, word.column1)]
    return Word(
        word.text, max(0, int(rows[0])), min(shape[0], int(np.ceil(rows[1]))), max(0, int(columns[0])),
        min(shape[1], int(np.ceil(columns[1]))), word.confidence,
    )  # fmt: skip


def _call(picture: Array, mode: str) -> list[Word]:
    from PIL import Image

    scale = max(1, min(_MAX_SCALE, round(_TARGET_SIDE / max(picture.shape))))
    image = Image.fromarray(np.pad(picture, _PAD, mode="edge"))
    image = image.resize((image.width * scale, image.height * scale), Image.Resampling.LANCZOS)
    return _parse(_tesseract(np.asarray(image), mode), scale, _PAD, picture.shape)


def _tesseract(picture: Array, mode: str) -> str:
    """What tesseract says of a picture, a table of tab-separated values."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG", compress_level=1)
    program = shutil.which("tesseract")
    if program is None:
        raise CannotClean("text-unverified", "tesseract is not installed, so text in the picture cannot be read")
    try:
        done = subprocess.run(
            [program, "stdin", "stdout", "--psm", mode, "--dpi", "150", "tsv"],
            input=buffer.getvalue(), capture_output=True, timeout=_TIMEOUT_S, check=False,
            env={**os.environ, "OMP_THREAD_LIMIT": "1"},
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise CannotClean("text-unverified", f"reading the picture took more than {_TIMEOUT_S} s") from error
    if done.returncode != 0:
        raise CannotClean("text-unverified", f"tesseract ended with status {done.returncode}")
    return done.stdout.decode("utf-8", "replace")


def _parse(table: str, scale: int, pad: int, shape: tuple[int, ...]) -> list[Word]:
    words = []
    for row in csv.DictReader(io.StringIO(table), delimiter="\t", quoting=csv.QUOTE_NONE):
        text = (row.get("text") or "").strip()
        if row.get("level") != "5" or not text:
            continue
        left, top = int(row["left"]) / scale - pad, int(row["top"]) / scale - pad
        right, bottom = left + int(row["width"]) / scale, top + int(row["height"]) / scale
        rows = (max(0, int(top)), min(shape[0], int(np.ceil(bottom))))
        columns = (max(0, int(left)), min(shape[1], int(np.ceil(right))))
        if rows[0] < rows[1] and columns[0] < columns[1]:
            words.append(Word(text, *rows, *columns, float(row["conf"])))
    return words


def _turned_back(word: Word, shape: tuple[int, ...], turns: int) -> Word:
    """The place in the picture before it was turned."""
    box = (word.row0, word.row1, word.column0, word.column1)
    rows, columns = shape
    for _ in range(turns % 4):  # undo one counter-clockwise quarter turn at a time
        row0, row1, column0, column1 = box
        box = (column0, column1, rows - row1, rows - row0)
        rows, columns = columns, rows
    return Word(word.text, *box, word.confidence)
