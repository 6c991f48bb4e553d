"""Grey pictures of stored values: for the finders, for OCR, and how a region of them is blanked."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from medidiff.privacy.policy import CannotClean
from medidiff.privacy.regions import Region

Array = NDArray[Any]


def views_of(frame: Array, source: Dataset) -> list[Array]:
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


def pictures_of(views: list[Array], *, equalised: bool) -> list[Array]:
    """Pictures for OCR: the whole range, the usual window, and if wanted all contrasts equalised."""
    pictures = []
    for view in views:
        whole, usual = stretched(view), stretched(view, 0.5, 99.5)
        pictures.append(whole)
        if np.abs(whole.astype(int) - usual).mean() > 4:
            pictures.append(usual)
        if equalised:
            ranks = np.searchsorted(np.unique(view), view)
            pictures.append((ranks * (255.0 / max(1, int(ranks.max())))).astype(np.uint8))
    return pictures


def stretched(view: Array, low: float = 0, high: float = 100) -> Array:
    bottom, top = (float(value) for value in np.percentile(view, (low, high)))
    return np.asarray(np.clip((view - bottom) / max(top - bottom, 1e-6), 0, 1) * 255, dtype=np.uint8)


def blank(frames: Array, source: Dataset, region: Region) -> None:
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
