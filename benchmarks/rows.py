"""A CSV of finished rows that survives being killed, so that a long comparison goes on where it stopped."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

from medidiff.io.atomic import atomic_write_text

Row = dict[str, str]


class Rows:
    """Rows by key, rewritten whole and atomically after each.

    Args:
        path: The CSV.
        columns: Its columns, in order.
        key: The columns that tell rows apart.
        resume: Keep what is there; rows of other columns (an older benchmark) are dropped.
    """

    def __init__(self, path: Path, columns: Sequence[str], key: Sequence[str], *, resume: bool) -> None:
        self.path, self.columns, self.key = path, list(columns), list(key)
        self._rows: dict[tuple[str, ...], Row] = {}
        if resume and path.exists():
            with path.open(encoding="utf-8", newline="") as file:
                reader = csv.DictReader(file)
                if reader.fieldnames == self.columns:
                    for row in reader:
                        self._rows[self._key(row)] = row

    def __contains__(self, values: Mapping[str, object]) -> bool:
        return self._key(values) in self._rows

    def add(self, values: Mapping[str, object]) -> None:
        """Add or replace a row and write the file."""
        row = {column: _text(values.get(column)) for column in self.columns}
        self._rows[self._key(row)] = row
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, self.columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self._rows.values())
        atomic_write_text(self.path, buffer.getvalue())

    @property
    def all(self) -> list[Row]:
        return list(self._rows.values())

    def _key(self, values: Mapping[str, object]) -> tuple[str, ...]:
        return tuple(_text(values[column]) for column in self.key)


def _text(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)
