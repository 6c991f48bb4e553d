"""The set and the real people, seen in the same way: one grid, one field of view, one encoder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medidiff.evaluate.judgement import BLUR, COLLAPSE, COPIES, ERODED, NOISE, SCRAMBLED
from medidiff.metrics.features import Encoder
from medidiff.metrics.sets import corruptions, diversity, structures
from medidiff.metrics.sets.layout import layout
from medidiff.metrics.sets.panel import Sample
from medidiff.rng import derive_seed

Array = NDArray[Any]
# What floors are spoiled by: damage that a reader sees at once, and no more.
BLUR_VOXELS, NOISE_STD, ERODED_VOXELS, DISTINCT_SHARE = 0.8, 0.1, 1, 8


def framed(images: Array, inside: Array) -> Array:
    """Images with the fields of view of real people, by turns: outside, the border repeated, as ``load_people`` pads.

    Real scans are padded where their field of view ends. What is padded says nothing about anatomy, and a set must not
    be told from people by it.

    Args:
        images: Shape (n, 1, i, j, k).
        inside: Of real people, shape (m, 1, i, j, k); True in a box.
    """
    out = np.empty_like(images)
    for place, image in enumerate(images):
        mask = inside[place % len(inside), 0]
        box, pad = [], []
        for axis in range(3):
            seen = np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis)))
            box.append(slice(seen[0], seen[-1] + 1))
            pad.append((int(seen[0]), int(mask.shape[axis] - 1 - seen[-1])))
        out[place, 0] = np.pad(image[0][tuple(box)], pad, mode="edge")
    return out


def spread_over(count: int, wanted: int) -> Array:
    """Places of ``wanted`` of ``count`` things, evenly spread; all of them if there are not so many."""
    return np.unique(np.linspace(0, count - 1, min(count, wanted)).round().astype(int))


@dataclass(frozen=True, slots=True)
class Eye:
    """Turns volumes into what figures are taken of.

    Args:
        encoder: Of features.
        values: Label values that are structures; none without label maps.
        spacing: Of the voxels, mm.
        likeness: Items of which every two are compared.
        mean_person: Of ``medidiff.metrics.sets.layout.template``; None leaves the layout out.
    """

    encoder: Encoder
    values: tuple[int, ...]
    spacing: tuple[float, ...]
    likeness: int
    mean_person: Array | None = None

    def see(self, images: Array, labels: Array | None, *, likeness: bool = True) -> Sample:
        """A sample of images (n, 1, i, j, k) and label maps of the same shape."""
        return Sample(
            self.encoder.embed(images),
            self._table(images) if likeness else None,
            structures.shape_features(labels, self.values, self.spacing)
            if labels is not None and self.values
            else None,
            None if self.mean_person is None else layout(images, self.mean_person),
        )

    def _table(self, images: Array) -> Array | None:
        if len(images) < 3 or min(images.shape[2:]) < diversity.SMALLEST:
            return None
        return diversity.ms_ssim_pairs(images[spread_over(len(images), self.likeness)])


def floors_of(
    eye: Eye, images: Array, labels: Array | None, seen: Sample, seed: int, tell: Callable[[str], None]
) -> dict[str, Sample]:
    """Sets that are known to be bad, made of real people, as many as there are of them.

    Args:
        images, labels: Of the people, shape (n, 1, i, j, k).
        seen: The same people unspoiled.
    """
    count = len(images)
    repeated = corruptions.copies(count, max(1, count // DISTINCT_SHARE))
    found = {COPIES: _repeated(seen, repeated), COLLAPSE: _repeated(seen, np.zeros(count, dtype=int))}
    tell("blurring people on purpose")
    blurred = np.stack([corruptions.blur(image[0], BLUR_VOXELS)[None] for image in images])
    found[BLUR] = eye.see(blurred, None, likeness=False)
    tell("adding noise to people on purpose")
    noisy = [
        corruptions.noise(image[0], NOISE_STD, np.random.default_rng(derive_seed(seed, place)))[None]
        for place, image in enumerate(images)
    ]
    found[NOISE] = eye.see(np.stack(noisy), None, likeness=False)
    tell("taking the anatomy out of people on purpose")
    textures = [
        corruptions.scrambled(image[0], 1.0, np.random.default_rng(derive_seed(seed, place)))[None]
        for place, image in enumerate(images)
    ]
    found[SCRAMBLED] = eye.see(np.stack(textures), None, likeness=False)
    if labels is not None and seen.shapes is not None:
        smaller = np.stack([corruptions.eroded(label[0], ERODED_VOXELS)[None] for label in labels])
        shapes = structures.shape_features(smaller, eye.values, eye.spacing)
        found[ERODED] = Sample(seen.features, None, shapes)
    return found


def _repeated(seen: Sample, chosen: Array) -> Sample:
    """A set that shows only some of its people; copies are as alike as can be."""
    table = seen.likeness
    if table is not None:
        distinct = max(1, int(chosen.max() + 1) * len(table) // len(chosen))
        index = np.arange(len(table)) % distinct
        table = table[np.ix_(index, index)]
    some = seen[chosen]
    return Sample(some.features, table, some.shapes, some.layout)
