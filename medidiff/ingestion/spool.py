"""The index of a heap on disk: 100,000 files are looked at without being held in memory.

It lies in the private work folder, because it knows paths, and is thrown away at the end.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from medidiff.errors import OutputError
from medidiff.ingestion.lines import FileLine
from medidiff.io.dicom import InstanceHeader

_SCHEMA = """
CREATE TABLE object (
  path BLOB, file TEXT, study TEXT, series TEXT, number INTEGER, sop TEXT, size INTEGER, changed INTEGER,
  person TEXT, name TEXT
);
CREATE TABLE stray (path BLOB, series TEXT);
CREATE TABLE image (path BLOB PRIMARY KEY, file TEXT);
CREATE TABLE part (file TEXT, header TEXT);
CREATE TABLE settled (file TEXT PRIMARY KEY);
CREATE TABLE line (file TEXT PRIMARY KEY, outcome TEXT, reason TEXT, text TEXT, volume TEXT, fresh INTEGER);
"""
_COMMIT_EVERY = 5000


@dataclass(frozen=True, slots=True)
class Group:
    """The objects of one DICOM series, by the numbers that its files give it."""

    study: str
    series: str
    number: int | None
    objects: int


@dataclass(frozen=True, slots=True)
class Entry:
    """One DICOM file of a group; ``person`` is a token of whose it is."""

    path: str
    file: str
    sop: str
    size: int
    changed: int
    person: str


def _no_index(error: sqlite3.Error) -> OutputError:
    name = getattr(error, "sqlite_errorname", type(error).__name__)
    return OutputError(
        f"the index in the work folder beside the dataset cannot be kept ({name}): make room there, then run again"
    )


class Spool:
    """A disposable SQLite file. It is never read by a later run, so nothing waits for the disk.

    Paths are kept as bytes: a file name need not be text in any encoding.
    """

    def __init__(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        settings = "PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA cache_size=-16000;"
        try:
            self._db = sqlite3.connect(path, isolation_level=None)
            self._db.executescript(settings + _SCHEMA)
            self._db.execute("BEGIN")
        except sqlite3.Error as error:
            raise _no_index(error) from error
        self._pending = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._db.close()
        if isinstance(error, sqlite3.Error):
            raise _no_index(error) from error

    def add_object(self, header: InstanceHeader, file: str, person: str = "", name: str = "") -> None:
        """A DICOM file, with tokens of whose it is and of the name that it gives that person."""
        path, number, size = os.fsencode(header.path), header.series_number, header.size
        changed = os.stat(path).st_mtime_ns  # noqa: PTH116
        place = (path, file, header.study_uid, header.series_uid, number, header.sop_uid, size, changed)
        self._write("INSERT INTO object VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", (*place, person, name))

    def add_stray(self, path: str, series: str) -> None:
        """A file of a series that is no part of it: the series' plan should know of it."""
        self._write("INSERT INTO stray VALUES (?, ?)", (os.fsencode(path), series))

    def add_image(self, path: str, file: str) -> None:
        self._write("INSERT OR IGNORE INTO image VALUES (?, ?)", (os.fsencode(path), file))

    def add_part(self, file: str, header: str) -> None:
        """A file whose fate is that of its header's file."""
        self._write("INSERT INTO part VALUES (?, ?)", (file, header))

    def add_line(self, line: FileLine, *, fresh: bool = True) -> None:
        row = (line.file, line.outcome, line.reason, line.text, line.volume, int(fresh))
        self._write("INSERT OR REPLACE INTO line VALUES (?, ?, ?, ?, ?, ?)", row)

    def settle(self, file: str) -> None:
        """What an earlier run said of ``file`` holds no more, and there is nothing to say instead."""
        self._write("INSERT OR IGNORE INTO settled VALUES (?)", (file,))

    def settled(self) -> set[str]:
        return {file for (file,) in self._db.execute("SELECT file FROM settled")}

    def groups(self) -> Iterator[Group]:
        """Series in a fixed order; the cursor stays valid while lines are added."""
        self._db.execute("CREATE INDEX IF NOT EXISTS by_series ON object (study, series, number)")
        # Grouped over into a table of its own: a run that adds lines must not disturb the walk.
        self._db.execute(
            "CREATE TEMP TABLE IF NOT EXISTS grouped AS SELECT study, series, number, COUNT(*) AS n FROM object "
            "GROUP BY study, series, number ORDER BY study, series, number"
        )
        for row in self._db.execute("SELECT study, series, number, n FROM grouped ORDER BY rowid"):
            yield Group(*row)

    def entries(self, group: Group) -> list[Entry]:
        rows = self._db.execute(
            "SELECT path, file, sop, size, changed, person FROM object "
            "WHERE study = ? AND series = ? AND number IS ? ORDER BY path",
            (group.study, group.series, group.number),
        )
        return [Entry(os.fsdecode(path), *row) for path, *row in rows]

    def disputed(self) -> frozenset[str]:
        """Persons to whom files of this run give more than one name."""
        rows = self._db.execute(
            "SELECT person FROM object WHERE name != '' GROUP BY person HAVING COUNT(DISTINCT name) > 1"
        )
        return frozenset(person for (person,) in rows)

    def strays(self, group: Group) -> list[str]:
        if not group.series:
            return []
        rows = self._db.execute("SELECT path FROM stray WHERE series = ? ORDER BY path", (group.series,))
        return [os.fsdecode(path) for (path,) in rows]

    def images(self) -> Iterator[tuple[str, str]]:
        """Paths and tokens of volume files, in order of their paths."""
        for path, file in self._db.execute("SELECT path, file FROM image ORDER BY path"):
            yield os.fsdecode(path), file

    def count(self) -> tuple[int, int]:
        """Series and volume files to be worked on."""
        series = self._db.execute(
            "SELECT COUNT(*) FROM (SELECT 1 FROM object GROUP BY study, series, number)"
        ).fetchone()
        images = self._db.execute("SELECT COUNT(*) FROM image").fetchone()
        return int(series[0]), int(images[0])

    def resolve_parts(self) -> None:
        """Give parts the line of their header."""
        rows = self._db.execute("SELECT part.file, line.* FROM part JOIN line ON line.file = part.header").fetchall()
        for file, _, outcome, reason, text, volume, fresh in rows:
            self.add_line(FileLine(file, outcome, reason, text, volume), fresh=bool(fresh))

    def lines(self, *, fresh: bool = False) -> Iterator[FileLine]:
        """All lines in order of their tokens; ``fresh`` for those of this run only."""
        where = "WHERE fresh = 1" if fresh else ""
        for row in self._db.execute(f"SELECT file, outcome, reason, text, volume FROM line {where} ORDER BY file"):  # noqa: S608
            yield FileLine(*row)

    def _write(self, statement: str, row: tuple[object, ...]) -> None:
        self._db.execute(statement, row)
        self._pending += 1
        if self._pending >= _COMMIT_EVERY:
            self._db.execute("COMMIT")
            self._db.execute("BEGIN")
            self._pending = 0
