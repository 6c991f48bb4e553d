"""The calibration file: what was written comes back, and nothing is promised beyond what was tried."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medidiff.errors import InputError
from medidiff.io.source import file_sha256
from medidiff.models import shipped_models
from medidiff.operators import MeasuredProfile, SliceProfile
from medidiff.uncertainty import NotCalibratedError, beside_model, load_calibration, save_calibration
from tests.uncertainty.results import SHA, calibration, scale, seen


def test_a_file_comes_back(tmp_path: Path) -> None:
    save_calibration(calibration(), tmp_path / "c.json")
    assert load_calibration(tmp_path / "c.json") == calibration()


def test_every_shipped_calibration_fits_the_model_beside_it() -> None:
    found = [info.path for info in shipped_models() if beside_model(info.path).is_file()]
    assert [path.stem for path in found if path.stem == "brain-t1"], "brain-t1 ships with a calibration"
    for path in found:
        one = load_calibration(beside_model(path))
        one.check(model_sha256=file_sha256(path), modality=one.modality, spacing_mm=1.0, samples=0, steps=None)
        assert one.people >= 9
        for stratum in one.strata:
            width = one.half_width(seen(), SliceProfile(stratum.factor, stratum.factor, stratum.profile))  # type: ignore[arg-type]
            assert np.isfinite(width).all()
            assert (width > 0).all()


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"model_sha256": "b" * 64}, "made for weights aaaaaaaaaaaa, the model in use has bbbbbbbbbbbb"),
        ({"modality": "CT"}, "made for MR, this is CT"),
        ({"spacing_mm": 2.0}, "voxels of 1 mm, these have 2 mm"),
    ],
)
def test_another_model_or_scan_is_refused(change: dict[str, Any], match: str) -> None:
    given = {"model_sha256": SHA, "modality": "MR", "spacing_mm": 1.1, "samples": 0, "steps": None}
    calibration().check(**given)
    with pytest.raises(NotCalibratedError, match=match):
        calibration().check(**(given | change))


def test_samples_must_be_those_that_it_was_made_with() -> None:
    given: dict[str, Any] = {"model_sha256": SHA, "modality": "MR", "spacing_mm": 1.0}
    calibration().check(**given, samples=7, steps=3)  # the mean does not change with what is drawn beside it
    own = calibration(samples=4, steps=8)
    own.check(**given, samples=4, steps=8)
    for samples, steps in ((0, None), (4, 7), (5, 8)):
        with pytest.raises(NotCalibratedError, match="4 samples of 8 steps"):
            own.check(**given, samples=samples, steps=steps)


def test_operators_within_and_beyond_what_was_tried() -> None:
    one = calibration()
    assert [s.factor for s in one.strata_for(SliceProfile(4.02, 4.0))] == [4.0]
    assert [s.factor for s in one.strata_for(SliceProfile(3, 3))] == [2.0, 4.0]
    for beyond in (
        SliceProfile(1.5, 1.5),
        SliceProfile(5, 5),
        SliceProfile(3, 2),  # gaps
        SliceProfile(2, 2, "gaussian"),
        SliceProfile(3, 3, "measured", MeasuredProfile((-1.5, 0.0, 1.5), (0.0, 1.0, 0.0))),
    ):
        with pytest.raises(NotCalibratedError, match="made for MR at 1 mm, touching slices"):
            one.half_width(seen(), beyond)


def test_between_two_factors_widths_are_interpolated() -> None:
    one, result = calibration(), seen()
    below, above = (one.half_width(result, SliceProfile(f, f)) for f in (2, 4))
    middle = one.half_width(result, SliceProfile(2 * 2**0.5, 2 * 2**0.5))
    np.testing.assert_allclose(middle, (below + above) / 2, rtol=1e-5)
    near = one.half_width(result, SliceProfile(3.9, 3.9))
    assert (np.abs(near - above) < np.abs(near - below)).all()
    np.testing.assert_allclose(above, 1.5 * scale(0.3)(result), rtol=1e-6)


def test_the_promise_and_its_limits_are_in_words() -> None:
    words = calibration().words
    assert words.startswith("calibrated: 90% of voxels in expectation over volumes like the 12 people")
    assert calibration().domain == (
        "MR at 1 mm, touching slices along one axis, box x2 to x4, gaussian x4 to x4, the mean alone"
    )


def test_eight_people_make_no_calibration() -> None:
    with pytest.raises(InputError, match="at least 9 people, got 8: spread, not calibrated"):
        calibration(people=8)


@pytest.mark.parametrize(
    "damage",
    [
        {"format": "medidiff-calibration/9"},
        {"people": 8},
        {"level": 1.5},
        {"spacing_mm": 0},
        {"strata": []},
        {"strata": [{"profile": "box"}]},
        {"strata": "all"},
        {"samples": 4},  # then a weight of the spread is missing
        {"strata.multiplier": -1.0},
        {"strata.multiplier": float("nan")},
        {"strata.multiplier": "1"},
        {"strata.factor": True},
        {"strata.scale": {"weights": {"along": 1.0}, "bias": 0.0}},
        {"strata.scale": {"weights": {}, "bias": float("inf")}},
    ],
    ids=str,
)
def test_a_damaged_file_is_refused_in_one_line(damage: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    save_calibration(calibration(), path)
    found = json.loads(path.read_text())
    for key, value in damage.items():
        target = found["strata"][0] if key.startswith("strata.") else found
        target[key.removeprefix("strata.")] = value
    path.write_text(json.dumps(found))
    with pytest.raises(InputError) as caught:
        load_calibration(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", "null", "{", "[" * 100_000, '"' + "x" * (1 << 20) + '"'])
def test_what_is_no_calibration_at_all(text: str, tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(InputError, match=r"c\.json"):
        load_calibration(tmp_path / "c.json")
    with pytest.raises(InputError, match="cannot be read"):
        load_calibration(tmp_path / "absent.json")
