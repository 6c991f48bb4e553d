"""Structures: shapes whose size is known, and distances held against scipy."""

from __future__ import annotations

import numpy as np
import pytest

from medidiff.metrics.sets import corruptions as damage
from medidiff.metrics.sets import shape_features, wasserstein, wasserstein_interval


def ball(radius: float, spacing: tuple[float, float, float] = (1.0, 1.0, 1.0), stretch: float = 1.0) -> np.ndarray:
    grid = (np.indices((40, 40, 40)) - 19.5) * np.array(spacing)[:, None, None, None]
    grid[0] /= stretch
    return ((grid**2).sum(axis=0) <= radius**2).astype(np.uint8)[None]


def test_a_ball_has_the_size_and_shape_of_a_ball() -> None:
    (volume, surface, sphericity, elongation) = shape_features(ball(12)[None], (1,), (1, 1, 1))[0, 0]
    assert volume == pytest.approx(4 / 3 * np.pi * 12**3, rel=0.01)
    assert surface == pytest.approx(4 * np.pi * 12**2, rel=0.1)  # a surface of voxels has steps
    assert sphericity == pytest.approx(0.92, abs=0.04)
    assert elongation == pytest.approx(1, abs=1e-6)


def test_millimetres_and_not_voxels_are_measured() -> None:
    fine, coarse = (
        shape_features(ball(9, spacing)[None], (1,), spacing)[0, 0] for spacing in ((1.0, 1.0, 1.0), (0.5, 1.0, 0.8))
    )
    assert coarse[0] == pytest.approx(fine[0], rel=0.02)
    assert coarse[1] == pytest.approx(fine[1], rel=0.05)


def test_a_long_structure_is_long() -> None:
    long = shape_features(ball(6, stretch=2.0)[None], (1,), (1, 1, 1))[0, 0]
    assert long[3] == pytest.approx(2, rel=0.05)
    assert long[2] < shape_features(ball(6)[None], (1,), (1, 1, 1))[0, 0, 2]


def test_where_there_is_no_structure_there_is_no_shape() -> None:
    found = shape_features(ball(6)[None], (1, 2), (1, 1, 1))
    assert found.shape == (1, 2, 4)
    assert (found[0, 1] == 0).all()


def test_the_distance_is_scipys_in_standard_deviations() -> None:
    from scipy.stats import wasserstein_distance

    rng = np.random.default_rng(0)
    real, fake = rng.gamma(3, size=(30, 2, 4)), rng.gamma(4, size=(20, 2, 4))
    spread = real.std(axis=0)
    found = wasserstein(real, fake, spread)
    assert found.shape == (2, 4)
    for value in range(2):
        for feature in range(4):
            theirs = wasserstein_distance(real[:, value, feature], fake[:, value, feature]) / spread[value, feature]
            assert found[value, feature] == pytest.approx(theirs, abs=1e-12)


def test_a_shift_of_a_standard_deviation_is_one() -> None:
    real = np.random.default_rng(0).standard_normal((50, 1, 4))
    assert wasserstein(real, real + real.std(axis=0), real.std(axis=0)) == pytest.approx(np.ones((1, 4)))


def test_the_interval_holds_the_value_though_resampling_moves_sets_apart() -> None:
    rng = np.random.default_rng(1)
    real, fake = rng.standard_normal((2, 60, 1, 4))
    interval = wasserstein_interval(real, fake, np.ones((1, 4)), seed=0, draws=200)
    assert interval.low < interval.value < interval.high
    assert interval.high - interval.value < 0.3


def test_no_damage_is_no_damage() -> None:
    image = np.random.default_rng(0).random((20, 24, 18))
    label = (image > 0.5).astype(np.uint8)
    rng = np.random.default_rng(0)
    assert np.array_equal(damage.blur(image, 0), image)
    for spoilt in (
        damage.noise(image, 0, rng),
        damage.ghosting(image, 0),
        damage.bias_field(image, 0, rng),
        damage.gamma(image, 0),
        damage.elastic(image, label, 0, rng)[0],
    ):
        assert np.abs(spoilt - image).max() < 1e-9
    assert np.array_equal(damage.elastic(image, label, 0, rng)[1], label)  # type: ignore[arg-type]
    assert np.array_equal(damage.eroded(label, 0), label)


def test_damage_is_of_the_size_that_was_asked_for() -> None:
    rng = np.random.default_rng(0)
    flat = np.full((30, 30, 30), 0.5)
    assert np.std(np.log(damage.bias_field(flat, 0.2, rng))) == pytest.approx(0.2)
    assert damage.noise(flat, 0.02, rng).std() == pytest.approx(0.02, rel=0.05)
    # A ramp moved by a field differs by the field itself.
    ramp = np.indices((30, 30, 30))[0].astype(float)
    moved = damage.elastic(ramp, None, 1.0, rng)[0]
    assert 0.2 < np.sqrt(((moved - ramp)[5:-5] ** 2).mean()) < 1.2
    ghost = damage.ghosting(np.pad(np.ones((4, 8, 4)), ((0, 0), (0, 8), (0, 0))), 0.4)
    assert ghost[0, 12, 0] == pytest.approx(0.2)


def test_erosion_takes_a_layer_and_never_a_whole_structure() -> None:
    label = ball(8)[0] * 2
    label[0, 0, 0] = 1
    smaller = damage.eroded(label, 1)
    assert (smaller == 1).sum() == 1
    assert (smaller == 2).sum() == pytest.approx(4 / 3 * np.pi * 7.2**3, rel=0.1)


def test_copies_are_copies() -> None:
    assert damage.copies(6, 2).tolist() == [0, 1, 0, 1, 0, 1]
    assert damage.copies(3, 0).tolist() == [0, 0, 0]
