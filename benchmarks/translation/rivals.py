"""Classical translations, fitted to the same one person as the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.linear_model import Ridge

Array = NDArray[Any]

TISSUES = 3
QUANTILES = np.linspace(0, 1, 65)
PATCH = 5
VOXELS = 60_000


@dataclass(frozen=True)
class Pair:
    """One person: two contrasts in model units and where the brain is, shape (i, j, k)."""

    source: Array
    target: Array
    brain: Array


def tissues(image: Array, brain: Array) -> Array:
    """Three classes by intensity, the darkest first; 0 outside the brain."""
    values = image[brain][:, None]
    centres = np.sort(
        KMeans(TISSUES, n_init=4, random_state=0).fit(values[:: max(1, len(values) // VOXELS)]).cluster_centers_[:, 0]
    )
    found = np.zeros(image.shape, np.uint8)
    found[brain] = 1 + np.searchsorted((centres[1:] + centres[:-1]) / 2, image[brain])
    return found


def histogram(train: Pair, source: Array, brain: Array) -> Array:
    """Each tissue's distribution of the source laid onto that of the target, in the order that they go together."""
    out = np.zeros(source.shape, np.float32)
    own, other = tissues(train.source, train.brain), tissues(source, brain)
    for number in range(1, TISSUES + 1):
        a, b = train.source[own == number], train.target[own == number]
        falling = np.corrcoef(a, b)[0, 1] < 0
        levels = np.quantile(b, QUANTILES[::-1] if falling else QUANTILES)
        here = other == number
        out[here] = np.interp(source[here], np.quantile(source[here], QUANTILES), levels)
    return out


def regression(train: Pair, source: Array, brain: Array) -> Array:
    """A linear function of the 5 x 5 x 5 source voxels around, by ridge regression."""
    places = np.argwhere(train.brain)
    chosen = places[np.random.default_rng(0).permutation(len(places))[:VOXELS]]
    fitted = Ridge(alpha=1.0).fit(patches(train.source, chosen), train.target[tuple(chosen.T)])
    out = np.zeros(source.shape, np.float32)
    where = np.argwhere(brain)
    for part in np.array_split(where, 32):
        out[tuple(part.T)] = fitted.predict(patches(source, part))
    return out


def patches(image: Array, places: Array) -> Array:
    """The voxels around each place, shape (n, PATCH^3)."""
    half = PATCH // 2
    wide = np.pad(image, half)
    view = np.lib.stride_tricks.sliding_window_view(wide, (PATCH,) * 3)
    return np.asarray(view[tuple(places.T)].reshape(len(places), -1))
