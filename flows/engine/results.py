"""Steps that are done, on disk: what each made, and whether that is still there.

Prefect's own cache would give back a result whose files have vanished, cost a task run for each of a million scans that
are long done, and pickle by default. So results are small JSON files by key, looked at before a task is submitted.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from flows.engine.keys import Fingerprints
from medidiff.io.atomic import atomic_write_json

_MOST_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class Output:
    """A file or folder that a step made: its path relative to the step's base, and its hash."""

    path: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Result:
    """What a step came to.

    Args:
        step, key: Which.
        outputs: What it made.
        facts: Figures and short words to show; no name.
        refused: Reasons of a gate that refused; that, too, is a result.
        pages: HTML pages to link to, relative to the step's base.
        pictures: PNG files to show, likewise; of nobody who lives.
        seconds: What the library call took.
    """

    step: str
    key: str
    outputs: tuple[Output, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)
    refused: tuple[str, ...] = ()
    seconds: float = 0.0
    pages: tuple[str, ...] = ()
    pictures: tuple[str, ...] = ()


class Results:
    """The folder ``results`` of a state folder."""

    def __init__(self, root: Path) -> None:
        self._root = root / "results"

    def keep(self, result: Result) -> None:
        """Put a result on disk, after everything that it speaks of."""
        path = self._path(result.step, result.key)
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write_json(path, asdict(result))

    def find(self, step: str, key: str, base: Path, fingerprints: Fingerprints) -> Result | None:
        """The result of a key, if everything that it speaks of is still as it was made."""
        path = self._path(step, key)
        with suppress(OSError, ValueError, TypeError, KeyError):
            if path.stat().st_size > _MOST_BYTES:
                return None
            found = json.loads(path.read_text(encoding="utf-8"))
            outputs = tuple(Output(**output) for output in found.pop("outputs"))
            lists = {name: tuple(found[name]) for name in ("refused", "pages", "pictures")}
            result = Result(**{**found, **lists, "outputs": outputs})
            if result.key == key and all(fingerprints.of(base / each.path) == each.sha256 for each in outputs):
                return result
        return None

    def _path(self, step: str, key: str) -> Path:
        return self._root / step / key[:2] / f"{key}.json"
