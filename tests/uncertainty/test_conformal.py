"""Conformal risk control: the promise itself, on people drawn from a distribution that we know."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from medidiff.errors import InputError
from medidiff.uncertainty import missed_shares, smallest_count, smallest_multiplier
from medidiff.uncertainty.conformal import GRID

errors = hnp.arrays(np.float64, 40, elements=st.floats(-100, 100))
scales = hnp.arrays(np.float64, 40, elements=st.floats(0.01, 100))


def person(rng: np.random.Generator, voxels: int = 200) -> tuple[np.ndarray, np.ndarray]:
    """Errors that differ in size from person to person and voxel to voxel, and a scale that knows half of it."""
    size = rng.gamma(4, 0.25)
    local = np.exp(rng.normal(0, 0.5, voxels))
    return size * local * rng.standard_t(4, voxels), np.sqrt(local)


@pytest.mark.parametrize(("people", "level"), [(9, 0.1), (20, 0.1), (40, 0.2)])
def test_the_next_person_is_missed_as_often_as_promised(people: int, level: float) -> None:
    """Theorem 1: between ``level - 2 / (n + 1)`` and ``level`` in expectation, with no word about the distribution."""
    rng = np.random.default_rng(0)
    missed = []
    for _ in range(250):
        shares = [missed_shares(*person(rng)) for _ in range(people + 1)]
        multiplier = smallest_multiplier(shares[:-1], level)
        assert multiplier is not None
        missed.append(shares[-1][int(np.searchsorted(GRID, multiplier))])
    mean, error = np.mean(missed), np.std(missed) / np.sqrt(len(missed))
    assert level - 2 / (people + 1) - 3 * error <= mean <= level + 3 * error


@pytest.mark.parametrize("people", [9, 20, 100])
def test_the_multiplier_is_the_one_of_the_formula(people: int) -> None:
    """Ratios spread evenly over 0 to 1: a share m is missed at multiplier 1 - m."""
    even = (np.arange(10_000) + 0.5) / 10_000
    found = smallest_multiplier([missed_shares(even, np.ones_like(even))] * people, 0.1)
    exact = 1 - (0.1 * (people + 1) - 1) / people
    assert found is not None
    assert exact - 1e-3 <= found <= exact * 1.01  # rounded up to the grid, never down


def test_too_few_people_get_no_promise() -> None:
    assert smallest_count(0.1) == 9
    assert smallest_count(0.05) == 19
    shares = [np.zeros_like(GRID)] * 9
    assert smallest_multiplier(shares, 0.1) == GRID[0]
    assert smallest_multiplier(shares[:8], 0.1) is None


def test_one_broken_person_in_nine_cannot_be_promised_away() -> None:
    whole = np.ones_like(GRID)
    assert smallest_multiplier([np.zeros_like(GRID)] * 8 + [whole], 0.1) is None


@given(errors, scales)
def test_a_larger_multiplier_never_misses_more(error: np.ndarray, scale: np.ndarray) -> None:
    shares = missed_shares(error, scale)
    assert (np.diff(shares) <= 0).all()
    assert shares.min() >= 0
    assert shares.max() <= 1
    for index in (0, 700, 1300, 2000):
        assert shares[index] == pytest.approx(np.mean(np.abs(error) > GRID[index] * scale), abs=1.5 / 40)


@given(errors, scales, st.floats(0.1, 10))
def test_units_do_not_matter(error: np.ndarray, scale: np.ndarray, unit: float) -> None:
    # A ratio may fall on a multiplier exactly, and rounding decides there.
    assert np.abs(missed_shares(unit * error, unit * scale) - missed_shares(error, scale)).mean() < 1e-3


@given(st.lists(st.tuples(errors, scales), min_size=9, max_size=14), st.floats(0.12, 0.4))
def test_larger_errors_or_a_stricter_level_ask_for_wider_intervals(
    people: list[tuple[np.ndarray, np.ndarray]], level: float
) -> None:
    plain = smallest_multiplier([missed_shares(e, s) for e, s in people], level)
    larger = smallest_multiplier([missed_shares(2 * e, s) for e, s in people], level)
    looser = smallest_multiplier([missed_shares(e, s) for e, s in people], level + 0.1)
    assert looser is not None
    if plain is not None:
        assert looser <= plain
        assert larger is None or larger >= plain


@pytest.mark.parametrize(
    ("error", "scale"),
    [([1.0], [1.0, 2.0]), ([], []), ([np.nan], [1.0]), ([1.0], [np.inf]), ([1.0], [-1.0])],
)
def test_what_is_no_error_or_scale_is_refused(error: list[float], scale: list[float]) -> None:
    with pytest.raises(InputError):
        missed_shares(np.array(error), np.array(scale))


@pytest.mark.parametrize("level", [0.0, 1.0, -0.1, float("nan")])
def test_a_level_is_a_share(level: float) -> None:
    with pytest.raises(InputError, match="between 0 and 1"):
        smallest_count(level)
