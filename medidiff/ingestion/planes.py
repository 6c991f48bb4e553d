"""Burned-in text in volume files: their planes are searched as DICOM slices are.

A volume file does not say how it was acquired, so the planes across its coarsest axis are looked at one by one, and the
other two directions by their brightest and darkest values, where text that stands still is seen as well. Planes that
hold nothing like text are not read: most volumes need no OCR at all.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from medidiff.ingestion import lines
from medidiff.ingestion.candidate import SetApart
from medidiff.privacy.glyphs import find_glyphs
from medidiff.privacy.noise import is_noisy
from medidiff.privacy.pixels import clean_frames
from medidiff.privacy.policy import CannotClean
from medidiff.privacy.textlike import find_text_lines
from medidiff.volume import Modality, Volume

Array = NDArray[Any]

_MANY_PARTS, _SURE_SCORE = 5, 0.5


def without_text(volume: Volume, names: frozenset[str]) -> tuple[Volume, dict[str, int]]:
    """Blank text in the planes of a volume.

    Args:
        volume: Any grid.
        names: Lower-case names of the persons it may name.
    Returns:
        The volume, and how many planes had which outcome, as for DICOM files; the words are those of ``clean_frames``.
    Raises:
        SetApart: there is something like text that cannot be read or blanked for certain.
    """
    if volume.modality is Modality.LABEL:
        return volume, {"not-checked": 1}
    upright = volume.reoriented()
    axis = _slice_axis(volume)
    # as a reader looks at them: to the left and down the columns and rows go to the patient's left, back and feet
    shown = upright.data[:, ::-1, ::-1, ::-1]
    planes = np.moveaxis(shown, 1 + axis, 1).swapaxes(2, 3)  # (frames, slices, rows, columns)
    outcomes: dict[str, int] = {}
    cleaned: Array | None = None
    try:
        for number in range(planes.shape[1]):
            stack = _distinct_frames(planes[:, number])
            outcome = "clean"
            if any(_is_suspicious(plane) for plane in stack):
                outcome, boxes = clean_frames(np.array(stack[..., None]), Dataset(), names)
                if boxes:
                    cleaned = planes.copy() if cleaned is None else cleaned
                    for _, row0, row1, column0, column1 in boxes:
                        cleaned[:, number, row0:row1, column0:column1] = planes.min()
            outcomes[outcome] = outcomes.get(outcome, 0) + 1
        for other in {0, 1, 2} - {axis}:
            _check_projections(shown[0], other, names)
    except CannotClean as error:
        raise SetApart(lines.NOT_CLEAN, f"{error.reason}: {error.explanation}") from error
    counted = dict(sorted(outcomes.items()))
    if cleaned is None:
        return volume, counted
    back = np.moveaxis(cleaned.swapaxes(2, 3), 1, 1 + axis)[:, ::-1, ::-1, ::-1]
    blanked = Volume(np.ascontiguousarray(back), upright.geometry, volume.modality)
    return blanked.like(volume.geometry), counted


def _slice_axis(volume: Volume) -> int:
    """The upright axis with the largest steps; of equal ones the one that was last, where converters put slices."""
    geometry, order, _ = volume.geometry.reoriented()
    return max(range(3), key=lambda axis: (round(geometry.spacing[axis], 2), order[axis]))


def _distinct_frames(stack: Array) -> Array:
    """One slice over time: the first image of it, and its extremes."""
    if len(stack) == 1:
        return stack
    return np.stack([stack[0], stack.max(axis=0), stack.min(axis=0)])


def _is_suspicious(plane: Array) -> bool:
    """Whether anything in it looks like text, or may be hidden in it."""
    if plane.min() == plane.max() or not np.isfinite(plane).all():
        return False
    if is_noisy(plane) or find_glyphs(plane):
        return True
    return any(_is_likely(line.parts, line.score) for line in find_text_lines(plane, min_parts=3))


def _is_likely(parts: int, score: float) -> bool:
    return score >= _SURE_SCORE or (score > 0.15 and parts >= _MANY_PARTS)


def _check_projections(frame: Array, axis: int, names: frozenset[str]) -> None:
    """Look for lines across the other axes in the brightest and darkest values along them.

    Raises:
        CannotClean: there is text, which nobody can blank in a projection.
    """
    for picture in (frame.max(axis=axis).T, frame.min(axis=axis).T):
        found = [line for line in find_text_lines(picture) if line.score >= _SURE_SCORE and line.parts >= _MANY_PARTS]
        if found and min(picture.shape) >= 16:
            _, boxes = clean_frames(np.array(picture)[None, ..., None], Dataset(), names)
            if boxes:
                raise CannotClean(
                    "text-suspected", "text seems to run across the slices; look at the image from all sides"
                )
