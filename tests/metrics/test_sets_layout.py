"""The coarse layout, and the damage that it is there to see."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from medidiff.data.cohort import Cohort, load_people, people
from medidiff.metrics.sets.corruptions import noise, scrambled
from medidiff.metrics.sets.layout import layout, template


def made(count: int, seed: int = 0) -> np.ndarray:
    """Volumes of one pattern of many wavelengths, and texture."""
    pattern = ndimage.gaussian_filter(np.random.default_rng(99).normal(0, 30, (24, 26, 24)), 1.5)
    return pattern + np.random.default_rng(seed).normal(0, 0.3, (count, 1, 24, 26, 24))


def test_the_mean_person_is_like_herself_and_a_negative_is_the_opposite() -> None:
    images = made(4)
    mean = images.mean(axis=0, keepdims=True)
    assert layout(mean, template(images)) == pytest.approx([1.0])
    assert layout(3 - 2 * mean, template(images)) == pytest.approx([-1.0])


def test_brightness_and_gain_do_not_count() -> None:
    images = made(4)
    np.testing.assert_allclose(layout(2 * images + 5, template(images)), layout(images, template(images)))


def test_scrambling_keeps_the_power_and_takes_the_layout() -> None:
    images = made(6)
    mean = template(images)
    rng = np.random.default_rng(3)
    textures = np.stack([scrambled(image[0], 1.0, rng)[None] for image in images])
    for before, after in zip(images, textures, strict=True):
        power = [np.abs(np.fft.fftn(each[0])) for each in (before, after)]
        np.testing.assert_allclose(power[1], power[0], atol=1e-6 * power[0].max())
        assert after.mean() == pytest.approx(before.mean())
    assert layout(images, mean).min() > 0.9
    assert np.abs(layout(textures, mean)).max() < 0.5
    np.testing.assert_allclose(scrambled(images[0, 0], 0.0, rng), images[0, 0], atol=1e-12)


def test_real_people_have_the_layout_and_their_textures_have_not(shared) -> None:  # type: ignore[no-untyped-def]
    """Noise leaves the layout alone: this figure is about anatomy, and about nothing else."""
    folder = shared / "data" / "msd-hippocampus" / "images"
    some = load_people(people(Cohort(images=folder, first=16)), (40, 56, 40)).images
    mean, rng = template(some[:8]), np.random.default_rng(0)
    found = layout(some[8:], mean)
    noisy = layout(np.stack([noise(image[0], 0.1, rng)[None] for image in some[8:]]), mean)
    textures = layout(np.stack([scrambled(image[0], 1.0, rng)[None] for image in some[8:]]), mean)
    assert found.min() > 0.4
    assert np.abs(noisy - found).max() < 0.05
    assert textures.mean() < 0.3 * found.mean()
