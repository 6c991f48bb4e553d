"""What a set is worth for learning: segmenters trained on it and on real people, all tested on people nobody saw."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medidiff.config import Config, config_digest
from medidiff.data.cohort import People
from medidiff.errors import InputError
from medidiff.evaluate.options import Resampling, UtilityOptions
from medidiff.evaluate.sides import spread_over
from medidiff.io.atomic import atomic_write_json, atomic_write_text
from medidiff.metrics.intervals import Interval
from medidiff.metrics.utility import train_segmenter
from medidiff.rng import derive_seed
from medidiff.synthetic.reports import Family, Metric, Outcome

Array = NDArray[Any]
Tell = Callable[[str], None]

REAL, SYNTHETIC = "real", "synthetic"
FEW_AUGMENTED, FEW_AND_SYNTHETIC = "few real, augmented", "few real and synthetic"
ARMS = (REAL, SYNTHETIC, FEW_AUGMENTED, FEW_AND_SYNTHETIC)
# What a set must reach of what real people give.
LEAST_RATIO = 0.95


@dataclass(frozen=True, slots=True)
class Trained:
    """One training of one arm: Dice of each person tested on, the mean over structures."""

    arm: str
    seed: int
    dice: tuple[float, ...]


class _Row(Config):
    arm: str
    seed: int
    dice: tuple[float, ...]


def trainings(
    synthetic: People,
    training: People,
    reference: People,
    options: UtilityOptions,
    work: Path | None,
    tell: Tell,
) -> Iterator[Trained]:
    """Every arm with every seed; what ``work`` holds of the same sets and options is not done again.

    Raises:
        InputError: somebody has no label map.
    """
    if synthetic.labels is None or training.labels is None or reference.labels is None:
        raise InputError("utility: the set and the people must all have label maps")
    values = tuple(int(value) for value in np.unique(training.labels) if value)
    few = spread_over(len(training), max(2, round(options.share * len(training))))
    sets: dict[str, tuple[Array, Array]] = {
        REAL: (training.images, training.labels),
        SYNTHETIC: (synthetic.images, synthetic.labels),
        FEW_AUGMENTED: (training.images[few], training.labels[few]),
        FEW_AND_SYNTHETIC: (
            np.concatenate([training.images[few], synthetic.images]),
            np.concatenate([training.labels[few], synthetic.labels]),
        ),
    }
    for seed in range(options.seeds):
        for arm in ARMS:
            images, labels = sets[arm]
            tell(f"training on {arm}, {seed + 1} of {options.seeds}")
            place = None if work is None else work / f"{_key(images, labels, reference, options, arm, seed)}.json"
            row = _read(place)
            if row is None:
                own = derive_seed(seed, ARMS.index(arm))
                segmenter = train_segmenter(
                    images, labels, options.segmenter, own, values=values, augment=arm == FEW_AUGMENTED
                )
                dice = np.nanmean(segmenter.dice(reference.images, reference.labels), axis=1)
                row = _Row(arm=arm, seed=seed, dice=tuple(float(value) for value in dice))
                if place is not None:
                    place.parent.mkdir(parents=True, exist_ok=True)
                    atomic_write_json(place, row.model_dump(mode="json"))
            yield Trained(row.arm, row.seed, row.dice)


def _key(images: Array, labels: Array, reference: People, options: UtilityOptions, arm: str, seed: int) -> str:
    """A digest of all that a training's result depends on."""
    digest = hashlib.sha256(f"{arm} {seed} {config_digest(options.segmenter)}".encode())
    for array in (images, labels, reference.images, reference.labels):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:32]


def _read(place: Path | None) -> _Row | None:
    if place is None or not place.is_file():
        return None
    try:
        return _Row.model_validate(json.loads(place.read_bytes()))
    except ValueError:
        return None


def write_rows(found: Sequence[Trained], path: Path) -> None:
    """A CSV with a row for each arm, seed and person tested on (by number, never by name)."""
    lines = ["arm,seed,person,dice"]
    lines += [
        f"{one.arm.replace(',', ' and')},{one.seed},{person},{value:.6f}"
        for one in found
        for person, value in enumerate(one.dice)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_text(path, "\n".join(lines) + "\n")


def table(found: Sequence[Trained], arm: str) -> Array:
    """Dice of an arm, shape (seeds, people)."""
    return np.array([one.dice for one in found if one.arm == arm])


def ratio(above: Array, below: Array, resampling: Resampling) -> Interval:
    """Mean Dice of one arm over that of another, with a bootstrap over seeds and over people, the same in both.

    Args:
        above, below: Shape (seeds, people) each.
    """
    rng = np.random.default_rng(resampling.seed)
    seeds, people = above.shape
    drawn = []
    for _ in range(resampling.draws):
        who = rng.integers(people, size=people)
        tops, bottoms = (rng.integers(seeds, size=seeds) for _ in range(2))
        drawn.append(above[np.ix_(tops, who)].mean() / below[np.ix_(bottoms, who)].mean())
    low, high = np.quantile(drawn, [(1 - resampling.level) / 2, (1 + resampling.level) / 2])
    value = float(above.mean() / below.mean())
    return Interval(value, float(low), float(high), people, "person", resampling.level)


def utility_metrics(
    found: Sequence[Trained], training: int, items: int, share: float, resampling: Resampling
) -> Iterator[Metric]:
    """What the trainings say, as a report has it."""
    tables = {arm: table(found, arm) for arm in ARMS}
    count = len(tables[REAL])
    of_real = ratio(tables[SYNTHETIC], tables[REAL], resampling)
    mean = {arm: float(dice.mean()) for arm, dice in tables.items()}
    outcome = Outcome.PASSED if of_real.value >= LEAST_RATIO else Outcome.FAILED
    if outcome is Outcome.PASSED and of_real.low < LEAST_RATIO:
        outcome = Outcome.INCONCLUSIVE
    yield Metric(
        name="Dice on real people, trained on the set, over trained on real",
        family=Family.UTILITY,
        value=of_real.value,
        n=of_real.count,
        unit="patients",
        interval=(of_real.low, of_real.high),
        level=resampling.level,
        ceiling=1.0,
        limit=f"at least {LEAST_RATIO:g}",
        better="higher",
        outcome=outcome,
        note=(
            f"TSTR {mean[SYNTHETIC]:.3f} ({items} items), TRTR {mean[REAL]:.3f} ({training} people); equal steps, "
            f"{count} seeds each; the interval is over seeds and people."
        ),
    )
    gain = ratio(tables[FEW_AND_SYNTHETIC], tables[FEW_AUGMENTED], resampling)
    few = max(2, round(share * training))
    yield Metric(
        name="Dice, few real people with the set, over the same with ordinary augmentation",
        family=Family.UTILITY,
        value=gain.value,
        n=gain.count,
        unit="patients",
        interval=(gain.low, gain.high),
        level=resampling.level,
        better="higher",
        note=(
            f"{few} people: with the set {mean[FEW_AND_SYNTHETIC]:.3f}, with augmentation {mean[FEW_AUGMENTED]:.3f}; "
            f"equal steps, {count} seeds each."
        ),
    )
