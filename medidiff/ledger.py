"""The state folder of unattended runs: what was begun, what came of it, and who is at work there now.

    state/
      lock                     held by the run that is at work; the system lets go of it however that process ends
      runs/RUN.json            a run: its steps, counts, failures, end
      results/STEP/KEY.json    a step that is done: what it made, with hashes
      logs/RUN.jsonl           a line for everything that happened
      fingerprints.sqlite      hashes of files that were read before
      prefect/                 Prefect's own

No name, path or header value of a source is in any of it. Every file appears whole or not at all.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from medidiff.errors import ConfigError, InputError, OutputError
from medidiff.io.atomic import atomic_write_json, is_temporary

Status = Literal["running", "completed", "completed-with-failures", "refused", "failed", "crashed"]
# A record lists so many failures; the log has all of them.
MOST_FAILURES = 1000
_RUN = re.compile(r"^\d{8}T\d{6}-[0-9a-f]{8}$")


@dataclass(frozen=True, slots=True)
class StepRecord:
    """What became of a step, or of all items of a step that fans out.

    Args:
        name: Such as ``"train"``.
        status: ``"running"``, ``"done"``, ``"cached"`` (an earlier run did it), ``"done-with-failures"`` (some items
            came to nothing, others are there), ``"refused"`` or ``"failed"``.
        key: Of what it was made from; empty where there are many items.
        seconds: What the library call took.
        done, cached, failed: Items.
        facts: Figures to show.
        reasons: Why it failed or was refused.
    """

    name: str
    status: str
    key: str = ""
    seconds: float = 0.0
    done: int = 0
    cached: int = 0
    failed: int = 0
    facts: dict[str, Any] = field(default_factory=dict)
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Failure:
    """An item that came to nothing: its token, and why."""

    step: str
    item: str
    reason: str


@dataclass(frozen=True, slots=True)
class RunRecord:
    """A run.

    Args:
        run: Its id, which sorts by time.
        flow, config: Names.
        config_digest: Of the resolved configuration.
        flow_run: Prefect's id of it.
        attempt: How often this flow run was picked up again.
        pid, boot: The process and the boot of its machine.
        started, ended: UTC, ISO 8601.
        status: Where it stands; ``running`` is true only while somebody holds the lock.
        message: Its end in words.
        steps, failures: In order.
    """

    run: str
    flow: str
    config: str
    config_digest: str
    flow_run: str
    attempt: int
    pid: int
    boot: str
    started: str
    ended: str = ""
    status: Status = "running"
    message: str = ""
    steps: tuple[StepRecord, ...] = ()
    failures: tuple[Failure, ...] = ()

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> RunRecord:
        steps = tuple(
            StepRecord(**{**step, "reasons": tuple(step.get("reasons", ()))}) for step in value.pop("steps", ())
        )
        failures = tuple(Failure(**failure) for failure in value.pop("failures", ()))
        return cls(**value, steps=steps, failures=failures)


class Ledger:
    """A state folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.lock = root / "lock"

    def make(self) -> None:
        """Make the folder, for its owner alone.

        Raises:
            ConfigError: a folder that is none of ours is there.
            OutputError: it cannot be made.
        """
        marker = self.root / "state.json"
        try:
            if not marker.is_file() and self.root.is_dir() and any(map(_is_strange, self.root.iterdir())):
                raise ConfigError(f"{self.root}: not empty, and no state folder of medidiff; choose a new one")
            self.root.mkdir(parents=True, exist_ok=True)
            self.root.chmod(0o700)
            # Before all else: whoever is killed from here on leaves a folder that is known to be ours.
            if not marker.is_file():
                atomic_write_json(marker, {"medidiff": "state of unattended runs", "format": 1})
            for folder in ("runs", "results", "logs", "prefect"):
                (self.root / folder).mkdir(exist_ok=True)
        except OSError as error:
            raise OutputError(f"{self.root}: the state folder cannot be made there: {error.strerror}") from error

    def write(self, record: RunRecord) -> None:
        """Put a run on disk as it now stands."""
        shown = replace(record, failures=record.failures[:MOST_FAILURES])
        atomic_write_json(self.root / "runs" / f"{record.run}.json", asdict(shown))

    def runs(self) -> Iterator[RunRecord]:
        """Every run, the latest first; what is damaged is left out.

        Raises:
            InputError: this is no state folder.
        """
        folder = self.root / "runs"
        if not folder.is_dir():
            raise InputError(f"{self.root}: no state folder of medidiff (no runs/ in it)")
        for path in sorted(folder.glob("*.json"), reverse=True):
            if _RUN.match(path.stem):
                with suppress(OSError, ValueError, TypeError, AttributeError):
                    yield RunRecord.from_json(json.loads(path.read_text(encoding="utf-8")))

    def at_work(self) -> dict[str, Any] | None:
        """Who holds the lock: ``pid``, ``boot``, ``run``; None if nobody does."""
        try:
            descriptor = os.open(self.lock, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            with suppress(OSError, ValueError):
                return dict(json.loads(self.lock.read_text(encoding="utf-8")))
            return {}
        finally:
            os.close(descriptor)
        return None

    def abandoned(self) -> list[RunRecord]:
        """Runs that say they are running while nobody holds the lock for them: killed, or the machine went down."""
        holder = self.at_work()
        return [
            record
            for record in self.runs()
            if record.status == "running" and (holder is None or holder.get("run") != record.run)
        ]


def new_run_id() -> str:
    """An id that sorts by time."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(4)}"


def now() -> str:
    """The time, UTC."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def boot_id() -> str:
    """Which boot of the machine this is; a process id means nothing after the next one."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _is_strange(entry: Path) -> bool:
    """Whether somebody else made it: a server that was started first, or a run that was killed at once, did not."""
    return entry.name != "prefect" and not is_temporary(entry)
