"""The first items of a set, as a picture."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter, minimum_filter

from medidiff.io.atomic import atomic_file
from medidiff.synthetic import SyntheticSet

if TYPE_CHECKING:
    from medidiff.report.contact import Thumbnail


def write_preview(made: SyntheticSet, target: Path) -> None:
    """A contact sheet of items of a set: three planes of each, and once more with the borders of its label map."""
    from medidiff.report.contact import PER_SHEET, contact_sheets

    sheet = next(contact_sheets(list(islice(_thumbnails(made), PER_SHEET))))
    with atomic_file(target) as temporary:
        temporary.write_bytes(sheet)


def _thumbnails(made: SyntheticSet) -> Iterator[Thumbnail]:
    from medidiff.report.contact import Thumbnail, thumbnail_png

    for item in made.items:
        image, label = made.image(item), made.label(item)
        yield Thumbnail(thumbnail_png(image), item.id, "synthetic")
        if label is not None:
            drawn = np.where(_borders(label.data), image.data.max(), image.data)
            yield Thumbnail(thumbnail_png(replace(image, data=drawn)), item.id, "with the borders of its label map")


def _borders(labels: NDArray[Any]) -> NDArray[np.bool_]:
    """Voxels of a structure that touch another class or the background."""
    whole = labels[0]
    edge: NDArray[np.bool_] = (whole > 0) & (maximum_filter(whole, 3) != minimum_filter(whole, 3))
    return edge[None]
