"""A line of JSON for everything that happens, with the id of the run; no name, no path."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from medidiff.ledger import now


class Journal:
    """The log of a run, ``logs/RUN.jsonl``; may be written by several processes at once.

    Args:
        root: The state folder.
        run: Id of the run.
    """

    def __init__(self, root: Path, run: str) -> None:
        self.path = root / "logs" / f"{run}.jsonl"
        self.run = run

    def write(self, event: str, **facts: Any) -> None:
        """Add a line. Each is one write, so that lines of two processes don't mix."""
        line = json.dumps({"at": now(), "run": self.run, "event": event, **facts}, ensure_ascii=False, default=str)
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            os.write(descriptor, line.encode() + b"\n")
        finally:
            os.close(descriptor)
