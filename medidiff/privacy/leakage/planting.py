"""Near-copies made on purpose: what a gate that claims to find copies must be shown to find.

Each kind of copy is a function of a volume and a random generator. The strengths are those of a copy that a person
would still call one: turned by up to 10 degrees, moved by up to 6 mm, half blended with somebody else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

Array = NDArray[Any]

MOST_DEGREES = 10.0
MOST_SHIFT = 6.0  # voxels
ELASTIC_REACH = 6.0  # voxels over which a displacement changes (standard deviation of the smoothing)
ELASTIC_RMS = 1.5  # voxels
BLEND = 0.5


@dataclass(frozen=True, slots=True, eq=False)
class Plant:
    """A near-copy and where it came from.

    Args:
        kind: One of ``KINDS`` or ``HARDER``.
        source: Which of the volumes was copied.
        volume: The copy, shape (i, j, k).
    """

    kind: str
    source: int
    volume: Array


Change = Callable[[Array, Array, np.random.Generator], Array]


def _exact(x: Array, _other: Array, _rng: np.random.Generator) -> Array:
    return x.copy()


def _flipped(x: Array, _other: Array, rng: np.random.Generator) -> Array:
    axes = tuple(axis for axis in range(3) if rng.random() < 0.5) or (int(rng.integers(3)),)
    return np.asarray(np.flip(x, axes)).copy()


def _rotated(x: Array, _other: Array, rng: np.random.Generator) -> Array:
    axis = rng.normal(size=3)
    angle = np.deg2rad(rng.uniform(0.4, 1.0) * MOST_DEGREES) * rng.choice([-1, 1])
    turn = Rotation.from_rotvec(angle * axis / np.linalg.norm(axis)).as_matrix()
    centre = (np.asarray(x.shape) - 1) / 2
    return np.asarray(ndimage.affine_transform(x, turn, centre - turn @ centre, order=3, mode="nearest"))


def _shifted(x: Array, _other: Array, rng: np.random.Generator) -> Array:
    return np.asarray(ndimage.shift(x, rng.uniform(-MOST_SHIFT, MOST_SHIFT, 3), order=3, mode="nearest"))


def _gamma(x: Array, _other: Array, rng: np.random.Generator) -> Array:
    top = float(x.max())
    exponent = float(np.exp(rng.choice([-1, 1]) * rng.uniform(0.3, 0.7)))  # 0.5 to 2
    return np.asarray(rng.uniform(0.7, 1.3) * top * (x.clip(0) / top) ** exponent)


def _noisy(x: Array, _other: Array, rng: np.random.Generator) -> Array:
    return np.asarray(x + rng.normal(size=x.shape) * rng.uniform(0.05, 0.15) * np.percentile(x, 99.5))


def _blurred(x: Array, _other: Array, rng: np.random.Generator) -> Array:
    return np.asarray(ndimage.gaussian_filter(x, rng.uniform(0.7, 1.5), mode="nearest"))


def _cropped(x: Array, _other: Array, rng: np.random.Generator) -> Array:
    """A box of three quarters of each side, put into the middle, its faces drawn out: as a loader would pad it."""
    size = [round(0.75 * n) for n in x.shape]
    start = [int(rng.integers(n - s + 1)) for n, s in zip(x.shape, size, strict=True)]
    box = x[tuple(slice(a, a + s) for a, s in zip(start, size, strict=True))]
    return np.pad(box, [((n - s) // 2, n - s - (n - s) // 2) for n, s in zip(x.shape, size, strict=True)], mode="edge")


def _elastic(x: Array, _other: Array, rng: np.random.Generator) -> Array:
    field = np.stack([ndimage.gaussian_filter(rng.normal(size=x.shape), ELASTIC_REACH) for _ in range(3)])
    field *= ELASTIC_RMS / field.std()
    grid = np.stack(np.meshgrid(*map(np.arange, x.shape), indexing="ij"))
    return np.asarray(ndimage.map_coordinates(x, grid + field, order=3, mode="nearest"))


def _blended(x: Array, other: Array, _rng: np.random.Generator) -> Array:
    return BLEND * x + (1 - BLEND) * other


def _inverted(x: Array, other: Array, rng: np.random.Generator) -> Array:
    return _gamma(np.asarray(x.max() - x), other, rng)


def _several(x: Array, other: Array, rng: np.random.Generator) -> Array:
    """Flipped, turned, moved, re-contrasted and noisy at once."""
    y = np.roll(_rotated(_flipped(x, other, rng), other, rng), rng.integers(-3, 4, 3), (0, 1, 2))
    y = _gamma(y, other, rng)
    return np.asarray(y + rng.normal(size=x.shape) * 0.05 * np.percentile(y, 99.5))


KINDS: dict[str, Change] = {
    "exact": _exact, "flipped": _flipped, "rotated": _rotated, "shifted": _shifted, "gamma": _gamma,
    "noise": _noisy, "blur": _blurred, "crop": _cropped, "elastic": _elastic, "blended": _blended,
}  # fmt: skip
# Beyond the promise: told apart, so that it is known where the gate ends.
HARDER: dict[str, Change] = {"inverted": _inverted, "several": _several}


def plant(kind: str, source: int, volumes: Array, others: Array, *, seed: int) -> Plant:
    """A near-copy of one of the volumes.

    Args:
        kind: One of ``KINDS`` or ``HARDER``.
        source: Which volume is copied.
        volumes: Training volumes, shape (n, i, j, k).
        others: People to blend with, shape (m, i, j, k), who were not trained on.
        seed: Of this copy.
    """
    rng = np.random.default_rng([seed, source, sorted({**KINDS, **HARDER}).index(kind)])
    other = others[int(rng.integers(len(others)))]
    changed = {**KINDS, **HARDER}[kind](volumes[source], other, rng)
    return Plant(kind, source, np.asarray(changed, dtype=np.float32))
