"""The two cases in which a stack of slices is not a grid yet: a tilt, and uneven distances."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from medidiff.io.dicom.geometry import Grid
from medidiff.volume import Modality

Array = NDArray[Any]

AIR_HU = -1024.0


def onto_grid(stack: Array, grid: Grid, modality: Modality) -> Array:
    """Interpolate slices onto an upright, even grid.

    Args:
        stack: Slices in order, shape (k, j, i), float32.
        grid: Says where they go.
        modality: CT is filled with air where nothing was measured, everything else with its smallest value.
    Returns:
        Values on the grid, shape (k, j, i), float32.
    """
    fill = float(stack.min())
    if modality is Modality.CT:
        fill = max(fill, AIR_HU) if fill > AIR_HU else min(AIR_HU, fill)
    if grid.slices is not None:
        stack = _between_slices(stack, grid.slices)
    if grid.shift == (0.0, 0.0):
        return stack
    i, j, k = grid.geometry.shape
    out = np.full((k, j, i), fill, dtype=np.float32)
    for number in range(k):
        # The tilt moved the content of slice k by k * shift within its plane; here it goes back.
        at_i = grid.pad[0] + number * grid.shift[0]
        at_j = grid.pad[1] + number * grid.shift[1]
        out[number] = _moved(stack[number], (at_j, at_i), (j, i), fill)
    return out


def _between_slices(stack: Array, wanted: Array) -> Array:
    lower = np.clip(np.floor(wanted).astype(int), 0, len(stack) - 1)
    upper = np.minimum(lower + 1, len(stack) - 1)
    share = (wanted - lower).astype(np.float32)[:, None, None]
    return np.asarray(stack[lower] * (1 - share) + stack[upper] * share, dtype=np.float32)


def _moved(plane: Array, offset: tuple[float, float], shape: tuple[int, int], fill: float) -> Array:
    """A plane laid into a larger one at a fractional offset (rows, columns), linearly interpolated."""
    for axis in (0, 1):
        whole = int(np.floor(offset[axis]))
        share = np.float32(offset[axis] - whole)
        size = plane.shape[axis]
        widths = [(0, 0), (0, 0)]
        widths[axis] = (whole + 1, max(shape[axis] - size - whole, 0))
        padded = np.pad(plane, widths, constant_values=np.float32(fill))
        later = np.take(padded, range(1, shape[axis] + 1), axis=axis)
        earlier = np.take(padded, range(shape[axis]), axis=axis)
        # Where neither neighbour counts (share 0) no rounding may creep in.
        plane = later if share == 0 else later * (1 - share) + earlier * share
    return np.asarray(plane, dtype=np.float32)
