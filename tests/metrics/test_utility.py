"""Segmenters that are trained on one set and tested on another."""

from __future__ import annotations

import numpy as np
import pytest

from medidiff.errors import InputError
from medidiff.metrics.utility import SegmenterOptions, dice, train_segmenter

QUICK = SegmenterOptions(channels=(8, 16), steps=60, batch=4, lr=1e-2)


def balls(n: int, seed: int = 0, contrast: float = 0.6) -> tuple[np.ndarray, np.ndarray]:
    """Bright balls with label 5 and brighter ones with label 2, somewhere in noise."""
    rng = np.random.default_rng(seed)
    labels = np.zeros((n, 1, 16, 16, 16), dtype=np.uint8)
    grid = np.indices((16, 16, 16))
    for label in labels:
        for value, low, high in ((5, 3, 6), (2, 9, 12)):
            centre = rng.uniform(low, high, 3)[:, None, None, None]
            label[0][((grid - centre) ** 2).sum(axis=0) < rng.uniform(6, 12)] = value
    shades = np.zeros(6)
    shades[[5, 2]] = contrast, contrast * 2
    return (shades[labels] + rng.normal(0, 0.05, labels.shape)).astype(np.float32), labels


def test_a_segmenter_learns_what_it_is_shown_and_no_more() -> None:
    images, labels = balls(12)
    unseen, truth = balls(6, seed=1)
    right = train_segmenter(images, labels, QUICK, 0, values=(2, 5)).dice(unseen, truth)
    wrong = train_segmenter(images, np.roll(labels, 6, axis=2), QUICK, 0, values=(2, 5)).dice(unseen, truth)
    assert right.shape == (6, 2)
    assert np.median(right) > 0.8
    assert wrong.mean() < right.mean() - 0.2


def test_predictions_have_the_labels_of_the_training_set() -> None:
    images, labels = balls(8)
    predicted = train_segmenter(images, labels, QUICK, 0, values=(2, 5)).predict(images)
    assert set(np.unique(predicted)) == {0, 2, 5}
    assert predicted.shape == labels.shape


@pytest.mark.parametrize("augment", [False, True])
def test_the_same_seed_gives_the_same_segmenter(augment: bool) -> None:
    images, labels = balls(5)
    short = QUICK.model_copy(update={"steps": 3})

    def scores(seed: int) -> np.ndarray:
        network = train_segmenter(images, labels, short, seed, values=(2, 5), augment=augment).network
        return np.concatenate([weight.numpy().ravel() for weight in network.parameters()])

    first = scores(1)
    np.random.default_rng(0)
    assert np.array_equal(first, scores(1))
    assert not np.array_equal(first, scores(2))


def test_dice_is_twice_the_common_over_the_sum() -> None:
    a, b = np.zeros((2, 1, 1, 4, 4, 4), dtype=np.uint8)
    a[..., :2] = 1
    b[..., 1:] = 1
    assert dice(a, b, (1,))[0, 0] == pytest.approx(2 * 16 / (32 + 48))
    assert np.isnan(dice(a, b, (2,))[0, 0])
    with pytest.raises(InputError, match="one shape"):
        dice(a, b[..., :2], (1,))


def test_images_without_their_labels_are_refused() -> None:
    images, labels = balls(4)
    with pytest.raises(InputError, match="one shape"):
        train_segmenter(images, labels[:2], QUICK, 0, values=(2, 5))
