"""Faults that do not kill: a full disk, a read-only folder, SIGTERM, locks of others. Each ends in a right state."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from medidiff.ledger import Ledger
from tests.stress import checks
from tests.stress.kills import Reference, fresh, once
from tests.stress.processes import Kill
from tests.stress.scenarios import Scenario

# What fits the beginning of every scenario's output and none whole; pages of 4 KiB.
SMALL = {"ingest": "48k", "train": "60k", "reconstruct": "40k", "synthesize": "60k", "release": "100k"}
# What remains is too little for SQLite with its log and its index, and records beside them.
SMALL_STATE, FILLED_STATE = "96k", 48 << 10
HELD_SECONDS = 4.0
ENDS_WITHIN_SECONDS = 60.0

Fault = Callable[[Scenario, Path, Reference], list[str]]


@contextmanager
def disk(place: Path, size: str) -> Iterator[Callable[[str], None]]:
    """A file system of that size at ``place``; what is yielded mounts it anew with other options.

    Raises:
        PermissionError: this process may not mount.
    """
    place.mkdir(parents=True, exist_ok=True)
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)], capture_output=True, check=False
    )
    if made.returncode:
        raise PermissionError("no right to mount a file system")
    try:
        yield lambda options: subprocess.run(["mount", "-o", f"remount,{options}", str(place)], check=True) and None
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def full_disk(scenario: Scenario, work: Path, reference: Reference) -> list[str]:
    """No room for the output; then there is."""
    folder = fresh(scenario, work)
    with disk(folder / "out", SMALL[scenario.name]) as again:
        return _fails_then_recovers(scenario, folder, reference, lambda: again("size=64m"), "[Nn]o (room|space) left")


def full_state(scenario: Scenario, work: Path, reference: Reference) -> list[str]:
    """No room for the state; then there is."""
    folder = fresh(scenario, work)
    with disk(folder / "state", SMALL_STATE) as again:
        filler = folder / "state" / ".medidiff-tmp-1-00000000-filler"
        Ledger(folder / "state").make()
        filler.write_bytes(bytes(FILLED_STATE))

        def room() -> None:
            filler.unlink()
            again("size=64m")

        return _fails_then_recovers(scenario, folder, reference, room, "")


def read_only(scenario: Scenario, work: Path, reference: Reference) -> list[str]:
    """Nobody may write the output; then one may."""
    folder = fresh(scenario, work)
    with disk(folder / "out", "64m") as again:
        again("ro")
        return _fails_then_recovers(scenario, folder, reference, lambda: again("rw"), "")


def _fails_then_recovers(
    scenario: Scenario, folder: Path, reference: Reference, mend: Callable[[], None], says: str
) -> list[str]:
    ended = once(scenario, folder)
    faults = [] if ended.code in (1, 3) else [f"ended with {ended.code}, not with a failure: {ended.log[-300:]}"]
    if re.search(says, told := _told(folder)) is None:
        faults.append(f"nothing says {says!r}: {told[-300:]}")
    faults += checks.after_death(scenario, folder, reference.expected)
    mend()
    return faults + _recovers(scenario, folder, reference)


def _told(folder: Path) -> str:
    return (
        " ".join(path.read_text() for path in (folder / "state").glob("runs/*.json")) + (folder / "run.log").read_text()
    )


def _recovers(scenario: Scenario, folder: Path, reference: Reference) -> list[str]:
    done, before = set(checks.results(folder)), len(checks.begun(folder))
    ended = once(scenario, folder)
    faults = [] if ended.code == 0 else [f"did not recover: {ended.code}: {ended.log[-300:]}"]
    return faults + checks.after_recovery(folder, reference.expected, done, before)


def asked_to_end(scenario: Scenario, work: Path, reference: Reference) -> list[str]:
    """SIGTERM in the middle: it ends soon, as interrupted, with nothing half done."""
    folder = fresh(scenario, work)
    ended = once(scenario, folder, Kill("event", reference.events // 2, signal.SIGTERM))
    faults = [] if ended.code in (130, 1) else [f"ended with {ended.code}: {ended.log[-300:]}"]
    if ended.seconds > ENDS_WITHIN_SECONDS:
        faults.append(f"took {ended.seconds:.0f} s to end")
    faults += checks.after_death(scenario, folder, reference.expected)
    return faults + _recovers(scenario, folder, reference)


def locked_fingerprints(scenario: Scenario, work: Path, reference: Reference) -> list[str]:
    """Somebody holds the write lock of the state folder's database for some seconds."""
    folder = fresh(scenario, work)
    Ledger(folder / "state").make()
    return _while_locked(folder / "state" / "fingerprints.sqlite", scenario, folder, reference)


def locked_server(scenario: Scenario, work: Path, reference: Reference) -> list[str]:
    """Somebody holds the write lock of Prefect's database for some seconds."""
    folder = fresh(scenario, work)
    return _while_locked(Path(os.environ["PREFECT_HOME"]) / "prefect.db", scenario, folder, reference)


_HOLD = """
import sqlite3, sys, time
held = sqlite3.connect(sys.argv[1], timeout=30, isolation_level=None)
held.execute("BEGIN IMMEDIATE")
print("held", flush=True)
time.sleep(float(sys.argv[2]))
held.execute("ROLLBACK")
"""


def _while_locked(database: Path, scenario: Scenario, folder: Path, reference: Reference) -> list[str]:
    # In a process of its own: a child of one that has the file open would take the lock for its own for ever.
    command = [sys.executable, "-c", _HOLD, str(database), str(HELD_SECONDS)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        begun = time.monotonic()
        faults = _recovers(scenario, folder, reference)
    if time.monotonic() - begun < HELD_SECONDS:
        faults.append("did not wait for the lock, so nothing was tried")
    return faults


FAULTS: dict[str, Fault] = {
    "disk full": full_disk,
    "state full": full_state,
    "read-only": read_only,
    "SIGTERM": asked_to_end,
    "lock on fingerprints": locked_fingerprints,
    "lock on Prefect's database": locked_server,
}
