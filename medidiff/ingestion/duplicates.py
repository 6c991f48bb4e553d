"""Is this scan in the dataset already, stored in another way?

Equal voxels are found by their hash. A scan that was rescaled, cropped, re-sampled, re-compressed or had its face
removed by somebody else keeps its noise: so a small picture finds candidates, and the fine texture decides. Two scans
of one person look alike, but don't share their noise.
"""

from __future__ import annotations

import base64
import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medidiff.geometry import Geometry
from medidiff.volume import Volume

Array = NDArray[Any]
CELLS = 12
# Other scans of one head reach 0.97 in the small picture; its own copies stay above 0.98.
CANDIDATE = 0.93
# Fine texture of copies correlates above 0.8, that of a second scan below 0.4 (anatomy's own edges).
SAME_TEXTURE = 0.75
_MOST_VOXELS = 4_000_000


def voxel_hash(volume: Volume) -> str:
    """SHA-256 of the values in RAS+ order, with shape and spacing: whatever the format and axis order were."""
    upright = volume.reoriented()
    digest = hashlib.sha256()
    spacing = " ".join(f"{step:.3f}" for step in upright.geometry.spacing)
    digest.update(f"{upright.data.shape} {spacing}".encode())
    for frame in upright.data:
        digest.update((np.ascontiguousarray(frame, dtype="<f4") + np.float32(0)).tobytes())  # -0.0 is 0.0
    return digest.hexdigest()


def fingerprint(volume: Volume) -> str:
    """A small picture of the first frame: 12 x 12 x 12 block means in RAS+ order, one signed byte each, base64."""
    data = np.nan_to_num(np.asarray(volume.reoriented().data[0], dtype=np.float32), posinf=0.0, neginf=0.0)
    low, high = np.percentile(data, (1, 99))
    clipped = np.clip(data, low, high)
    for axis in range(3):
        edges = np.linspace(0, clipped.shape[axis], CELLS + 1)
        begins = np.minimum(edges[:-1].astype(int), clipped.shape[axis] - 1)
        ends = np.maximum(np.ceil(edges[1:]).astype(int), begins + 1)
        cells = [
            clipped.take(range(a, min(b, clipped.shape[axis])), axis).mean(axis, keepdims=True)
            for a, b in zip(begins, ends, strict=True)
        ]
        clipped = np.concatenate(cells, axis)
    centred = clipped.ravel() - clipped.mean()
    scale = float(np.abs(centred).max())
    small = np.round(centred / scale * 127).astype(np.int8) if scale > 0 else np.zeros(centred.shape, np.int8)
    return base64.b64encode(small.tobytes()).decode("ascii")


class Fingerprints:
    """The small pictures of a dataset, 1.7 kB each."""

    def __init__(self) -> None:
        self._ids: list[str] = []
        self._pictures: list[Array] = []

    def add(self, identity: str, picture: str) -> None:
        self._ids.append(identity)
        self._pictures.append(_unit(picture).astype(np.float16))

    def discard(self, identity: str) -> None:
        while identity in self._ids:
            at = self._ids.index(identity)
            del self._ids[at], self._pictures[at]

    def candidates(self, picture: str, most: int = 5) -> list[str]:
        """Ids of the volumes that look like it, the likest first."""
        if not self._ids:
            return []
        mine = _unit(picture).astype(np.float32)
        scores = np.concatenate(
            [
                np.stack(self._pictures[at : at + 1024]).astype(np.float32) @ mine
                for at in range(0, len(self._ids), 1024)
            ]
        )
        order = [int(index) for index in np.argsort(-scores, kind="stable") if scores[index] >= CANDIDATE]
        return [self._ids[index] for index in order[:most]]


def same_texture(one: Volume, other: Volume) -> float:
    """Correlation of the fine texture of two volumes' first frames on the first one's grid, -1 to 1.

    Both are laid over each other by their places in the world; where these tell nothing (no overlap), corner on
    corner by index.
    """
    a, b = one.reoriented(), other.reoriented()
    first = np.nan_to_num(np.asarray(a.data[0], dtype=np.float32))
    second = _onto(b, a.geometry)
    if second is None:
        return 0.0
    valid = np.isfinite(second)
    second = np.where(valid, second, 0.0)
    inside = valid & (first > np.percentile(first, 60))
    inside &= ndimage.binary_erosion(valid, iterations=2)
    if inside.sum() < 500:
        return 0.0
    # Edges of anatomy are alike in all scans of a person, and of a template: noise is looked for between them.
    edges = np.maximum(_edges(first, inside), _edges(second, inside))
    inside &= edges <= np.percentile(edges[inside], 50)
    x, y = _texture(first)[inside], _texture(second)[inside]
    # A region that was wiped out on one side (face, text) says nothing about the rest.
    both = (x != 0) & (y != 0)
    if both.sum() < 250:
        return 0.0
    x, y = _clipped(x[both]), _clipped(y[both])
    spread = float(x.std() * y.std())
    return float((x * y).mean() / spread) if spread > 0 else 0.0


def _unit(picture: str) -> Array:
    values = np.frombuffer(base64.b64decode(picture), np.int8).astype(np.float32)
    length = float(np.linalg.norm(values))
    return np.asarray(values / length) if length > 0 else values


def _texture(data: Array) -> Array:
    """What is finer than about two voxels."""
    return np.asarray(data - ndimage.gaussian_filter(data, 1.0))


def _edges(data: Array, inside: Array) -> Array:
    """How steep the image is at the scale of anatomy, in units of its own spread."""
    steep = ndimage.gaussian_gradient_magnitude(data, 1.5)
    scale = float(steep[inside].mean())
    return np.asarray(steep / scale) if scale > 0 else steep


def _clipped(values: Array) -> Array:
    """Centred, and cut at three robust standard deviations: a few strong values must not decide."""
    centred = values - np.median(values)
    limit = 3 * 1.4826 * float(np.median(np.abs(centred)))
    return np.asarray(np.clip(centred, -limit, limit) if limit > 0 else centred)


def _onto(volume: Volume, geometry: Geometry) -> Array | None:
    """The first frame on another grid, linearly, NaN outside; None where the two do not meet."""
    data = np.nan_to_num(np.asarray(volume.data[0], dtype=np.float32))
    if volume.geometry.distance(geometry) < 0.01:
        return data
    if volume.geometry.shape == geometry.shape and np.allclose(volume.geometry.spacing, geometry.spacing, rtol=1e-3):
        return data  # the same voxels under another origin
    matrix = np.linalg.inv(volume.geometry.affine) @ geometry.affine
    out = ndimage.affine_transform(
        data, matrix[:3, :3], matrix[:3, 3], output_shape=geometry.shape, order=1, mode="constant", cval=np.nan
    )
    return np.asarray(out) if np.isfinite(out).mean() > 0.3 else None
