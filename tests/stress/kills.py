"""Runs that are killed with -9 at random moments, again and again, until one may end."""

from __future__ import annotations

import csv
import json
import random
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from medidiff.io.atomic import atomic_write_json
from tests.stress import checks
from tests.stress.processes import CALLS, MOST_CALLS, Ended, Kill, draw, forked, run_flow
from tests.stress.scenarios import SCENARIOS, Scenario, left

# Kills of one copy of a scenario before it may end.
MOST_IN_A_ROW = 4
COLUMNS = ("scenario", "copy", "kind", "when", "died", "done_at_death", "temporaries", "seconds", "faults")


@dataclass(frozen=True, slots=True)
class Reference:
    """A scenario that went well: what it left, and how long it is, in events, system calls and seconds."""

    expected: dict[str, str]
    events: int
    calls: int
    seconds: float


def refer(scenario: Scenario, work: Path, *, with_calls: bool) -> Reference:
    """Run a scenario undisturbed, once for each folder of work."""
    known = work / "templates" / f"{scenario.name}.json"
    if known.exists():
        return Reference(**json.loads(known.read_text()))
    folder = fresh(scenario, work)
    whole = once(scenario, folder)
    if whole.code != 0:
        raise RuntimeError(f"{scenario.name} fails undisturbed: {whole.log}")
    expected = left(folder)
    calls = _count_calls(scenario, work) if with_calls else 0
    reference = Reference(expected, whole.events, calls, whole.seconds)
    atomic_write_json(known, asdict(reference))
    return reference


def _count_calls(scenario: Scenario, work: Path) -> int:
    """System calls of an undisturbed run's main thread: strace is asked for a kill that never comes."""
    folder = fresh(scenario, work)
    once(scenario, folder, Kill("call", MOST_CALLS))
    names = CALLS.split(",")
    return sum(line.startswith(tuple(f"{name}(" for name in names)) for line in (folder / "strace.log").open())


def fresh(scenario: Scenario, work: Path) -> Path:
    """The scenario as at its beginning, always with the same bytes at the same place: keys depend on both."""
    template, folder = work / "templates" / scenario.name, work / scenario.name
    if not folder.exists() and not template.exists():
        scenario.make(folder)
        template.parent.mkdir(exist_ok=True)
        shutil.copytree(folder, template)
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(template, folder)
    return folder


def once(scenario: Scenario, folder: Path, kill: Kill | None = None) -> Ended:
    """One run of the flow."""
    return forked(lambda: run_flow(scenario.flow, scenario.name, folder), folder, kill)


def chain(
    scenario: Scenario, work: Path, number: int, reference: Reference, rng: random.Random, kills: int
) -> Iterator[dict[str, object]]:
    """Kill a copy so many times, then let it end; a row for each kill, faults of the end with the last."""
    folder = fresh(scenario, work)
    rows: list[dict[str, object]] = []
    for _ in range(kills):
        done, before = set(checks.results(folder)), len(checks.begun(folder))
        kill = draw(rng, reference.events, reference.calls, reference.seconds)
        ended = once(scenario, folder, kill)
        # A moment after the end of the run kills nobody; it counts as an ordinary run, not as a kill.
        died = ended.code == -kill.number
        faults = checks.after_death(scenario, folder, reference.expected)
        if not died and ended.code != 0:
            faults.append(f"ended with {ended.code}: {ended.log[-300:]}")
        faults += _again(folder, done, before)
        rows.append(
            {
                "scenario": scenario.name,
                "copy": number,
                "kind": kill.kind,
                "when": round(kill.when, 3),
                "died": died,
                "done_at_death": len(checks.results(folder)),
                "temporaries": sum(1 for _ in folder.rglob(".medidiff-tmp-*")),
                "seconds": round(ended.seconds, 2),
                "faults": faults,
            }
        )
    done, before = set(checks.results(folder)), len(checks.begun(folder))
    ended = once(scenario, folder)
    last: list[str] = rows[-1]["faults"]  # type: ignore[assignment]
    if ended.code != 0:
        last.append(f"the run after the kills ended with {ended.code}: {ended.log[-300:]}")
    last += checks.after_recovery(folder, reference.expected, done, before)
    yield from rows


def _again(folder: Path, done: set[str], before: int) -> list[str]:
    return [f"{key[:12]}: done again" for key, _ in checks.begun(folder)[before:] if key in done]


def campaign(
    work: Path, rows: Path, *, kills: int, seed: int, names: tuple[str, ...], minutes: float, with_calls: bool
) -> tuple[int, list[str]]:
    """Kill until there are so many deaths on file, or time is up; goes on where ``rows`` ends.

    Returns:
        Deaths on file, and every fault.
    """
    begun = time.monotonic()
    past = list(csv.DictReader(rows.open())) if rows.exists() else []
    deaths = sum(row["died"] == "True" for row in past)
    faults = [row["faults"] for row in past if row["faults"]]
    number = len({row["copy"] for row in past})
    references: dict[str, Reference] = {}
    with rows.open("a", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS)
        if not past:
            writer.writeheader()
        while deaths < kills and time.monotonic() - begun < 60 * minutes:
            scenario = SCENARIOS[names[number % len(names)]]
            if scenario.name not in references:
                references[scenario.name] = refer(scenario, work, with_calls=with_calls)
            rng = random.Random(f"{seed}/{number}")
            length = min(rng.randint(1, MOST_IN_A_ROW), kills - deaths)
            before = len(faults)
            for row in chain(scenario, work, number, references[scenario.name], rng, length):
                deaths += bool(row["died"])
                found = " | ".join(row["faults"])  # type: ignore[arg-type]
                faults += [found] if found else []
                writer.writerow({**row, "faults": found})
            stream.flush()
            if len(faults) > before:  # kept, to be looked at
                (work / scenario.name).rename(work / f"faulty-{scenario.name}-{number:04d}")
            number += 1
    return deaths, faults
