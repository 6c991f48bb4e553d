"""What is done to a set of real people, how much of it, and which figures must see it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medidiff.data.cohort import People
from medidiff.evaluate.agreement import AGREEMENT
from medidiff.metrics.sets import corruptions as damage
from medidiff.metrics.sets import panel
from medidiff.rng import derive_seed

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Spoiled:
    """A set after damage.

    Args:
        chosen: Which of the people are in it, shape (n,).
        images, labels: Of all the people, before the choice; None where they are as they were.
    """

    chosen: Array
    images: Array | None = None
    labels: Array | None = None


Spoil = Callable[[People, float], Spoiled]
_DISTANCES = (panel.KID, panel.MMD)
_LOOKS = (*_DISTANCES, panel.DENSITY, panel.ALPHA)


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of damage.

    Args:
        spoil: What it does.
        amounts: Four of them, mildest first.
        unit: Of the amounts.
        seen_by: The figures that must rank it.
        why: And why not the others.
    """

    spoil: Spoil
    amounts: tuple[float, float, float, float]
    unit: str
    seen_by: tuple[str, ...]
    why: str


def _images(change: Callable[[Array, float, np.random.Generator], Array]) -> Spoil:
    def spoil(people: People, amount: float) -> Spoiled:
        images = np.empty_like(people.images)
        for place, image in enumerate(people.images):
            # The same draw at every amount: only the amount differs between two severities.
            images[place, 0] = change(image[0], amount, np.random.default_rng(derive_seed(0, place)))
        return Spoiled(np.arange(len(people)), images)

    return spoil


def _elastic(people: People, amount: float) -> Spoiled:
    images, labels = np.empty_like(people.images), np.empty_like(_labels(people))
    for place, (image, label) in enumerate(zip(people.images, _labels(people), strict=True)):
        rng = np.random.default_rng(derive_seed(0, place))
        images[place, 0], labels[place, 0] = damage.elastic(image[0], label[0], amount, rng)
    return Spoiled(np.arange(len(people)), images, labels)


def _mode_drop(people: People, amount: float) -> Spoiled:
    """Only people with small structures are left; always a quarter of all, so that n says nothing."""
    order = np.argsort((_labels(people) > 0).sum(axis=(1, 2, 3, 4)), kind="stable")
    left = order[: round(len(people) * (1 - amount))]
    return Spoiled(left[np.linspace(0, len(left) - 1, len(people) // 4).round().astype(int)])


def _copies(people: People, amount: float) -> Spoiled:
    return Spoiled(damage.copies(len(people), round(len(people) / amount)))


def _erosion(people: People, amount: float) -> Spoiled:
    """A layer of voxels off the labelled structures of a share of the items."""
    labels = _labels(people).copy()
    for place in range(round(amount * len(people))):
        labels[place, 0] = damage.eroded(labels[place, 0], 1)
    return Spoiled(np.arange(len(people)), labels=labels)


def _swap(people: People, amount: float) -> Spoiled:
    """A share of the items have the label maps of their neighbours in the list."""
    labels = _labels(people).copy()
    count = round(amount * len(people))
    labels[:count] = np.roll(labels[:count], 1, axis=0)
    return Spoiled(np.arange(len(people)), labels=labels)


def _labels(people: People) -> Array:
    if people.labels is None:
        raise ValueError("these people have no label maps")
    return people.labels


KINDS: Mapping[str, Kind] = {
    "blur": Kind(
        _images(lambda image, amount, _: damage.blur(image, amount)),
        (0.35, 0.45, 0.55, 0.7),
        "sigma, voxels",
        (*_LOOKS, panel.BETA),
        "smooth items still lie in the wide balls of real people: precision stays high at first",
    ),
    "noise": Kind(
        _images(damage.noise),
        (0.03, 0.05, 0.07, 0.1),
        "std, of the bright end",
        (*_LOOKS, panel.PRECISION),
        "noise does not change who is there: recall and label maps know nothing of it",
    ),
    "ghosting": Kind(
        _images(lambda image, amount, _: damage.ghosting(image, amount)),
        (0.1, 0.17, 0.25, 0.35),
        "of every other line lost",
        _LOOKS,
        "as for noise; precision moves only from the third amount on",
    ),
    "bias field": Kind(
        _images(damage.bias_field),
        (0.12, 0.18, 0.25, 0.35),
        "std of its logarithm",
        (*_LOOKS, panel.BETA),
        "as for noise",
    ),
    "contrast": Kind(
        _images(lambda image, amount, _: damage.gamma(image, amount)),
        (0.12, 0.2, 0.3, 0.45),
        "log of gamma",
        (*_LOOKS, panel.COVERAGE, panel.BETA),
        "the set moves as a whole: precision sees it late",
    ),
    "scrambled": Kind(
        _images(damage.scrambled),
        (0.2, 0.35, 0.5, 0.8),
        "of the phases of noise",
        (*_LOOKS, panel.LAYOUT),
        "the power at every frequency is what it was: precision stays high at first",
    ),
    "distorted anatomy": Kind(
        _elastic,
        (1.0, 2.0, 3.0, 4.5),
        "displacement, voxels RMS",
        (panel.STRUCTURES,),
        "no voxel looks wrong, and the features hardly see it (KID 1.3 at the most); what is wrong is size and shape",
    ),
    "mode drop": Kind(
        _mode_drop,
        (0.2, 0.4, 0.6, 0.75),
        "share of people, those with large structures, dropped",
        (panel.STRUCTURES,),
        "each item is as good as ever, and the size of one small structure is a small part of 96 features",
    ),
    "copies": Kind(
        _copies,
        (2.0, 3.0, 4.0, 8.0),
        "times each item",
        (panel.COVERAGE, panel.RECALL, panel.BETA, panel.LIKENESS),
        "each item is as good as ever: fidelity knows nothing of it",
    ),
    "eroded labels": Kind(
        _erosion,
        (0.25, 0.5, 0.75, 1.0),
        "share of items that lose a layer",
        (panel.STRUCTURES, AGREEMENT),
        "the images are as they were",
    ),
    "labels of others": Kind(
        _swap,
        (0.25, 0.5, 0.75, 1.0),
        "share of items",
        (AGREEMENT,),
        "images and label maps are right, each by itself: only a segmenter sees that they do not belong together",
    ),
}
