"""The rows: every figure of every spoiled set."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.rows import Rows
from benchmarks.set_metrics.damage import Kind, Spoiled
from medidiff.data.cohort import Cohort, People, load_people, people
from medidiff.evaluate.agreement import AGREEMENT, RULES, SWAPPED
from medidiff.evaluate.judgement import judged
from medidiff.evaluate.sides import Eye, floors_of
from medidiff.metrics.features import load_encoder
from medidiff.metrics.intervals import Interval, bootstrap
from medidiff.metrics.sets import diversity, panel, structures
from medidiff.metrics.sets.layout import template
from medidiff.metrics.sets.panel import Panel, Sample
from medidiff.metrics.utility import Segmenter, SegmenterOptions, dice, train_segmenter
from medidiff.synthetic.reports import Outcome

Array = NDArray[Any]
Say = Callable[[str], None]
COLUMNS = ("kind", "severity", "amount", "figure", "value", "low", "high", "n", "unit", "outcome", "encoder")
NONE = "none"
SHAPE = (40, 56, 40)
TRAINED = 160


@dataclass(frozen=True)
class Bench:
    """Two halves of the training people, and what figures are taken with.

    Args:
        reference: Half of them.
        others: The other half, which is spoiled.
        eye: Volumes to samples.
        segmenter: Trained on the reference; None leaves its figure out.
        draws: Resamples behind each interval.
    """

    reference: People
    others: People
    eye: Eye
    segmenter: Segmenter | None = None
    draws: int = 500

    def rows(self, kinds: Mapping[str, Kind], rows: Rows, say: Say) -> None:
        """Fill in what is not there."""
        values = self.eye.values
        seen = self.eye.see(self.others.images, self.others.labels, likeness=False)
        likeness = diversity.ms_ssim_pairs(self.others.images)
        reference = self.eye.see(self.reference.images, self.reference.labels, likeness=False)
        spread = None if reference.shapes is None else reference.shapes.std(axis=0)
        measure = Panel(reference, None, spread, draws=self.draws)
        clean = Sample(seen.features, likeness, seen.shapes, seen.layout)
        predicted = None if self.segmenter is None else self.segmenter.predict(self.others.images)
        say("floors")
        spoiled = floors_of(self.eye, self.others.images, self.others.labels, clean, 0, say)
        few = Panel(reference, None, spread, draws=100)
        floors = {
            name: {key: one.value for key, one in few.figures(sample).items()} for name, sample in spoiled.items()
        }
        found = dict(measure.figures(clean))
        if predicted is not None and self.others.labels is not None:
            found[AGREEMENT] = self._agreement(predicted, self.others.labels, values)
            swapped = np.roll(self.others.labels, 1, axis=0)
            floors[SWAPPED] = {AGREEMENT: self._agreement(predicted, swapped, values).value}
        ceiling = dict(found)

        def add(kind: str, severity: int, amount: float, figures: Mapping[str, Interval]) -> None:
            outcomes = dict(self._outcomes(figures, ceiling, floors))
            for name, one in figures.items():
                where = {"kind": kind, "severity": severity, "amount": amount, "figure": name}
                value = {"value": one.value, "low": one.low, "high": one.high, "n": one.count, "unit": one.unit}
                rows.add({**where, **value, "outcome": outcomes.get(name, ""), "encoder": self.eye.encoder.sha256[:12]})

        add(NONE, 0, 0.0, found)
        for name, kind in kinds.items():
            for severity, amount in enumerate(kind.amounts, 1):
                last = {"kind": name, "severity": severity, "figure": panel.KID}
                if last in rows:
                    continue
                say(f"{name}, {amount:g}")
                sample, labels = self._spoiled(kind.spoil(self.others, amount), clean)
                figures = dict(measure.figures(sample))
                if labels is not None and predicted is not None:
                    figures[AGREEMENT] = self._agreement(predicted, labels, values)
                # The row that says that all are there comes last.
                order = [key for key in figures if key != panel.KID]
                add(name, severity, amount, {key: figures[key] for key in [*order, panel.KID]})

    def _spoiled(self, spoiled: Spoiled, clean: Sample) -> tuple[Sample, Array | None]:
        """What is seen of a spoiled set; what did not change is not looked at again."""
        seen = clean if spoiled.images is None else self.eye.see(spoiled.images, None, likeness=False)
        shapes = clean.shapes
        if spoiled.labels is not None and shapes is not None:
            shapes = structures.shape_features(spoiled.labels, self.eye.values, self.eye.spacing)
        table = None
        # A set that only lost people is no more alike in those that are looked at; one of copies is.
        if clean.likeness is not None and spoiled.images is None and len(spoiled.chosen) == len(clean):
            # Who of so few is kept would count for more than how often, so everybody is kept in turn.
            turns = [(spoiled.chosen + turn) % len(clean) for turn in range(len(clean))]
            table = np.mean([clean.likeness[np.ix_(turn, turn)] for turn in turns], axis=0)
        changed = None if spoiled.labels is None or spoiled.images is not None else spoiled.labels
        some = Sample(seen.features, None, shapes, seen.layout)[spoiled.chosen]
        return Sample(some.features, table, some.shapes, some.layout), changed

    def _agreement(self, predicted: Array, labels: Array, values: tuple[int, ...]) -> Interval:
        each = np.nan_to_num(dice(predicted, labels, values)).mean(axis=1)
        return bootstrap(each[:, None], lambda sums: sums[..., 0] / len(each), seed=0, unit="item", draws=self.draws)

    def _outcomes(
        self,
        found: Mapping[str, Interval],
        ceiling: Mapping[str, Interval],
        floors: Mapping[str, Mapping[str, float]],
    ) -> Iterator[tuple[str, Outcome]]:
        sizes = {"people": len(self.reference), "items": len(self.others), "least": 20}
        for metric in (*judged(found, ceiling, floors, **sizes), *judged(found, ceiling, floors, **sizes, rules=RULES)):
            if metric.outcome is not None:
                yield metric.name, metric.outcome


def load(
    data: Path, features: str, *, count: int = TRAINED, draws: int = 500, segmenter: SegmenterOptions | None = None
) -> Bench:
    """Training people of the hippocampus folder in two halves, by turns."""
    folder = data / "msd-hippocampus"
    cohort = Cohort(images=folder / "images", labels=folder / "labels", first=count)
    everybody = load_people(people(cohort), SHAPE)
    reference, others = (everybody[list(range(first, count, 2))] for first in (0, 1))
    if reference.labels is None:
        raise ValueError("the people have no label maps")
    values = tuple(int(value) for value in np.unique(reference.labels) if value)
    trained = None
    if segmenter is not None:
        trained = train_segmenter(reference.images, reference.labels, segmenter, 0, values=values)
    eye = Eye(load_encoder(features), values, everybody.geometry.spacing, len(others), template(others.images))
    return Bench(reference, others, eye, trained, draws)
