"""What a row of detector bins sees of a plane of square pixels from one side: areas of overlap, as a sparse matrix.

Source: De Man & Basu (2004), Distance-driven projection and backprojection in three dimensions, sec. 2; the footprint
of a square is a trapezoid, Long, Fessler & Balter (2010), IEEE Trans. Med. Imaging 29, 1839, sec. II.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

Array = NDArray[np.float64]
# A pixel's weights depend on nothing but where in a bin its footprint begins; they are taken from a table of so many
# places. What is lost, 1e-4 of a pixel, is the same forth and back.
PLACES = 4096


def view_matrix(
    plane: tuple[int, int], angle: float, detectors: int, pitch: float, centre: float, dtype: DTypeLike = np.float64
) -> Any:
    """Weights of every pixel in every bin, from one side.

    Args:
        plane: Pixels (i, j).
        angle: Direction of the detector axis, radians.
        detectors: Bins; a last one is added, for whatever misses them.
        pitch: Distance of bins, pixels.
        centre: Where the rotation axis meets the detector, bins from its middle.
    Returns:
        SciPy CSR matrix, shape (i j, detectors + 1); its product with rays is the adjoint.
    """
    from scipy.sparse import csr_matrix

    ni, nj = plane
    cosine, sine = math.cos(angle) / pitch, math.sin(angle) / pitch
    outer, inner = (abs(cosine) + abs(sine)) / 2, abs(abs(cosine) - abs(sine)) / 2
    begin = ((np.arange(ni) - (ni - 1) / 2) * cosine)[:, None] + ((np.arange(nj) - (nj - 1) / 2) * sine)[None, :]
    begin = begin.ravel() + (detectors / 2 + centre - outer)
    first = np.floor(begin)
    place = np.rint((begin - first) * PLACES).astype(np.intp)
    table = _table(inner, outer).astype(dtype) / pitch  # a pixel has area 1, and a bin averages over its width
    count = table.shape[1]
    bins = first.astype(np.int32)[:, None] + np.arange(count, dtype=np.int32)
    bins[(bins < 0) | (bins >= detectors)] = detectors
    rows = np.arange(0, bins.size + 1, count, dtype=np.int32)
    return csr_matrix((table[place].ravel(), bins.ravel(), rows), (ni * nj, detectors + 1), copy=False)


def _table(inner: float, outer: float) -> Array:
    """Shares of a footprint in the bins from its first on, by where in that bin it begins; (places + 1, bins)."""
    begin = np.arange(PLACES + 1)[:, None] / PLACES
    edges = np.arange(math.ceil(2 * outer) + 2)[None, :]
    return np.diff(_trapezoid(edges - begin - outer, inner, outer), axis=1)


def _trapezoid(u: Array, inner: float, outer: float) -> Array:
    """Area of a footprint up to ``u``: 0 at ``-outer``, 1 at ``outer``, a straight line within ``inner``."""
    reach, slope = outer + inner, outer - inner
    a = np.minimum(np.abs(u), outer)
    # Half the area within the flat top grows straight, that of the flank as a parabola.
    flank = np.maximum(a - inner, 0)
    half = a / reach - (flank**2 / (2 * slope * reach) if slope > 1e-12 else 0.0)
    return np.asarray(0.5 + np.sign(u) * half)
