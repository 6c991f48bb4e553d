"""Likeness in spaces where everybody can be compared with everybody at once: label maps, and what an encoder sees."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

from medidiff.privacy.leakage.resemblance import FLIPS, SHORTLIST, flip_axes

Array = NDArray[Any]

# Label maps are also compared after small turns about each axis.
TURN_DEGREES = 7.0
MOST_LABEL_SIDE = 64


class Embeds(Protocol):
    """Images (n, 1, i, j, k) in model units to features (n, d)."""

    def embed(self, images: Array, /) -> Array: ...


def lead(likeness: Array, group: Sequence[int]) -> tuple[Array, Array]:
    """Who of a group is nearest to each query, and by how much more than the middle of the next few.

    Args:
        likeness: Shape (queries, people); NaN where somebody does not count.
        group: Columns that count.
    Returns:
        Columns and leads, each of shape (queries,).
    """
    columns = np.asarray(group)
    own = np.where(np.isnan(likeness[:, columns]), -np.inf, likeness[:, columns])
    order = np.argsort(-own, axis=1, kind="stable")
    ranked = np.take_along_axis(own, order[:, :SHORTLIST], axis=1)
    ranked[np.isneginf(ranked)] = np.nan
    others = np.nanmedian(ranked[:, 1:], axis=1) if ranked.shape[1] > 1 else ranked[:, 0]
    return columns[order[:, 0]], ranked[:, 0] - others


def embedded_likeness(images: Array, people: Array, encoder: Embeds) -> Array:
    """Cosine between centred features of each query, under the flip that suits best, and of people.

    Args:
        images: Queries, shape (q, i, j, k), model units.
        people: Features of people, shape (n, d), of the same encoder.
        encoder: The encoder.
    Returns:
        Shape (q, n).
    """
    centre = people.mean(0)
    known = _normalised(people - centre)
    best = np.full((len(images), len(people)), -1.0)
    for flip in FLIPS:
        axes = tuple(axis + 1 for axis in flip_axes(flip))
        features = encoder.embed(np.ascontiguousarray(np.flip(images, axes))[:, None])
        best = np.maximum(best, _normalised(features - centre) @ known.T)
    return best


def label_likeness(queries: Array, people: Array) -> Array:
    """Dice of label maps over all classes, moved onto one another by their centres, flipped, and turned a little.

    Args:
        queries: Shape (q, i, j, k), whole numbers; 0 is background.
        people: Shape (n, i, j, k).
    Returns:
        Shape (q, n); 0 where a map is empty.
    """
    step = -(-max(people.shape[1:]) // MOST_LABEL_SIDE)
    values = [int(value) for value in np.unique(people) if value]
    known = np.stack([_classes(_centred(label[::step, ::step, ::step]), values) for label in people])
    sizes = known.sum(1)
    best = np.zeros((len(queries), len(people)))
    for number, query in enumerate(queries):
        small = _centred(query[::step, ::step, ::step])
        variants = np.stack([_classes(turned, values) for turned in _variants(small)])
        overlap = 2 * (variants @ known.T) / np.maximum(variants.sum(1)[:, None] + sizes[None], 1)
        best[number] = overlap.max(0)
    return best


def _variants(label: Array) -> Iterator[Array]:
    centre = (np.asarray(label.shape) - 1) / 2
    turns = [np.zeros(3)] + [sign * TURN_DEGREES * axis for sign, axis in product((-1, 1), np.eye(3))]
    for degrees in turns:
        matrix = Rotation.from_rotvec(np.deg2rad(degrees)).as_matrix()
        turned = label
        if degrees.any():
            turned = ndimage.affine_transform(label, matrix, centre - matrix @ centre, order=0, mode="constant")
        for flip in FLIPS:
            yield np.flip(turned, flip_axes(flip))


def _centred(label: Array) -> Array:
    """The map with the middle of what is labelled in the middle of an odd grid, so that flips keep it there."""
    odd = np.pad(label, [(0, 1 - n % 2) for n in label.shape])
    if not odd.any():
        return odd
    centre = np.array(ndimage.center_of_mass(odd > 0))
    shift = np.rint((np.asarray(odd.shape) - 1) / 2 - centre)
    return np.asarray(ndimage.shift(odd, shift, order=0, mode="constant"))


def _classes(label: Array, values: Sequence[int]) -> Array:
    return np.concatenate([(label == value).ravel() for value in values] or [np.zeros(label.size)]).astype(np.float32)


def _normalised(features: Array) -> Array:
    return np.asarray(features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12))
