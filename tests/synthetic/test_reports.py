"""Reports follow from their figures, show when they were altered, and cannot contradict themselves."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from medidiff.errors import InputError
from medidiff.synthetic import (
    Family,
    Neighbour,
    Outcome,
    PrivacyReport,
    QualityReport,
    SyntheticSet,
    read_report,
    write_report,
)
from tests.synthetic.sets import figure, png, privacy, quality


@pytest.fixture
def synthetic(pristine: Path) -> SyntheticSet:
    return SyntheticSet.open(pristine)


def test_what_is_written_is_read(synthetic: SyntheticSet, tmp_path: Path) -> None:
    for report in (quality(synthetic), privacy(synthetic)):
        write_report(report, tmp_path)
        assert read_report(type(report), tmp_path) == report
    assert read_report(PrivacyReport, tmp_path).neighbours[1].nearest_png == png(160)


def test_any_character_that_changes_a_report_breaks_its_seal(synthetic: SyntheticSet, tmp_path: Path) -> None:
    path = write_report(quality(synthetic), tmp_path)
    content = path.read_bytes()
    kept = json.loads(content)
    for place in range(0, len(content), 7):
        altered = bytearray(content)
        altered[place] ^= 1
        path.write_bytes(bytes(altered))
        try:
            if json.loads(bytes(altered)) == kept:  # white space says nothing
                continue
        except ValueError:
            pass
        with pytest.raises(InputError, match=r"^quality\.json: "):
            read_report(QualityReport, tmp_path)


BROKEN = [
    b"",
    b"[]",
    b"{",
    b"[" * 100_000,
    b'{"seal": NaN}',
    b'{"seal": "", "a": Infinity}',
    b'{"seal": "", "a": 1e999}',
]


@pytest.mark.parametrize("content", BROKEN)
def test_what_is_no_report_is_told_in_one_line(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "privacy.json").write_bytes(content)
    with pytest.raises(InputError, match=r"^privacy\.json: [^\n]+$"):
        read_report(PrivacyReport, tmp_path)


def test_a_report_of_the_other_kind_is_none(synthetic: SyntheticSet, tmp_path: Path) -> None:
    write_report(quality(synthetic), tmp_path).rename(tmp_path / "privacy.json")
    with pytest.raises(InputError, match=r"privacy\.json: "):
        read_report(PrivacyReport, tmp_path)


def test_the_verdict_is_the_worst_of_the_figures(synthetic: SyntheticSet) -> None:
    order = [None, Outcome.PASSED, Outcome.INCONCLUSIVE, Outcome.FAILED]
    known = quality(synthetic).model_dump(include={"set_sha256", "created", "code_version", "config_sha256"})
    for pair in itertools.product(order, repeat=2):
        metrics = [figure(f"figure {n}", Family.FIDELITY, outcome) for n, outcome in enumerate(pair)]
        report = QualityReport.conclude(metrics, **known)
        assert report.verdict is (max(pair, key=order.index) or Outcome.PASSED)
        assert len(report.reasons) == sum(outcome not in (None, Outcome.PASSED) for outcome in pair)
    few = QualityReport.conclude([figure("KID", Family.FIDELITY)], ["8 patients, 20 are needed"], **known)
    assert few.verdict is Outcome.INCONCLUSIVE


def test_a_report_cannot_contradict_itself(synthetic: SyntheticSet) -> None:
    good = quality(synthetic).model_dump()
    bad = figure("KID", Family.FIDELITY, Outcome.FAILED).model_dump()
    with pytest.raises(ValidationError, match="says otherwise"):
        QualityReport.model_validate(good | {"metrics": [bad]})
    with pytest.raises(ValidationError, match="says otherwise"):
        QualityReport.model_validate(good | {"reasons": ["too few"]})
    with pytest.raises(ValidationError, match="needs a reason"):
        QualityReport.model_validate(good | {"verdict": "inconclusive"})


def test_nothing_passes_without_cases() -> None:
    with pytest.raises(ValidationError, match="cannot pass"):
        figure("KID", Family.FIDELITY, n=0)
    with pytest.raises(ValidationError, match="cannot pass"):
        figure("KID", Family.FIDELITY, value=None)
    with pytest.raises(ValidationError, match="lower end"):
        figure("KID", Family.FIDELITY, interval=(0.2, 0.1))
    with pytest.raises(ValidationError, match="finite"):
        figure("KID", Family.FIDELITY, value=float("nan"))


def test_a_picture_is_a_png() -> None:
    with pytest.raises(ValidationError, match="PNG"):
        Neighbour(item="s000", distance=1.0, nearest_png=b"<svg onload=alert(1)>")
    with pytest.raises(ValidationError, match="PNG"):
        Neighbour.model_validate_json('{"item": "s000", "distance": 1.0, "nearest_png": "!"}')
