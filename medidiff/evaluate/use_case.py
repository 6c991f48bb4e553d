"""The use case *evaluate*: how good a synthetic set is, held against real people.

    options = EvaluateOptions(reference=Cohort(...), training=Cohort(...), shape=(40, 56, 40))
    result = evaluate("sets/hippocampus", options)

Every figure stands beside the same figure of real people (the ceiling) and of sets that were spoiled on purpose (the
floors), at the same n. The report goes into the set's folder, where ``release`` looks for it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from medidiff import __version__
from medidiff.config import config_digest
from medidiff.data.cohort import People, check_sides, load_people, people, split_sha256
from medidiff.errors import ConfigError, InputError
from medidiff.evaluate.agreement import agreement_metrics
from medidiff.evaluate.judgement import COPIES, ERODED, Figures, judged
from medidiff.evaluate.options import EvaluateOptions, EvaluateResult, Resampling
from medidiff.evaluate.sides import Eye, floors_of, framed, spread_over
from medidiff.evaluate.usefulness import trainings, utility_metrics, write_rows
from medidiff.metrics.features import load_encoder
from medidiff.metrics.intervals import Interval
from medidiff.metrics.sets import panel
from medidiff.metrics.sets.layout import template
from medidiff.metrics.sets.panel import Panel, Sample
from medidiff.metrics.sets.typicality import authenticity
from medidiff.progress import OnProgress
from medidiff.synthetic.items import read_items
from medidiff.synthetic.reports import Metric, QualityReport, write_report
from medidiff.synthetic.stored import SyntheticSet

_STEPS = 9
# Of fewer nothing can be resampled; for a judgement see ``EvaluateOptions.least``.
FEWEST_ITEMS = 4


@dataclass(frozen=True, slots=True)
class _Real:
    """Real people on two sides.

    Args:
        reference: Whom the set is held against.
        ceiling: Others, whom the reference is held against: what real people score.
        training: Those trained on; None if nobody said who.
    """

    reference: People
    ceiling: People
    training: People | None


def evaluate(
    folder: str | os.PathLike[str],
    options: EvaluateOptions,
    on_progress: OnProgress | None = None,
    *,
    work: Path | None = None,
) -> EvaluateResult:
    """Measure a set and write ``quality.json`` into its folder.

    Args:
        folder: Of a finished set.
        options: Whom it is held against.
        on_progress: Called with steps done, steps in all, and what is being done.
        work: Where finished trainings of the utility test are kept, so that a killed run goes on.
    Raises:
        InputError: there is no finished set, or it is damaged.
        ConfigError: reference and training people overlap, others were trained on, or there are too few.
        CheckpointError: there is no such encoder.
    """
    begin = time.monotonic()
    tell = _teller(on_progress)
    tell("reading the set and people")
    synthetic = SyntheticSet.open(folder)
    real = _real(synthetic, options)
    items = read_items(synthetic, options.shape)
    if len(items) < FEWEST_ITEMS:
        raise InputError(f"{folder}: a set of {len(items)} items; figures are taken of {FEWEST_ITEMS} or more")
    encoder = load_encoder(options.features)
    mean_person = template(real.ceiling.images)
    eye = Eye(encoder, _values(real, items), items.geometry.spacing, options.likeness, mean_person)
    n = min(len(items), len(real.ceiling))
    chosen = items[spread_over(len(items), n).tolist()]
    figures, ceiling, floors = _compared(eye, chosen, real, options, tell)
    found = judged(figures, ceiling, floors, people=len(real.reference), items=n, least=options.least)
    metrics = [*found, *_learned(items, real, options, work, tell)]
    report = QualityReport.conclude(
        metrics,
        _too_few(n, len(real.reference), options.least),
        set_sha256=synthetic.sha256,
        created=datetime.now(UTC),
        code_version=__version__,
        config_sha256=config_digest(_without_places(options)),
        notes=tuple(_notes(options, encoder.sha256, encoder.source, real, len(items), n)),
    )
    path = write_report(report, folder)
    return EvaluateResult(report.verdict, report.reasons, path, report.metrics, time.monotonic() - begin)


def _teller(on_progress: OnProgress | None) -> Callable[[str], None]:
    done = 0

    def tell(what: str) -> None:
        nonlocal done
        if on_progress is not None:
            on_progress(min(done, _STEPS), _STEPS, what)
        done += 1

    return tell


def _real(synthetic: SyntheticSet, options: EvaluateOptions) -> _Real:
    """Who stands on which side; nobody may stand on both, and nobody else may be said to have been trained on."""
    reference = people(options.reference)
    if options.training is None:
        if len(reference) < 4:
            raise ConfigError(f"reference: {len(reference)} people cannot be split in halves; 4 or more are needed")
        everybody = load_people(reference, options.shape)
        halves = [everybody[list(range(first, len(everybody), 2))] for first in (0, 1)]
        return _Real(halves[0], halves[1], None)
    training = people(options.training)
    check_sides(training, reference, synthetic.record.training_split_sha256)
    trained = load_people(training, options.shape)
    return _Real(load_people(reference, options.shape), trained, trained)


def _values(real: _Real, items: People) -> tuple[int, ...]:
    if items.labels is None or real.reference.labels is None or real.ceiling.labels is None:
        return ()
    return tuple(int(value) for value in np.unique(real.reference.labels) if value)


def _compared(
    eye: Eye, items: People, real: _Real, options: EvaluateOptions, tell: Callable[[str], None]
) -> tuple[Figures, Figures, Mapping[str, Mapping[str, float]]]:
    """Figures of the set, the same of real people, and of spoiled sets, all at the same n."""
    tell("looking at real people")
    everybody = eye.see(real.ceiling.images, real.ceiling.labels)
    reference = eye.see(real.reference.images, real.reference.labels, likeness=False)
    training = None if real.training is None else everybody.features
    spread = None if everybody.shapes is None else everybody.shapes.std(axis=0)
    common = {"k": options.nearest, "draws": options.bootstrap, "seed": options.seed, "level": options.level}
    measure = Panel(reference, training, spread, **common)  # type: ignore[arg-type]
    tell("looking at the set")
    images = framed(items.images, real.reference.inside)
    found = measure.figures(eye.see(images, items.labels))
    tell("comparing real people with each other")
    few = Panel(reference, training, spread, k=options.nearest, draws=100, seed=options.seed)
    chosen = spread_over(len(real.ceiling), len(items))
    some = everybody[chosen]
    same = Sample(some.features, everybody.likeness, some.shapes, some.layout)
    ceiling = few.figures(same)
    if training is not None:
        new = float(authenticity(training, reference.features).mean())
        ceiling[panel.AUTHENTICITY] = Interval(new, new, new, len(reference), "person", options.level)
    labels = None if real.ceiling.labels is None else real.ceiling.labels[chosen]
    spoiled = floors_of(eye, real.ceiling.images[chosen], labels, same, options.seed, tell)
    floors = {name: {key: one.value for key, one in few.figures(spoilt).items()} for name, spoilt in spoiled.items()}
    for name, known in floors.items():
        if name != COPIES:  # people trained on are their own copies, blurred or not: only copies speak of copying
            known.pop(panel.AUTHENTICITY, None)
    if ERODED in floors:  # the images are as they were
        floors[ERODED] = {panel.STRUCTURES: floors[ERODED][panel.STRUCTURES]}
    return found, ceiling, floors


def _learned(
    items: People, real: _Real, options: EvaluateOptions, work: Path | None, tell: Callable[[str], None]
) -> Iterator[Metric]:
    """What needs a network to be trained, where that was asked for."""
    if options.utility is None:
        return
    if real.training is None:
        raise ConfigError("utility: name the people that the generator was trained on (training)")
    resampling = Resampling(options.seed, options.bootstrap, options.level)
    framed_items = People(
        framed(items.images, real.reference.inside), items.labels, items.inside, items.geometry, items.persons
    )
    tell("training segmenters")
    yield from agreement_metrics(
        framed_items, real.training, real.reference, options.utility.segmenter, resampling, options.least
    )
    found = list(trainings(framed_items, real.training, real.reference, options.utility, work, tell))
    if work is not None:
        write_rows(found, work / "utility.csv")
    yield from utility_metrics(found, len(real.training), len(items), options.utility.share, resampling)


def _too_few(items: int, persons: int, least: int) -> list[str]:
    if min(items, persons) >= least:
        return []
    return [f"{items} items against {persons} people: {least} of each are needed for a judgement"]


def _without_places(options: EvaluateOptions) -> EvaluateOptions:
    """Where files lie on this machine is no part of what was asked."""
    places = {"images": None, "labels": None, "dataset": Path("dataset")}
    update = {"reference": options.reference.model_copy(update=places)}
    if options.training is not None:
        update["training"] = options.training.model_copy(update=places)
    return options.model_copy(update=update)


def _notes(
    options: EvaluateOptions, encoder: str, source: str, real: _Real, items: int, compared: int
) -> Iterator[str]:
    yield (
        f"Features: {Path(options.features).stem}, SHA-256 {encoder}; {source}. Figures that were taken with other "
        "features may not be compared with these."
    )
    held = f"{len(real.reference)} people, digest of their images {split_sha256(real.reference.persons)}"
    if real.training is None:
        yield f"Reference: {held}; the other half of those given stands for real people (no training people named)."
    else:
        yield (
            f"Reference: {held}, none of whom the generator was trained on. Ceilings and floors are made of "
            f"{compared} of the {len(real.ceiling)} people whom it was trained on."
        )
    yield (
        f"{compared} of {items} items were compared, evenly spread, so that the set has the n of its ceiling; each was "
        "given the field of view of a real person, which says nothing about anatomy."
    )
    yield (
        "Known bad sets: blur (0.8 voxels), noise (0.1 of the bright end, Rician), copies (one in eight people, eight "
        "times), collapse (one person throughout), eroded labels (one voxel). Intervals resample both sets where a "
        "figure is a distance of sets, items for what is asked of items, and people for what is asked of people."
    )
