"""What a person sees of a run in Prefect: progress, tables of steps and failures, links to pages, one picture.

Nothing here may end a run: an artifact that cannot be made is left out. Pictures of people stay in their folders;
only what a generator drew is put into Prefect's database.
"""

from __future__ import annotations

import base64
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
from prefect.artifacts import (
    create_image_artifact,
    create_link_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.context import FlowRunContext, TaskRunContext
from prefect.exceptions import PrefectException

from flows.engine.results import Result
from medidiff.ledger import MOST_FAILURES, RunRecord

_EVERY_SECONDS = 10.0
_MOST_PICTURE_BYTES = 1 << 20


@contextmanager
def _optional() -> Iterator[None]:
    try:
        yield
    except (httpx.HTTPError, PrefectException, OSError, RuntimeError):
        return


def _is_seen() -> bool:
    """Whether this is a run of Prefect's; a step that is called by itself has nobody to show anything to."""
    return FlowRunContext.get() is not None or TaskRunContext.get() is not None


class Progress:
    """A bar in Prefect, moved every ten seconds at most.

    Args:
        what: Of which step; no name of a source.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._id: UUID | None = None
        self._moved = time.monotonic()

    def move(self, done: int, total: int) -> None:
        """Tell how far it is."""
        if total <= 0 or time.monotonic() - self._moved < _EVERY_SECONDS or not _is_seen():
            return
        self._moved = time.monotonic()
        percent = min(100.0, 100 * done / total)
        with _optional():
            if self._id is None:
                self._id = create_progress_artifact(percent, description=f"{self._what}: of {total}")  # type: ignore[assignment]
            else:
                update_progress_artifact(self._id, percent)

    def end(self) -> None:
        """All of it is done; a bar that nobody has seen is not made for that."""
        if self._id is not None:
            with _optional():
                update_progress_artifact(self._id, 100.0)


def publish(record: RunRecord, shown: list[tuple[Path, Result]]) -> None:
    """Tables, links and pictures of a run that ends.

    Args:
        record: Of the run.
        shown: Results with the folders that their pages lie in.
    """
    if not _is_seen():
        return
    steps: list[dict[str, Any]] = [
        {
            "step": step.name,
            "status": step.status,
            "items done": step.done,
            "done before": step.cached,
            "failed": step.failed,
            "seconds": step.seconds,
            "figures": ", ".join(f"{name} {value}" for name, value in step.facts.items()),
            "reasons": "; ".join(step.reasons),
        }
        for step in record.steps
    ]
    failures = [{"step": each.step, "item": each.item, "reason": each.reason} for each in record.failures]
    _make(create_table_artifact, key=f"{record.flow}-steps", table=steps, description=f"run {record.run}")
    if failures:
        table = failures[:MOST_FAILURES]
        _make(create_table_artifact, key=f"{record.flow}-failures", table=table, description=f"run {record.run}")
    for base, result in shown:
        for page in result.pages:
            place = (base / page).resolve()
            if place.is_file():
                _make(create_link_artifact, key=f"{result.step}-page", link=place.as_uri(), link_text=result.step)
        for picture in result.pictures:
            if (base / picture).is_file() and (base / picture).stat().st_size <= _MOST_PICTURE_BYTES:
                data = base64.b64encode((base / picture).read_bytes()).decode()
                _make(create_image_artifact, key=f"{result.step}-picture", image_url=f"data:image/png;base64,{data}")


def _make(create: Callable[..., Any], **what: Any) -> None:
    with _optional():
        create(**what)
