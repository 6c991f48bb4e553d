"""What a step is made from, as one key: content of its inputs, configuration, and the code that it runs."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from importlib import metadata
from pathlib import Path

import medidiff
from medidiff.config import Config, config_digest
from medidiff.io.source import file_sha256

_PACKAGE = Path(medidiff.__file__).parent
# Whose results may change with their version.
_LIBRARIES = ("torch", "numpy", "scipy", "monai", "nibabel", "pydicom", "scikit-image", "scikit-learn")
# A file written this recently may change again within the clock's tick (as git has it).
_SETTLED_SECONDS = 2.0
# Of a dataset: what is written anew each time, and says nothing about its volumes.
_BESIDE_THE_POINT = frozenset({".medidiff", "report"})


def step_key(step: str, *, inputs: str, config: Config | str, code: str) -> str:
    """The key of a step: SHA-256 over everything that determines what it makes."""
    digest = config if isinstance(config, str) else config_digest(config)
    parts = {"step": step, "inputs": inputs, "config": digest, "code": code}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


class Fingerprints:
    """SHA-256 of files and trees; what was read once is known by its place on disk, size and times, not by a name."""

    def __init__(self, root: Path) -> None:
        self._lock = threading.Lock()
        self._memory = sqlite3.connect(root / "fingerprints.sqlite", timeout=60, check_same_thread=False)
        with suppress(sqlite3.OperationalError):  # somebody holds the lock just now: the old kind of journal will do
            self._memory.execute("PRAGMA journal_mode=WAL")
        self._memory.execute("CREATE TABLE IF NOT EXISTS seen (place TEXT PRIMARY KEY, sha256 TEXT) WITHOUT ROWID")
        self._memory.commit()

    def close(self) -> None:
        with self._lock:
            self._memory.commit()
            self._memory.close()

    def of(self, path: Path) -> str:
        """The hash of a file, or of every file below a folder with its name; ``absent`` where there is neither."""
        if path.is_dir():
            return self.tree(path)
        try:
            return self.file(path)
        except OSError:
            return "absent"

    def file(self, path: Path) -> str:
        """The hash of a file's content.

        Raises:
            OSError: it cannot be read.
        """
        found = path.stat()
        place = f"{found.st_dev} {found.st_ino} {found.st_size} {found.st_mtime_ns} {found.st_ctime_ns}"
        with self._lock:
            known = self._memory.execute("SELECT sha256 FROM seen WHERE place = ?", (place,)).fetchone()
        if known is not None:
            return str(known[0])
        sha256 = file_sha256(path)
        if time.time() - max(found.st_mtime, found.st_ctime) > _SETTLED_SECONDS:
            with self._lock:
                self._memory.execute("INSERT OR REPLACE INTO seen VALUES (?, ?)", (place, sha256))
                self._memory.commit()
        return sha256

    def tree(self, folder: Path) -> str:
        """The hash of a folder: names and content of all files; a file that cannot be read counts as such."""
        digest = hashlib.sha256()
        for name, path in files_below(folder):
            try:
                content = self.file(path)
            except OSError:
                content = "unreadable"
            digest.update(f"{len(os.fsencode(name))} ".encode() + os.fsencode(name) + f" {content}\n".encode())
        return digest.hexdigest()


def files_below(folder: Path) -> Iterator[tuple[str, Path]]:
    """Every file with its name relative to the folder, in order; links to folders are not followed."""
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if name not in _BESIDE_THE_POINT)
        for name in sorted(files):
            if not name.startswith(".medidiff-tmp-"):
                path = Path(parent) / name
                yield path.relative_to(folder).as_posix(), path


@cache
def code_digest(module: str) -> str:
    """The version of a use case: of medidiff, of the libraries, and of every source file that it can come to import."""
    digest = hashlib.sha256(f"medidiff {medidiff.__version__}".encode())
    for name in _LIBRARIES:
        try:
            digest.update(f" {name} {metadata.version(name)}".encode())
        except metadata.PackageNotFoundError:
            digest.update(f" no {name}".encode())
    for path in _reachable(module):
        digest.update(path.relative_to(_PACKAGE).as_posix().encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def _reachable(module: str) -> list[Path]:
    """The source files of medidiff that a module imports, at its top or inside a function, and what those import."""
    found: set[Path] = set()
    pending = [module]
    while pending:
        name = pending.pop()
        parts = name.split(".")[1:]
        for depth in range(len(parts) + 1):
            path = _source(parts[:depth])
            if path is not None and path not in found:
                found.add(path)
                pending += _imports(path)
    return sorted(found)


def _source(parts: list[str]) -> Path | None:
    place = _PACKAGE.joinpath(*parts)
    for path in (place.with_suffix(".py"), place / "__init__.py"):
        if path.is_file() and place != _PACKAGE:
            return path
    return None


def _imports(path: Path) -> list[str]:
    names = []
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "medidiff":
            names += [str(node.module), *(f"{node.module}.{each.name}" for each in node.names)]
        elif isinstance(node, ast.Import):
            names += [each.name for each in node.names if each.name.split(".")[0] == "medidiff"]
    return names
