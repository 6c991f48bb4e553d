"""The corruption benchmark in small: damage is ranked, caught, and not done twice."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from benchmarks.rows import Rows
from benchmarks.set_metrics.damage import KINDS
from benchmarks.set_metrics.run import COLUMNS, NONE, Bench
from benchmarks.set_metrics.summary import caught_by, page, rankings
from medidiff.data.cohort import People, Person, centred_grid
from medidiff.data.intensity import IntensityCodec
from medidiff.evaluate.agreement import AGREEMENT
from medidiff.evaluate.judgement import RULES
from medidiff.evaluate.sides import Eye
from medidiff.metrics.features import load_encoder
from medidiff.metrics.sets import panel
from medidiff.synthetic import Outcome
from tests.privacy.leakage_people import textures

SHAPE = (28, 30, 28)
COUNT = 24
# Of four amounts, two of them equal: shares of 24 people come in steps. Two that are swapped have 0.8.
TIED = 0.94
KEY = ("kind", "severity", "figure")
# Blur in larger steps: 24 people are few.
FEW = {
    "blur": replace(KINDS["blur"], amounts=(0.5, 0.8, 1.2, 1.8)),
    "copies": KINDS["copies"],
    "eroded labels": KINDS["eroded labels"],
}


def group(images: np.ndarray) -> People:
    smooth = [ndimage.gaussian_filter(image, 2.0) for image in images]
    labels = np.stack([np.digitize(s, (np.median(s) * 1.15, np.median(s) * 1.4)).astype(np.uint8) for s in smooth])
    images = np.stack([IntensityCodec.fit(image).encode(image) for image in images]).astype(np.float32)
    persons = tuple(Person(place, Path()) for place in range(len(images)))
    return People(images[:, None], labels[:, None], images[:, None] > 0, centred_grid(SHAPE, (1, 1, 1)), persons)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Rows:
    crowd = textures(2 * COUNT, 3, SHAPE)
    eye = Eye(load_encoder(), (1, 2), (1.0, 1.0, 1.0), likeness=8)
    bench = Bench(group(crowd[:COUNT]), group(crowd[COUNT:]), eye, draws=100)
    rows = Rows(tmp_path_factory.mktemp("rows") / "rows.csv", COLUMNS, KEY, resume=True)
    bench.rows(FEW, rows, lambda _: None)
    done: list[str] = []
    bench.rows({"blur": FEW["blur"]}, rows, done.append)
    assert not [line for line in done if line.startswith("blur, ")], "what is there is not done again"
    return rows


@pytest.mark.parametrize(
    ("kind", "figure"),
    [
        ("blur", panel.KID),
        ("blur", panel.MMD),
        ("copies", panel.COVERAGE),
        ("copies", panel.LIKENESS),
        ("eroded labels", panel.STRUCTURES),
    ],
)
def test_more_damage_scores_worse(rows: Rows, kind: str, figure: str) -> None:
    found = {(ranking.kind, ranking.figure): ranking for ranking in rankings(rows.all)}
    assert found[kind, figure].spearman > TIED
    assert figure in KINDS[kind].seen_by


def test_the_worst_of_each_kind_is_caught_and_people_are_not(rows: Rows) -> None:
    caught = caught_by(rows.all)
    assert set(caught) == set(FEW)
    for kind in ("blur", "copies"):  # the sizes of these structures of noise differ too little to judge erosion by
        assert caught[kind][4], kind
    assert not [row for row in rows.all if row["kind"] == NONE and row["outcome"] == Outcome.FAILED]


def test_the_page_names_what_must_be_seen(rows: Rows) -> None:
    text = page(rows.all, {"cpu": "a processor", "threads": 1})
    assert "| blur | KID |" in text
    assert f"n = {COUNT} people" in text
    assert "a processor" in text


def test_every_kind_has_a_figure_that_is_judged_and_a_reason_for_the_rest() -> None:
    for name, kind in KINDS.items():
        judged = [figure for figure in kind.seen_by if figure == AGREEMENT or RULES[figure].share is not None]
        assert judged, name
        assert kind.why
        assert list(kind.amounts) == sorted(kind.amounts)
    assert len(KINDS) >= 8
