"""The use case *status*: what unattended runs did, from the records of their state folder alone."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from medidiff.ledger import Ledger, RunRecord

# The release step of a run that let a set go out.
RELEASE = "release"


@dataclass(frozen=True, slots=True)
class Status:
    """What stands in a state folder.

    Args:
        runs: The latest runs, the latest first. One that says it is running while nobody holds its lock is told as
            crashed.
        total: Runs in all.
        at_work: Id of the run that is at work now.
        release: The latest run that let a set go out, if any did.
    """

    runs: tuple[RunRecord, ...]
    total: int
    at_work: str | None
    release: RunRecord | None


def status(state: Path, latest: int = 10) -> Status:
    """Look at a state folder; nothing is changed.

    Args:
        state: The folder.
        latest: How many runs to tell of.
    Raises:
        InputError: it is no state folder.
    """
    ledger = Ledger(state)
    runs = ledger.runs()
    holder = ledger.at_work()
    at_work = None if holder is None else str(holder.get("run", "?"))
    shown = [_true(record, at_work) for record in islice(runs, latest)]
    release = next((record for record in shown if has_released(record)), None)
    total = len(shown)
    for record in runs:
        total += 1
        if release is None and has_released(record):
            release = record
    return Status(tuple(shown), total, at_work, release)


def has_released(record: RunRecord) -> bool:
    """Whether a set went out in a run, or had gone out before it."""
    return any(step.name == RELEASE and step.status in ("done", "cached") for step in record.steps)


def _true(record: RunRecord, at_work: str | None) -> RunRecord:
    if record.status != "running" or record.run == at_work:
        return record
    return replace(record, status="crashed", message="its process is gone")
