"""Opening files that may be hostile: plain files only, never more bytes than were asked for."""

from __future__ import annotations

import bz2
import errno
import gzip
import hashlib
import os
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

from medidiff.errors import InputError
from medidiff.io.safety import DEFLATE_RATIO, human_bytes

GZIP_MAGIC = b"\x1f\x8b"

# Enough for every fixed header (NIfTI-2: 540 bytes) and for the text header of a NRRD.
HEAD_BYTES = 64 * 1024

# What the decoders raise on damaged streams; EOFError is a stream that stops too early.
_DAMAGE = (zlib.error, gzip.BadGzipFile, EOFError, ValueError)


@dataclass(frozen=True, slots=True)
class Source:
    """A plain file, perhaps compressed, and the beginning of its content.

    Args:
        path: The file.
        size: Bytes on disk.
        compression: ``""``, ``"gzip"`` or ``"bzip2"``.
        head: The first bytes of the uncompressed content, at most ``HEAD_BYTES``.
    """

    path: Path
    size: int
    compression: str
    head: bytes

    def most_bytes(self, start: int = 0, compression: str | None = None) -> int:
        """The largest content that this file can possibly hold after byte ``start``, without decompressing it."""
        on_disk = max(self.size - start, 0)
        codec = self.compression if compression is None else compression
        # bzip2 packs runs without a useful bound; there the memory budget alone decides.
        return {"": on_disk, "gzip": on_disk * DEFLATE_RATIO}.get(codec, 2**62)


def exists(path: Path) -> bool:
    """Whether something is there; unlike ``Path.exists``, a name that cannot be is no exception."""
    return os.path.exists(path)  # noqa: PTH110


def is_folder(path: Path) -> bool:
    """Whether a folder is there; unlike ``Path.is_dir``, a name that cannot be is no exception."""
    return os.path.isdir(path)  # noqa: PTH112


def refuse_root(path: Path) -> None:
    """A whole file system is no scan and no heap of scans: it would be walked for hours, devices and all.

    Raises:
        InputError: the path is the root of the file system.
    """
    if os.path.realpath(path) == os.path.realpath(os.sep):
        raise InputError(f"{path} is the root of the file system; name the folder that holds the scans")


def open_source(path: str | os.PathLike[str]) -> Source:
    """Look at a file without trusting it.

    Raises:
        InputError: there is no such file, it is empty, not readable, not a plain file, or its compression is damaged.
    """
    where = Path(path)
    with _open_plain(where) as file:
        size = os.fstat(file.fileno()).st_size
        if size == 0:
            raise InputError(f"{where} is empty")
        start = read_up_to(file, len(GZIP_MAGIC), where)
    compression = "gzip" if start == GZIP_MAGIC else ""
    with open_stream(where, compression=compression) as stream:
        head = read_up_to(stream, HEAD_BYTES, where)
    return Source(where, size, compression, head)


@contextmanager
def open_stream(path: Path, *, start: int = 0, compression: str = "") -> Iterator[IO[bytes]]:
    """The uncompressed content of a plain file that begins at byte ``start`` on disk.

    Raises:
        InputError: the file cannot be opened.
    """
    with _open_plain(path) as file:
        file.seek(start)
        if compression == "gzip":
            with gzip.GzipFile(fileobj=file, mode="rb") as stream:
                yield cast(IO[bytes], stream)
        elif compression == "bzip2":
            with bz2.BZ2File(file, mode="rb") as stream:
                yield cast(IO[bytes], stream)
        else:
            yield file


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hex.

    Raises:
        OSError: it cannot be read, or is no plain file: a pipe or a device would be read without end.
    """
    with open(path, "rb", opener=_plain_only) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _plain_only(path: str, flags: int) -> int:
    descriptor = os.open(path, flags | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "no plain file")
    return descriptor


def read_into(stream: IO[bytes], buffer: memoryview, path: Path) -> int:
    """Fill a buffer of bytes as far as the stream goes; the number of bytes read.

    Raises:
        InputError: the compressed data is damaged.
    """
    done = 0
    try:
        while done < len(buffer):
            # Not readinto: at a missing end that one throws away what came before it.
            count = stream.readinto1(buffer[done:])  # type: ignore[attr-defined]
            if not count:
                break
            done += count
    except EOFError:  # a compressed stream without its end: the caller counts what came
        return done
    except (OSError, *_DAMAGE) as error:
        raise _damaged(path, error) from error
    return done


def read_up_to(stream: IO[bytes], count: int, path: Path) -> bytes:
    """At most ``count`` bytes.

    Raises:
        InputError: the compressed data is damaged.
    """
    buffer = bytearray(count)
    return bytes(buffer[: read_into(stream, memoryview(buffer), path)])


def skip(stream: IO[bytes], count: int, path: Path) -> None:
    """Go ``count`` bytes ahead.

    Raises:
        InputError: the stream ends before.
    """
    chunk = bytearray(min(count, 1 << 20))
    left = count
    while left > 0:
        done = read_into(stream, memoryview(chunk)[: min(left, len(chunk))], path)
        if done == 0:
            raise InputError(
                f"{path} is cut short: its data should begin at byte {count}, the file ends {human_bytes(left)} before"
            )
        left -= done


def check_end(stream: IO[bytes], path: Path) -> None:
    """Let a compressed stream verify its checksum: one more byte is read, and nothing else.

    Bytes after the voxels are no error; several tools pad their files.

    Raises:
        InputError: the checksum does not fit the data.
    """
    try:
        stream.read(1)
    except EOFError as error:
        raise InputError(f"{path} is cut short: its compressed data has no end; copy it again") from error
    except (OSError, *_DAMAGE) as error:
        if "not a gzipped file" not in str(error).lower():  # something that is no gzip follows a sound one
            raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> InputError:
    wrong_sum = isinstance(error, gzip.BadGzipFile) and ("CRC" in str(error) or "length" in str(error))
    what = "its checksum does not fit its data" if wrong_sum else f"its data cannot be read ({error})"
    return InputError(f"{path} is damaged: {what}; copy it again")


def _open_plain(path: Path) -> IO[bytes]:
    try:
        # Without O_NONBLOCK, opening a FIFO waits for a writer for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise InputError(f"there is no file {path}") from None
    except PermissionError:
        raise InputError(f"no permission to read {path}") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be opened: {getattr(error, 'strerror', None) or error}") from error
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        kind = "a folder" if stat.S_ISDIR(mode) else "a device, pipe or socket"
        raise InputError(f"{path} is {kind}, not a file")
    return os.fdopen(descriptor, "rb")
