"""Whether images and label maps of a set belong together, seen by a segmenter that knows only real people."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medidiff.data.cohort import People
from medidiff.evaluate.judgement import COLLAPSE, Rule, judged
from medidiff.evaluate.options import Resampling
from medidiff.metrics.intervals import Interval, bootstrap
from medidiff.metrics.sets import structures
from medidiff.metrics.utility import SegmenterOptions, dice, train_segmenter
from medidiff.synthetic.reports import Family, Metric

Array = NDArray[Any]
AGREEMENT = "labels against a segmenter, Dice"
SEGMENTED = "structures by one segmenter, Wasserstein"
SWAPPED = "labels of others"
RULES = {
    AGREEMENT: Rule(
        Family.STRUCTURE,
        "higher",
        (SWAPPED,),
        0.25,
        "Dice of the set's label maps and those of a segmenter that was trained on real people. Known bad are label "
        "maps that belong to other people.",
    ),
    SEGMENTED: Rule(
        Family.STRUCTURE,
        "lower",
        (COLLAPSE,),
        0.5,
        "Sizes and shapes as one segmenter finds them in the set's images and in real ones.",
    ),
}


def agreement_metrics(
    items: People,
    training: People,
    reference: People,
    options: SegmenterOptions,
    resampling: Resampling,
    least: int,
) -> Iterator[Metric]:
    """Both figures of a set, with ceilings on the reference people; nothing where somebody has no label map."""
    if items.labels is None or training.labels is None or reference.labels is None:
        return
    values = tuple(int(value) for value in np.unique(training.labels) if value)
    segmenter = train_segmenter(training.images, training.labels, options, resampling.seed, values=values)
    made, real, known = (segmenter.predict(side.images) for side in (items, reference, training))
    spacing = items.geometry.spacing
    shapes, real_shapes, known_shapes = (
        structures.shape_features(predicted, values, spacing) for predicted in (made, real, known)
    )
    spread = known_shapes.std(axis=0)
    each = _dice(made, items.labels, values)
    found = {
        AGREEMENT: bootstrap(
            each[:, None],
            lambda sums: sums[..., 0] / len(each),
            seed=resampling.seed,
            unit="item",
            draws=resampling.draws,
            level=resampling.level,
        ),
        SEGMENTED: structures.wasserstein_interval(
            real_shapes, shapes, spread, seed=resampling.seed, draws=resampling.draws // 2, level=resampling.level
        ),
    }
    ceiling = {
        AGREEMENT: _exactly(float(_dice(real, reference.labels, values).mean())),
        SEGMENTED: _exactly(float(structures.wasserstein(real_shapes, known_shapes, spread).mean())),
    }
    one = np.repeat(known_shapes[:1], len(known_shapes), axis=0)
    floors = {
        SWAPPED: {AGREEMENT: float(_dice(real, np.roll(reference.labels, 1, axis=0), values).mean())},
        COLLAPSE: {SEGMENTED: float(structures.wasserstein(real_shapes, one, spread).mean())},
    }
    yield from judged(found, ceiling, floors, people=len(reference), items=len(items), least=least, rules=RULES)


def _exactly(value: float) -> Interval:
    """Without an interval: what chance does sets no limit here."""
    return Interval(value, value, value, 0, "person", 0.95)


def _dice(predicted: Array, labels: Array, values: tuple[int, ...]) -> Array:
    """The mean over structures, shape (n,); an item without any structure has 0."""
    found = dice(predicted, labels, values)
    counted = ~np.isnan(found)
    return np.asarray(np.where(counted, found, 0).sum(axis=1) / np.maximum(counted.sum(axis=1), 1), dtype=float)
