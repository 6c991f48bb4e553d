"""``medidiff status``: what the flows did unattended."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medidiff.cli import console

if TYPE_CHECKING:
    from medidiff.ledger import RunRecord, StepRecord
    from medidiff.status import Status

_MOST_FAILURES = 20
_LINE = 60
_HASH = re.compile(r"^[0-9a-f]{64}$")


def status(
    state: Annotated[
        Path, typer.Argument(metavar="STATE", help="The state folder that the flow's configuration names.")
    ] = Path("medidiff-state"),
    latest: Annotated[int, typer.Option(min=1, help="How many runs to list.")] = 10,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for a program.")] = False,
) -> None:
    """Tell what unattended runs did: runs, steps and failures of the latest, and the last release."""
    from medidiff import status as use_case

    found = use_case.status(state, latest)
    if as_json:
        console.print_json(_facts(found))
        return
    rows = [(run.run, run.flow, run.config, run.status, _seconds(run), _short(run.message)) for run in found.runs]
    console.table("", ("run", "flow", "config", "status", "seconds", ""), rows)
    if found.total > len(found.runs):
        console.say(f"and {found.total - len(found.runs)} before them")
    if found.runs:
        _show(found.runs[0])
    if found.release is not None:
        step = next(step for step in found.release.steps if step.name == use_case.RELEASE)
        console.say(f"last release: run {found.release.run}, {_words(step)}")


def _show(run: RunRecord) -> None:
    """The steps and failures of a run."""
    rows = []
    for step in run.steps:
        items = "" if step.key else f"{step.done} done, {step.cached} before, {step.failed} failed"
        rows.append((step.name, step.status, items, step.seconds, _words(step)))
    console.table(f"run {run.run}", ("step", "status", "items", "seconds", ""), rows)
    for step in run.steps:
        for reason in step.reasons:
            console.say(f"{step.name}: {reason}")
    for failure in run.failures[:_MOST_FAILURES]:
        console.say(f"{failure.step} {failure.item}: {failure.reason}")
    if len(run.failures) > _MOST_FAILURES:
        console.say(f"and {len(run.failures) - _MOST_FAILURES} more failed; --json has them")


def _words(step: StepRecord) -> str:
    """Figures of a step; reasons have lines of their own."""
    if step.reasons:
        return f"{len(step.reasons)} reason{'s' if len(step.reasons) > 1 else ''}, below"
    return ", ".join(f"{name} {_short(value)}" for name, value in step.facts.items())


def _short(value: object) -> str:
    """Four digits of a number, the beginning of a hash or of a message; --json has the whole."""
    from textwrap import shorten

    if isinstance(value, float):
        return f"{value:.4g}"
    text = str(value)
    return text[:12] if _HASH.match(text) else shorten(text, _LINE, placeholder=" ...")


def _seconds(run: RunRecord) -> str:
    from datetime import datetime

    if not run.ended:
        return "-"
    return f"{(datetime.fromisoformat(run.ended) - datetime.fromisoformat(run.started)).total_seconds():.0f}"


def _facts(found: Status) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "runs": [asdict(run) for run in found.runs],
        "total": found.total,
        "at_work": found.at_work,
        "last_release": asdict(found.release) if found.release else None,
    }
