"""Evaluate: a set like the real passes; a blurred, noisy, copied, mislabelled or small one does not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from medidiff.cli import main
from medidiff.data.cohort import Cohort, load_people, people, split_sha256
from medidiff.errors import ConfigError, InputError
from medidiff.evaluate import EvaluateOptions, EvaluateResult, UtilityOptions, evaluate
from medidiff.evaluate.judgement import BLUR, COLLAPSE, COPIES, NOISE, Rule, judged
from medidiff.evaluate.options import Resampling
from medidiff.evaluate.sides import framed, spread_over
from medidiff.evaluate.usefulness import ARMS, REAL, SYNTHETIC, Trained, ratio, table, utility_metrics
from medidiff.geometry import Geometry
from medidiff.io import write_volume
from medidiff.metrics.intervals import Interval
from medidiff.metrics.sets import corruptions, panel
from medidiff.metrics.utility import SegmenterOptions
from medidiff.report.html import render
from medidiff.report.release_page import release_page
from medidiff.synthetic import (
    Family,
    LabelClass,
    Metadata,
    Outcome,
    QualityReport,
    SyntheticSetWriter,
    judge,
    read_report,
)
from medidiff.volume import Modality, Volume
from tests.privacy.leakage_people import textures
from tests.synthetic.sets import PLAN

SHAPE = (28, 30, 28)
GEOMETRY = Geometry(np.eye(4), SHAPE)
COUNT = 24
Array = np.ndarray[Any, Any]


def label_of(image: Array) -> Array:
    smooth = ndimage.gaussian_filter(image, 2.0)
    return np.digitize(smooth, np.quantile(smooth, [0.85, 0.95])).astype(np.uint8)


@pytest.fixture(scope="module")
def crowd() -> Array:
    """Reference, training, and what a perfect generator would draw."""
    return textures(3 * COUNT, 5, SHAPE)


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory, crowd: Array) -> EvaluateOptions:
    folder = tmp_path_factory.mktemp("people")
    for part in ("images", "labels"):
        (folder / part).mkdir()
    for number, image in enumerate(crowd[: 2 * COUNT]):
        name = f"canary{number:03d}.nii.gz"
        write_volume(Volume(image[None], GEOMETRY, Modality.MR), folder / "images" / name)
        write_volume(Volume(label_of(image)[None], GEOMETRY, Modality.LABEL), folder / "labels" / name)
    sides = [Cohort(images=folder / "images", labels=folder / "labels", **{side: COUNT}) for side in ("last", "first")]
    return EvaluateOptions(reference=sides[0], training=sides[1], shape=SHAPE, bootstrap=100, likeness=6)


def write_set(folder: Path, options: EvaluateOptions, images: Array, labels: Array | None = None) -> Path:
    """A set of a generator that was trained on the people that the options say were."""
    assert options.training is not None
    classes = (LabelClass(value=1, name="shell"), LabelClass(value=2, name="core"))
    split = split_sha256(people(options.training))
    writer = SyntheticSetWriter(folder, PLAN.model_copy(update={"labels": classes, "training_split_sha256": split}))
    for number, image in enumerate(images):
        label = label_of(image) if labels is None else labels[number]
        pair = Volume(image[None], GEOMETRY, Modality.MR), Volume(label[None], GEOMETRY, Modality.LABEL)
        writer.add(f"s{number:03d}", number, *pair, suffix="T1w", metadata=Metadata(sex="female"))
    writer.finish()
    return folder


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory, options: EvaluateOptions, crowd: Array) -> Path:
    return write_set(tmp_path_factory.mktemp("sets") / "good", options, crowd[2 * COUNT :])


@pytest.fixture(scope="module")
def result(good: Path, options: EvaluateOptions) -> EvaluateResult:
    return evaluate(good, options)


def of(result: EvaluateResult) -> dict[str, Any]:
    return {metric.name: metric for metric in result.metrics}


def test_a_set_like_the_real_is_not_failed(result: EvaluateResult) -> None:
    assert not [metric.name for metric in result.metrics if metric.outcome is Outcome.FAILED]
    passed = {metric.family for metric in result.metrics if metric.outcome is Outcome.PASSED}
    assert passed >= {Family.DIVERSITY, Family.STRUCTURE}, "24 people are few for KID"


def test_every_figure_stands_between_real_people_and_spoiled_ones(result: EvaluateResult) -> None:
    figures = of(result)
    assert set(figures[panel.KID].floors) >= {BLUR, NOISE, COPIES, COLLAPSE}
    for metric in figures.values():
        assert metric.ceiling is not None, metric.name
        assert metric.floors, metric.name
        assert metric.n == (6 if metric.name == panel.LIKENESS else COUNT)
        if metric.interval is not None:  # where all items score the same, resampling says nothing
            assert metric.interval[0] <= metric.value <= metric.interval[1]
        assert bool(metric.limit) == (metric.outcome is not None)
    assert figures[panel.KID].floors[BLUR] > 10 * abs(figures[panel.KID].ceiling)
    assert figures[panel.AUTHENTICITY].floors == {COPIES: 0.0}
    assert panel.FID not in figures, "24 items say nothing by FID"


def test_the_report_names_the_set_the_encoder_and_nobody(
    result: EvaluateResult, good: Path, options: EvaluateOptions
) -> None:
    from medidiff.metrics.features import load_encoder

    report = read_report(QualityReport, good)
    assert report.metrics == result.metrics
    assert load_encoder().sha256 in "".join(report.notes)
    text = (good / "quality.json").read_text()
    assert "canary" not in text
    assert str(good.parent) not in text
    reasons = [reason for reason in judge(good).reasons if "quality" in reason]
    assert reasons == [f"quality.json: {report.verdict.value}: {reason}" for reason in report.reasons]


def test_the_page_of_a_release_shows_the_figures(result: EvaluateResult, good: Path) -> None:
    page = render(release_page(judge(good), ("bids",), internal=False))
    for metric in result.metrics:
        assert metric.name in page


def test_the_same_set_gives_the_same_report_but_for_the_moment(
    result: EvaluateResult, good: Path, options: EvaluateOptions, tmp_path: Path
) -> None:
    copy = shutil.copytree(good, tmp_path / "again")
    evaluate(copy, options)
    first, second = (json.loads((folder / "quality.json").read_text()) for folder in (good, copy))
    for report in (first, second):
        del report["created"], report["seal"]
    assert first == second


def damaged(kind: str) -> Callable[[Array], tuple[Array, Array | None]]:
    rng = np.random.default_rng(0)

    def spoil(images: Array) -> tuple[Array, Array | None]:
        labels = np.stack([label_of(image) for image in images])
        if kind == "blur":
            return np.stack([corruptions.blur(image, 1.2) for image in images]), labels
        if kind == "noise":
            return np.stack([corruptions.noise(image, 0.5, rng) for image in images]), labels
        if kind == "copies":
            few = images[corruptions.copies(len(images), 2)]
            return few + rng.normal(0, 1e-3, few.shape).astype(np.float32), None
        return images, np.stack([corruptions.eroded(label, 2) for label in labels])

    return spoil


@pytest.mark.parametrize(
    ("kind", "family"),
    [
        ("blur", Family.FIDELITY),
        ("noise", Family.FIDELITY),
        ("copies", Family.DIVERSITY),
        ("eroded labels", Family.STRUCTURE),
    ],
)
def test_a_spoiled_set_fails_by_the_family_that_is_there_to_see_it(
    kind: str, family: Family, crowd: Array, options: EvaluateOptions, tmp_path: Path
) -> None:
    images, labels = damaged(kind)(crowd[2 * COUNT :])
    result = evaluate(write_set(tmp_path / "set", options, images, labels), options)
    assert result.verdict is Outcome.FAILED
    assert family in {metric.family for metric in result.metrics if metric.outcome is Outcome.FAILED}


def test_few_items_conclude_nothing(crowd: Array, options: EvaluateOptions, tmp_path: Path) -> None:
    result = evaluate(write_set(tmp_path / "set", options, crowd[2 * COUNT : 2 * COUNT + 8]), options)
    assert result.verdict is Outcome.INCONCLUSIVE
    assert "8 items against 24 people: 20 of each are needed for a judgement" in result.reasons
    assert not [metric for metric in result.metrics if metric.outcome is Outcome.PASSED]


def test_of_too_few_items_no_figure_is_taken(crowd: Array, options: EvaluateOptions, tmp_path: Path) -> None:
    for count, told in ((3, "a set of 3 items"), (4, None)):
        folder = write_set(tmp_path / str(count), options, crowd[2 * COUNT : 2 * COUNT + count])
        if told is None:
            assert evaluate(folder, options).verdict is Outcome.INCONCLUSIVE
            continue
        with pytest.raises(InputError, match=told):
            evaluate(folder, options)


def test_without_training_people_the_reference_is_split(good: Path, options: EvaluateOptions, tmp_path: Path) -> None:
    alone = options.model_copy(update={"training": None, "least": 8})
    result = evaluate(shutil.copytree(good, tmp_path / "set"), alone)
    assert panel.AUTHENTICITY not in of(result), "nobody said who was trained on"
    assert of(result)[panel.KID].n == COUNT // 2


def test_a_person_on_both_sides_is_refused(good: Path, options: EvaluateOptions) -> None:
    assert options.training is not None
    both = options.model_copy(update={"training": options.training.model_copy(update={"first": COUNT + 3})})
    with pytest.raises(ConfigError, match="3 of the people held out are among those trained on"):
        evaluate(good, both)


def test_a_person_on_both_sides_is_known_under_another_name(
    good: Path, options: EvaluateOptions, tmp_path: Path
) -> None:
    assert options.training is not None
    assert options.training.images is not None
    shutil.copy(min(options.training.images.iterdir()), tmp_path / "somebody.nii.gz")
    for number in range(4):
        write_volume(Volume(textures(1, 9 + number, SHAPE)[0][None], GEOMETRY, Modality.MR), tmp_path / f"{number}.nii")
    with pytest.raises(ConfigError, match="1 of the people held out"):
        evaluate(good, options.model_copy(update={"reference": Cohort(images=tmp_path)}))


def test_people_whom_the_generator_never_saw_are_not_said_to_be_those_trained_on(
    good: Path, options: EvaluateOptions
) -> None:
    assert options.training is not None
    fewer = options.model_copy(update={"training": options.training.model_copy(update={"first": COUNT - 1})})
    with pytest.raises(ConfigError, match="not those that the set's generator was trained on"):
        evaluate(good, fewer)


def test_an_altered_set_is_refused(good: Path, options: EvaluateOptions, tmp_path: Path) -> None:
    copy = shutil.copytree(good, tmp_path / "set")
    image = copy / "images" / "s003.nii.gz"
    image.write_bytes(image.read_bytes()[:-1])
    with pytest.raises(InputError, match="not what its records say"):
        evaluate(copy, options)


def test_the_command_prints_and_refuses_with_reasons(
    crowd: Array, options: EvaluateOptions, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from medidiff.config import dump_config

    folder = write_set(tmp_path / "set", options, crowd[2 * COUNT : 2 * COUNT + 6])
    config = tmp_path / "evaluate.yaml"
    config.write_text(dump_config(options))
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", str(folder), "-c", str(config), "--json"])
    assert ended.value.code == 4
    told = capsys.readouterr()
    printed = json.loads(told.out)
    assert printed["verdict"] == "inconclusive"
    assert {metric["name"] for metric in printed["metrics"]} >= {panel.KID, panel.COVERAGE}
    assert "the quality is inconclusive" in told.err
    with pytest.raises(SystemExit) as ended:
        main(["evaluate", str(tmp_path), "-c", str(config)])
    assert ended.value.code == 3


# --- the judgement alone


RULES = {
    "up": Rule(Family.FIDELITY, "higher", ("bad", "worse"), 0.5),
    "down": Rule(Family.DIVERSITY, "lower", ("bad",), 0.1),
}


def interval(value: float, low: float, high: float) -> Interval:
    return Interval(value, low, high, 40, "item", 0.95)


def outcome(
    name: str, found: Interval, ceiling: float, floors: dict[str, float], people: int = 40, chance: float = 0.0
) -> Any:
    known = {floor: {name: value} for floor, value in floors.items()}
    real = interval(ceiling, ceiling - chance, ceiling + chance)
    (metric,) = judged({name: found}, {name: real}, known, people=people, items=40, least=20, rules=RULES)
    return metric


def test_the_limit_lies_between_real_people_and_the_mildest_of_the_bad() -> None:
    floors = {"bad": 0.5, "worse": 0.1, "other": 0.89}
    assert "at least 0.7" in outcome("up", interval(0.9, 0.8, 1), 0.9, floors).limit
    assert "at most 1.1" in outcome("down", interval(0, 0, 0), 1.0, {"bad": 2.0}).limit


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (interval(0.8, 0.71, 0.9), Outcome.PASSED),
        (interval(0.8, 0.69, 0.9), Outcome.INCONCLUSIVE),
        (interval(0.69, 0.6, 0.9), Outcome.FAILED),
    ],
)
def test_an_interval_passes_whole_or_not_at_all(found: Interval, expected: Outcome) -> None:
    assert outcome("up", found, 0.9, {"bad": 0.5}).outcome is expected


def test_where_bad_sets_score_as_well_as_people_nothing_is_concluded() -> None:
    metric = outcome("up", interval(0.9, 0.9, 0.9), 0.9, {"bad": 0.95})
    assert metric.outcome is Outcome.INCONCLUSIVE
    assert "cannot be judged here" in metric.limit
    assert outcome("up", interval(0.9, 0.9, 0.9), 0.9, {"bad": 0.5}, people=19).outcome is Outcome.INCONCLUSIVE
    assert outcome("up", interval(0.9, 0.9, 0.9), 0.9, {}).outcome is Outcome.INCONCLUSIVE


def test_a_limit_that_chance_oversteps_among_people_gives_way() -> None:
    floors = {"bad": 2.0}
    close = interval(1.15, 1.12, 1.18)
    assert outcome("down", close, 1.0, floors).outcome is Outcome.FAILED
    metric = outcome("down", close, 1.0, floors, chance=0.2)
    assert metric.outcome is Outcome.PASSED
    assert metric.limit == "at most 1.2: what chance does among real people"
    assert outcome("down", close, 1.0, floors, chance=1.0).outcome is Outcome.INCONCLUSIVE


# --- what is compared


def test_a_field_of_view_is_laid_on_and_its_border_repeated() -> None:
    image = np.arange(4 * 4 * 4, dtype=float).reshape(1, 1, 4, 4, 4)
    inside = np.zeros((2, 1, 4, 4, 4), dtype=bool)
    inside[0, 0, 1:3, :, :2] = True
    inside[1] = True
    both = framed(np.concatenate([image, image]), inside)
    assert np.array_equal(both[0, 0, 1:3, :, :2], image[0, 0, 1:3, :, :2])
    assert np.array_equal(both[0, 0, 0], both[0, 0, 1])
    assert np.array_equal(both[0, 0, :, :, 3], both[0, 0, :, :, 1])
    assert np.array_equal(both[1], image[0])


def test_some_of_many_are_evenly_spread() -> None:
    assert spread_over(10, 4).tolist() == [0, 3, 6, 9]
    assert spread_over(3, 9).tolist() == [0, 1, 2]


# --- utility


def trained(means: dict[str, float], people: int = 12) -> list[Trained]:
    person = np.linspace(-0.1, 0.1, people)
    return [
        Trained(arm, seed, tuple(float(value) for value in means[arm] + person + 0.01 * seed))
        for arm in ARMS
        for seed in range(3)
    ]


def test_a_ratio_is_paired_over_people() -> None:
    found = trained(dict.fromkeys(ARMS, 0.8))
    interval = ratio(table(found, SYNTHETIC), table(found, REAL), Resampling(0, 400, 0.95))
    assert interval.value == pytest.approx(1)
    assert 0.97 < interval.low < 1 < interval.high < 1.03, "people differ by far more than this, and cancel"
    assert interval.count == 12


@pytest.mark.parametrize(
    ("dice", "expected"), [(0.8, Outcome.PASSED), (0.762, Outcome.INCONCLUSIVE), (0.7, Outcome.FAILED)]
)
def test_a_set_must_teach_nearly_as_much_as_people(dice: float, expected: Outcome) -> None:
    found = trained({**dict.fromkeys(ARMS, 0.8), SYNTHETIC: dice})
    first, second = utility_metrics(found, 160, 200, 0.25, Resampling(0, 400, 0.95))
    assert first.outcome is expected
    assert "TRTR 0.810" in first.note
    assert second.outcome is None
    assert "40 people" in second.note


def test_trainings_that_were_done_are_not_done_again(
    good: Path, options: EvaluateOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = UtilityOptions(seeds=2, segmenter=SegmenterOptions(channels=(4, 8), steps=2, batch=2))
    wanted = options.model_copy(update={"utility": quick})
    copy = shutil.copytree(good, tmp_path / "set")
    told: list[str] = []
    first = evaluate(copy, wanted, lambda done, total, what: told.append(what), work=tmp_path / "work")
    assert sum(what.startswith("training on") for what in told) == 2 * len(ARMS)
    rows = sorted((tmp_path / "work").glob("*.json"))
    assert len(rows) == 2 * len(ARMS)
    table = (tmp_path / "work" / "utility.csv").read_text().splitlines()
    assert len(table) == 1 + 2 * len(ARMS) * COUNT
    assert all(len(line.split(",")) == 4 for line in table)
    stamps = [row.stat().st_mtime_ns for row in rows]
    rows[0].write_text("{}")  # what a kill could leave is done again
    second = evaluate(copy, wanted, work=tmp_path / "work")
    assert first.metrics == second.metrics
    assert [row.stat().st_mtime_ns for row in rows[1:]] == stamps[1:]
    assert {metric.family for metric in first.metrics} >= {Family.UTILITY, Family.STRUCTURE}


def test_utility_needs_people_to_train_on(good: Path, options: EvaluateOptions) -> None:
    with pytest.raises(ConfigError, match="name the people"):
        evaluate(good, options.model_copy(update={"training": None, "utility": UtilityOptions()}))


def test_labels_of_others_disagree_with_a_segmenter(crowd: Array, options: EvaluateOptions) -> None:
    from medidiff.evaluate.agreement import AGREEMENT, agreement_metrics

    assert options.training is not None
    training, reference = (load_people(people(side), SHAPE) for side in (options.training, options.reference))
    learner = SegmenterOptions(channels=(8, 16), steps=30, batch=4, lr=1e-2)
    assert reference.labels is not None
    swapped = replace(reference, labels=np.roll(reference.labels, 2, axis=0))
    right, wrong = (
        {m.name: m for m in agreement_metrics(side, training, reference, learner, Resampling(0, 100, 0.95), 20)}
        for side in (reference, swapped)
    )
    assert right[AGREEMENT].outcome is Outcome.PASSED
    assert wrong[AGREEMENT].outcome is Outcome.FAILED
