"""What commands print with: results on stdout, progress on stderr. rich is loaded when something is printed."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from medidiff.progress import OnProgress


@dataclass
class _Settings:
    quiet: bool = False


_settings = _Settings()


def configure(*, quiet: bool) -> None:
    """Set what all printing obeys."""
    _settings.quiet = quiet


def say(text: str = "") -> None:
    """Print a line of the result; square brackets are printed as they are."""
    if not _settings.quiet:
        _console().print(text, markup=False, highlight=False, soft_wrap=True)


def log(text: str) -> None:
    """Print a line about the work, on stderr."""
    if not _settings.quiet:
        sys.stderr.write(text + "\n")


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a table; columns whose every cell is a number stand to the right."""
    if _settings.quiet:
        return
    from rich import box
    from rich.table import Table
    from rich.text import Text

    cells = [[str(cell) for cell in row] for row in rows]
    drawn = Table(title=Text(title) if title else None, box=box.SIMPLE_HEAD, title_justify="left", pad_edge=False)
    for index, column in enumerate(columns):
        numeric = bool(cells) and all(_is_number(row[index]) for row in cells)
        drawn.add_column(Text(column), justify="right" if numeric else "left", overflow="fold")
    for row in cells:
        drawn.add_row(*(Text(cell) for cell in row))
    _console().print(drawn)


def facts(title: str, pairs: Mapping[str, object]) -> None:
    """Print names and values, one a line."""
    if title:
        say(title)
    width = max(map(len, pairs), default=0)
    for name, value in pairs.items():
        say(f"{name:<{width}}  {value}")


def print_json(value: Any) -> None:
    """Print for a machine: JSON on stdout, whatever ``--quiet`` says, since it was asked for."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


@contextmanager
def progress(label: str) -> Iterator[OnProgress]:
    """A bar on stderr while something works; nothing if stderr is not a terminal, or with ``--quiet``.

    Yields:
        The callback to hand to a use case: ``on_progress(done, total, what)``.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    shown = console.is_terminal and not _settings.quiet
    with Progress(*columns, console=console, transient=True, disable=not shown) as bar:
        task = bar.add_task(label, total=None)

        def on_progress(done: int, total: int, what: str = "") -> None:
            bar.update(task, completed=done, total=total, description=what or label)

        yield on_progress


def _console() -> Any:
    from rich.console import Console

    return Console()


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return text in ("", "-")
    return True
