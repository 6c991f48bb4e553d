"""Files that appear whole or not at all.

The bytes go to a temporary file beside the target, which is flushed to disk and then renamed over it. A process
killed at any moment leaves the old file or the new one. What it may leave besides, the temporary file, has a name
that ``remove_stale`` recognises.
"""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from medidiff.errors import OutputError

# The target's name comes last, so that writers which look at the suffix see the right one.
_TEMP_NAME = re.compile(r"^\.medidiff-tmp-(?P<pid>\d+)-[0-9a-f]{8}-")

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NOT_WRITABLE = {errno.EACCES, errno.EPERM, errno.EROFS}


@contextmanager
def atomic_file(path: str | os.PathLike[str], *, durable: bool = True) -> Iterator[Path]:
    """A temporary path beside ``path`` that takes its place when the block ends well.

    The suffix is kept. On any exception, an interrupt included, the temporary file is removed and an older file at
    ``path`` stays as it was. A link at ``path`` is followed.

    Args:
        path: The file to make or replace.
        durable: Wait until the disk has it. Without, a power cut may lose the file, a killed process still may not.
    Raises:
        OutputError: the folder is missing or not writable, the disk is full, or ``path`` is not a plain file.
    """
    try:
        target = Path(os.path.realpath(path))
    except ValueError as error:
        raise OutputError(f"cannot write {os.fspath(path)!r}: {error}") from error
    temporary = target.with_name(f".medidiff-tmp-{os.getpid()}-{secrets.token_hex(4)}-{target.name[-100:]}")
    _check_place(target, Path(path))
    try:
        # O_EXCL: nobody can have put a link there. The mode obeys the umask, unlike that of tempfile.
        os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        yield temporary
        if durable:
            _flush(temporary)
        temporary.replace(target)
        if durable:
            _flush_folder(target.parent)
    except OSError as error:
        if _is_about_writing(error, temporary):
            raise OutputError(_explain(error, Path(path))) from error
        raise
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def atomic_write_bytes(path: str | os.PathLike[str], data: bytes | memoryview) -> None:
    """Write ``data`` as the whole content of ``path``.

    Raises:
        OutputError: as ``atomic_file``.
    """
    with atomic_file(path) as temporary:
        temporary.write_bytes(data)


def atomic_write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write ``text`` as UTF-8, line ends as they are.

    Raises:
        OutputError: as ``atomic_file``.
    """
    atomic_write_bytes(path, text.encode("utf-8"))


def atomic_write_json(path: str | os.PathLike[str], value: Any, *, indent: int | None = 2) -> None:
    """Write ``value`` as standard JSON with a final newline.

    Raises:
        OutputError: as ``atomic_file``.
        ValueError: the value holds NaN or infinity.
        TypeError: the value holds something that JSON cannot express.
    """
    atomic_write_text(path, json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False) + "\n")


def is_temporary(path: str | os.PathLike[str]) -> bool:
    """Whether the name is one that ``atomic_file`` gives to its temporary files."""
    return _TEMP_NAME.match(Path(path).name) is not None


def remove_stale(folder: str | os.PathLike[str], *, older_than: float = 3600.0) -> int:
    """Remove temporary files that killed processes left in ``folder`` (not below it).

    A file goes when no process of this machine has the id in its name and nothing was written to it for
    ``older_than`` seconds. The second condition protects a writer on another machine that shares the folder; use 0
    where there is none.

    Returns:
        The number of files removed.
    """
    removed = 0
    for entry in os.scandir(folder):
        match = _TEMP_NAME.match(entry.name)
        if match is None or _is_alive(int(match["pid"])):
            continue
        with suppress(OSError):
            if time.time() - entry.stat(follow_symlinks=False).st_mtime >= older_than:
                Path(entry.path).unlink()
                removed += 1
    return removed


def _check_place(target: Path, named: Path) -> None:
    try:
        mode = target.stat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise OutputError(_explain(error, named)) from error
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "not a plain file"
        raise OutputError(f"cannot write {named}: it is {kind}; name a file")


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _flush_folder(folder: Path) -> None:
    # The rename itself is durable only once the folder is flushed; some network file systems refuse that.
    with suppress(OSError):
        _flush(folder)


def _is_about_writing(error: OSError, temporary: Path) -> bool:
    """Whether the target is to blame, rather than some other file that the block was using."""
    return error.errno in _NO_ROOM or str(temporary) in (str(error.filename), str(error.filename2))


def _explain(error: OSError, path: Path) -> str:
    folder = path.parent
    if error.errno in _NO_ROOM:
        return f"cannot write {path}: no room left on the disk, or over a quota; free some or choose another place"
    if error.errno in _NOT_WRITABLE:
        return f"cannot write {path}: no permission to write in {folder}; choose another place"
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return f"cannot write {path}: there is no folder {folder}; create it first"
    if error.errno == errno.ENAMETOOLONG:
        return f"cannot write {path}: the name is too long"
    return f"cannot write {path}: {error.strerror or error}"


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # it exists and belongs to somebody else
        return True
    return True
