"""Where received objects go: whole, flushed to disk, under names that hold nothing of theirs."""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from medidiff.errors import OutputError
from medidiff.io.atomic import atomic_write_bytes


@dataclass(frozen=True, slots=True)
class FetchReport:
    """What came from a server.

    Args:
        objects: Files written.
        failures: For each series that did not come whole: its UID (not for printing), and why. None of its files stays:
            the first half of a scan would pass for a shorter one.
        whole: UIDs of the series that did (not for printing).
    """

    objects: int
    failures: tuple[tuple[str, str], ...]
    whole: tuple[str, ...] = ()


def put(folder: Path, sop_uid: str, content: bytes) -> Path:
    """Write an object; when this returns, a power cut cannot take it away.

    The name follows from the UID and the content: the same object sent twice is one file, two objects that claim one
    UID are two.

    Raises:
        OutputError: the disk does not take it.
    """
    name = hashlib.sha256(sop_uid.encode() + b"\0" + hashlib.sha256(content).digest()).hexdigest()[:32]
    shelf = folder / name[:2]
    path = shelf / f"{name}.dcm"
    if path.is_file() and path.stat().st_size == len(content):
        return path
    try:
        if not shelf.is_dir():
            shelf.mkdir(mode=0o700, parents=True, exist_ok=True)
            _flush(folder)
    except OSError as error:
        raise OutputError(f"{shelf}: the folder cannot be made: {error.strerror}") from error
    atomic_write_bytes(path, content)
    return path


def _flush(folder: Path) -> None:
    # Some network file systems refuse to flush a folder; the file itself is flushed in any case.
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
