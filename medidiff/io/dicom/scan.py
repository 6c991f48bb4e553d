"""From folders to headers: every file is looked at once, in parallel where there are many."""

from __future__ import annotations

import multiprocessing
import os
import stat
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from itertools import islice

from medidiff.io.dicom.header import read_header
from medidiff.io.dicom.model import InstanceHeader
from medidiff.io.dicom.reasons import Reason, SetAside
from medidiff.io.safety import default_budget

Found = InstanceHeader | SetAside
PathLike = str | os.PathLike[str]
_Reader = Callable[[list[str | SetAside]], list[Found]]

# Starting processes costs about a second: below this many files one process is done sooner.
WORTH_PROCESSES = 2000
_CHUNK = 250
_MOST_WORKERS = 8


def index(
    paths: PathLike | Iterable[PathLike],
    *,
    workers: int | None = None,
    budget: int | None = None,
    localizers: bool = False,
) -> Iterator[Found]:
    """Read the headers of files and of everything below folders, up to the pixels.

    Results come in the order of the paths, whatever the number of workers. Nothing is held but what the caller
    keeps: a classic file's record takes about two kilobytes.

    Args:
        paths: A file or folder, or several. Links to folders are not followed.
        workers: Processes; None for as many as are worth while.
        budget: Bytes that one object's voxels may take; ``default_budget()`` if None.
        localizers: Take scouts for scans.
    Returns:
        For each file its header, or why it is no part of a scan.
    """
    read = partial(_read, budget=default_budget() if budget is None else budget, localizers=localizers)
    files = walk(paths)
    first = list(islice(files, WORTH_PROCESSES))
    count = min(os.cpu_count() or 1, _MOST_WORKERS) if workers is None else workers
    if count <= 1 or (len(first) < WORTH_PROCESSES and workers is None):
        for path in _chain(first, files):
            yield read(path)
        return
    yield from _in_processes(_chain(first, files), count, partial(_read_chunk, read=read))


def walk(paths: PathLike | Iterable[PathLike]) -> Iterator[str | SetAside]:
    """Every file, a folder's own before those below it, in order of names; a ``SetAside`` for what cannot be listed."""
    listed = [paths] if isinstance(paths, (str, os.PathLike)) else paths
    for path in listed:
        name = os.fspath(path)
        kind = _kind(name)
        if kind == stat.S_IFDIR:
            yield from _walk_folder(name)
        elif kind == stat.S_IFREG:
            yield name
        elif kind is None:
            yield SetAside(name, Reason.UNREADABLE, "there is no such file or folder")
        else:
            # A named pipe would be waited for without end.
            yield SetAside(name, Reason.UNREADABLE, "neither a file nor a folder")


def _kind(path: str) -> int | None:
    """What a path leads to; None for nothing (a broken or circular link, an impossible name)."""
    try:
        return stat.S_IFMT(os.stat(path).st_mode)  # noqa: PTH116 - a string may be no valid Path
    except (OSError, ValueError):
        return None


def _walk_folder(folder: str) -> Iterator[str | SetAside]:
    # A list, not recursion: folders can nest deeper than Python's stack.
    waiting = [folder]
    while waiting:
        current = waiting.pop()
        try:
            with os.scandir(current) as entries:
                listed = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            yield SetAside(current, Reason.UNREADABLE, f"the folder cannot be listed ({error.strerror})")
            continue
        below = []
        for entry in listed:
            if entry.is_dir(follow_symlinks=False):
                below.append(entry.path)
            elif entry.is_file(follow_symlinks=False) or _kind(entry.path) == stat.S_IFREG:
                yield entry.path
            else:
                text = "a broken link, a link to a folder, or no plain file"
                yield SetAside(entry.path, Reason.UNREADABLE, text)
        waiting.extend(reversed(below))


def _read(path: str | SetAside, budget: int, localizers: bool) -> Found:
    return read_header(path, budget, localizers=localizers) if isinstance(path, str) else path


def _read_chunk(paths: list[str | SetAside], read: Callable[[str | SetAside], Found]) -> list[Found]:
    return [read(path) for path in paths]


def _chain(first: list[str | SetAside], rest: Iterator[str | SetAside]) -> Iterator[str | SetAside]:
    yield from first
    yield from rest


def _in_processes(files: Iterator[str | SetAside], workers: int, read: _Reader) -> Iterator[Found]:
    """Chunks in order, no more than a few ahead of the reader: memory does not grow with the heap."""
    chunks: deque[tuple[list[str | SetAside], Future[list[Found]] | None]] = deque()
    # Forking a process that runs threads (torch, Prefect) can hang it: a fork server has none.
    context = multiprocessing.get_context("forkserver")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        while True:
            while len(chunks) < 3 * workers:
                chunk = list(islice(files, _CHUNK))
                if not chunk:
                    break
                chunks.append((chunk, _submit(pool, read, chunk)))
            if not chunks:
                return
            chunk, future = chunks.popleft()
            yield from _result(chunk, future, read)


def _submit(pool: ProcessPoolExecutor, read: _Reader, chunk: list[str | SetAside]) -> Future[list[Found]] | None:
    try:
        return pool.submit(read, chunk)
    except BrokenProcessPool:
        return None


def _result(chunk: list[str | SetAside], future: Future[list[Found]] | None, read: _Reader) -> list[Found]:
    try:
        if future is not None:
            return future.result()
    except BrokenProcessPool:
        pass
    # A worker was killed (memory, most often): what it had is read here, one file at a time.
    return read(chunk)
