"""A short version of the stress suite, and proof that its checks see what they look for."""

from __future__ import annotations

import csv
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from medidiff.ledger import Ledger, RunRecord
from tests.stress import checks
from tests.stress.processes import Kill, draw, forked
from tests.stress.scenarios import SCENARIOS, Scenario, left, thick_scan

REPOSITORY = Path(__file__).parents[2]


def test_killed_struck_and_without_room_every_run_ends_rightly(tmp_path: Path) -> None:
    """Six kills, a full disk and SIGTERM; ``make stress`` has 200, every flow, more faults, and a schedule."""
    pytest.importorskip("prefect", reason="needs the extra `flows`")
    rows = tmp_path / "rows.csv"
    command = [
        sys.executable,
        "-m",
        "tests.stress",
        "--kills",
        "6",
        "--flows",
        "train,reconstruct",
        "--rows",
        str(rows),
    ]
    more = [
        "--faults",
        "disk full,SIGTERM",
        "--work",
        str(tmp_path / "work"),
        "--port",
        str(20_000 + os.getpid() % 20_000),
    ]
    done = subprocess.run([*command, *more], cwd=REPOSITORY, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    killed = list(csv.DictReader(rows.open()))
    assert sum(row["died"] == "True" for row in killed) == 6
    assert {row["scenario"] for row in killed} <= {"train", "reconstruct"}


@pytest.fixture
def ended(tmp_path: Path) -> Path:
    """What a run that went well leaves: two scans, a result that speaks of one, a record."""
    (tmp_path / "out").mkdir()
    thick_scan(tmp_path / "out" / "a.nii.gz", 0)
    thick_scan(tmp_path / "out" / "b.nii.gz", 1)
    (tmp_path / "out" / "a.json").write_text(json.dumps({"seconds": 1.5, "frames": 1}))
    ledger = Ledger(tmp_path / "state")
    ledger.make()
    ledger.write(record("completed"))
    results = tmp_path / "state" / "results" / "reconstruct" / "ab"
    results.mkdir(parents=True)
    (results / "abc.json").write_text(json.dumps({"outputs": [{"path": "a.nii.gz", "sha256": "0"}]}))
    return tmp_path


def record(status: str) -> RunRecord:
    return RunRecord("20260101T000000-00000000", "f", "c", "d", "", 1, 1, "", "2026-01-01", status=status)  # type: ignore[arg-type]


def half(folder: Path) -> None:
    path = folder / "out" / "a.nii.gz"
    path.write_bytes(path.read_bytes()[:500])


def other(folder: Path) -> None:
    thick_scan(folder / "out" / "a.nii.gz", 7)


def stranger(folder: Path) -> None:
    (folder / "out" / "c.json").write_text("{}")


def broken_record(folder: Path) -> None:
    (folder / "state" / "runs" / "20260101T000000-00000000.json").write_text('{"run": ')


def result_without_file(folder: Path) -> None:
    (folder / "out" / "a.nii.gz").unlink()


def damaged_memory(folder: Path) -> None:
    (folder / "state" / "fingerprints.sqlite").write_bytes(b"SQLite format 3\0" + bytes(5000))


@pytest.mark.parametrize(
    ("plant", "word"),
    [
        (half, "unreadable"),
        (other, "other content"),
        (stranger, "no run that went well"),
        (broken_record, "unreadable"),
        (result_without_file, "not there"),
        (damaged_memory, "damaged"),
    ],
)
def test_what_a_death_must_not_leave_is_seen(ended: Path, plant: Callable[[Path], None], word: str) -> None:
    expected, scenario = left(ended), SCENARIOS["reconstruct"]
    assert checks.after_death(scenario, ended, expected) == []
    plant(ended)
    assert any(word in fault for fault in checks.after_death(scenario, ended, expected))


def test_what_is_about_the_run_makes_no_difference(ended: Path) -> None:
    expected = left(ended)
    (ended / "out" / "a.json").write_text(json.dumps({"frames": 1, "seconds": 99}))
    (ended / "out" / ".medidiff-tmp-1-00000000-a.nii.gz").write_bytes(b"half")
    assert left(ended) == expected
    (ended / "out" / "a.json").write_text(json.dumps({"frames": 2, "seconds": 1.5}))
    assert left(ended) != expected


def test_work_done_twice_and_runs_left_open_are_seen(ended: Path) -> None:
    expected, ledger = left(ended), Ledger(ended / "state")
    assert checks.after_recovery(ended, expected, {"abc"}, 0) == []
    log = ended / "state" / "logs" / "20260101T000000-00000000.jsonl"
    log.write_text('{"event": "begin", "key": "abc", "run": "r"}\n{"event": "be')
    assert checks.after_recovery(ended, expected, {"abc"}, 0) == ["abc: done again"]
    assert checks.after_recovery(ended, expected, {"abc"}, 1) == []
    ledger.write(record("running"))
    assert any("running" in fault for fault in checks.after_recovery(ended, expected, set(), 0))
    shutil.rmtree(ended / "out")
    assert "a.nii.gz: missing" in checks.after_recovery(ended, expected, set(), 0)


@pytest.mark.parametrize(
    ("kill", "code"), [(None, 0), (Kill("event", 2), -signal.SIGKILL), (Kill("time", 2.0), -signal.SIGKILL)]
)
def test_a_child_dies_where_it_is_told_to(tmp_path: Path, kill: Kill | None, code: int) -> None:
    def write() -> int:
        import time

        for name in "abc":
            (tmp_path / name).write_text(name)
        time.sleep(60 if kill is not None and kill.kind == "time" else 0)
        return 0

    ended = forked(write, tmp_path, kill)
    assert ended.code == code
    there = [name for name in "abc" if (tmp_path / name).exists()]
    assert (ended.events, there) == ((2, ["a"]) if kill is not None and kill.kind == "event" else (3, ["a", "b", "c"]))


def test_moments_are_drawn_within_the_run() -> None:
    rng = random.Random(0)
    drawn = [draw(rng, 50, 900, 3.0) for _ in range(300)]
    assert {kill.kind for kill in drawn} == {"event", "call", "time"}
    limits = {"event": 50, "call": 900, "time": 3.0}
    assert all(0 <= kill.when <= limits[kill.kind] for kill in drawn)
    assert {draw(rng, 50, 0, 3.0).kind for _ in range(50)} == {"event", "time"}


def test_every_flow_has_a_scenario() -> None:
    assert set(SCENARIOS) >= {"ingest", "train", "reconstruct", "synthesize", "release"}
    assert all(isinstance(scenario, Scenario) for scenario in SCENARIOS.values())
