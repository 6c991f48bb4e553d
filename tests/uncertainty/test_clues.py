"""Clues speak of a result in its own units, and of nothing else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medidiff.errors import InputError
from medidiff.uncertainty import Seen
from tests.uncertainty.results import seen


@given(st.floats(1e-3, 1e3), st.floats(-100, 100))
def test_units_of_the_scan_do_not_matter(unit: float, offset: float) -> None:
    one = seen(spread=True)
    assert one.spread is not None
    other = Seen(unit * (one.mean + 0), unit * one.baseline, one.known, one.axis, unit * one.spread)
    clues, size = one.logarithms()
    found, larger = other.logarithms()
    assert larger == pytest.approx(unit * size, rel=1e-4)
    np.testing.assert_allclose(found, clues, atol=2e-3)


@pytest.mark.parametrize("axis", [0, 1])
def test_a_turned_scan_has_turned_clues(axis: int) -> None:
    one = seen()
    turned = Seen(
        np.moveaxis(one.mean, 2, axis), np.moveaxis(one.baseline, 2, axis), np.moveaxis(one.known, 2, axis), axis
    )
    clues, unit = one.logarithms()
    found, same = turned.logarithms()
    assert same == pytest.approx(unit, rel=1e-4)
    np.testing.assert_allclose(found, np.moveaxis(clues, 3, axis + 1), atol=1e-3)


def test_air_around_changes_nothing_inside() -> None:
    one = seen()
    pads = [(20, 20), (20, 20), (0, 0)]
    air = replace(one, mean=np.pad(one.mean, pads), baseline=np.pad(one.baseline, pads))
    assert air.logarithms()[1] == pytest.approx(one.logarithms()[1], rel=0.15)


def test_clues_are_where_the_thing_is() -> None:
    """A step across the slices is an edge, not a slope along them; a change by the network is learned."""
    flat = np.zeros((16, 16, 16), dtype=np.float32)
    step, ramp, changed = flat.copy(), flat.copy(), flat.copy()
    step[8:] = 1
    ramp += np.linspace(0, 1, 16, dtype=np.float32)
    changed[4, 4, 4] = 5
    mean = step + ramp
    one = Seen(mean, mean - changed, np.ones((1, 1, 16)), 2)
    clues, _ = one.logarithms()
    found = dict(zip(one.clues, clues, strict=True))
    assert found["across"][8, 8, 8] > found["across"][2, 8, 8] + 1
    assert np.ptp(found["along"][4:12, 4:12, 4:12]) < 0.1
    assert np.unravel_index(found["learned"].argmax(), flat.shape) == (4, 4, 4)
    assert (found["known"] == 1).all()


def test_what_is_no_result_is_refused() -> None:
    x = np.zeros((4, 4, 4))
    with pytest.raises(InputError, match="constant"):
        Seen(x, x, np.ones(1), 2).logarithms()
    with pytest.raises(InputError, match="one volume"):
        Seen(x, x[:2], np.ones(1), 2)
    with pytest.raises(InputError, match="one volume"):
        Seen(x, x, np.ones(1), 3)
