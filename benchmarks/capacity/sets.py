"""What a synthetic item costs after it was made: searched for what it leaks, and released in all four formats.

Each set has a part that does not depend on its size (the page, whoever stands ready to be compared with), so two sets
are measured and the difference is shared out over the items that one has more.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.capacity.measure import Measurement, size_mb, timed
from medidiff.audit import AuditOptions, audit
from medidiff.data.cohort import Cohort
from medidiff.release import ReleaseOptions, release
from medidiff.synthesize import SynthesizeOptions, synthesize
from medidiff.synthetic import Family, Metric, Outcome, PrivacyReport, QualityReport, SyntheticSet, write_report

DATA = Path(__file__).resolve().parents[3] / "shared" / "data" / "msd-hippocampus"
SMALL, LARGE = 5, 20  # fewer than five alike are not released


def audited(place: Path, repetitions: int, people: Path | None = None) -> Measurement:
    """Samples alone, against the 160 people of the shipped generator and 40 others.

    Args:
        people: Where what is learned of these people stays; they are looked at once, before the clock starts.
    """

    def group(**which: int) -> Cohort:
        return Cohort.model_validate({"images": DATA / "images", "labels": DATA / "labels", **which})

    work = people or place / "people"
    options = AuditOptions(training=group(first=160), held_out=group(last=40), shape=(40, 56, 40), work=work)
    once = timed(partial(audit, drawn(place, SMALL, 99), options))
    print(f"the first audit with these people: {once:.0f} s")
    return _by_item("audit", place, repetitions, lambda folder: timed(partial(audit, folder, options)))


def released(place: Path, repetitions: int) -> Measurement:
    """All four formats."""
    options = ReleaseOptions(formats=("bids", "nnunet", "dicom", "croissant"))

    def seconds(folder: Path) -> float:
        vouch(SyntheticSet.open(folder), folder)
        return timed(partial(release, folder, folder.with_name(f"{folder.name}-out"), options))

    found = _by_item("release", place, repetitions, seconds)
    sizes = {count: size_mb(place / f"set-{count}-0-out") for count in (SMALL, LARGE)}
    kept = (sizes[LARGE] - sizes[SMALL]) / (LARGE - SMALL)
    return Measurement(found.stage, found.unit, found.seconds, kept, found.fixed)


def drawn(place: Path, count: int, seed: int) -> Path:
    """A set of the generator that ships, drawn in haste: what comes after costs the same."""
    folder = place / f"set-{count}-{seed}"
    synthesize(folder, SynthesizeOptions(count=count, seed=seed, steps=4, device="cpu"))
    return folder


def _by_item(stage: str, place: Path, repetitions: int, seconds: Callable[[Path], float]) -> Measurement:
    items, fixed = [], []
    for seed in range(repetitions):
        small, large = (seconds(drawn(place, count, seed)) for count in (SMALL, LARGE))
        items.append((large - small) / (LARGE - SMALL))
        fixed.append(small - SMALL * items[-1])
    unit = f"labelled 40 x 56 x 40 item, from sets of {SMALL} and {LARGE}"
    return Measurement(stage, unit, tuple(items), 0.0, sum(fixed) / repetitions)


def vouch(synthetic: SyntheticSet, folder: Path) -> None:
    """Reports that pass, so that there is a release to be timed. Of nothing that was measured."""

    def passed(name: str, family: Family) -> Metric:
        return Metric(
            name=name, family=family, value=0.5, n=40, unit="patients", interval=(0.4, 0.6), limit="none: a stand-in",
            better="lower", outcome=Outcome.PASSED,
        )  # fmt: skip

    known: dict[str, Any] = {
        "set_sha256": synthetic.sha256,
        "created": datetime.now(UTC),
        "code_version": "0",
        "config_sha256": "0" * 64,
    }
    fidelity = (passed("stand-in", Family.FIDELITY), passed("stand-in too", Family.DIVERSITY))
    leaks = (passed("stand-in", Family.MEMORISATION), passed("stand-in too", Family.MEMBERSHIP))
    people: dict[str, Any] = {
        "training_split_sha256": synthetic.record.training_split_sha256,
        "members": 160,
        "non_members": 40,
        "neighbours": (),
    }
    write_report(QualityReport.conclude(fidelity, **known), folder)
    write_report(PrivacyReport.conclude(leaks, **known, **people), folder)
