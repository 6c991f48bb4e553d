"""Zip archives from anywhere: nothing outside the folder, no links, no more bytes than agreed."""

from __future__ import annotations

import calendar
import os
import shutil
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from medidiff.errors import BudgetError, InputError, OutputError
from medidiff.io.atomic import atomic_file
from medidiff.io.safety import DEFLATE_RATIO, GIB, human_bytes
from medidiff.io.source import open_source

_CHUNK_BYTES = 1 << 20
_END_RECORD = struct.Struct("<4s4H2LH")
_END64_LOCATOR = struct.Struct("<4sLQL")
_END64_RECORD = struct.Struct("<4sQ2H2L4Q")
_END_MAGIC, _LOCATOR_MAGIC = b"PK\x05\x06", b"PK\x06\x07"
_ENCRYPTED = 0x1


@dataclass(frozen=True, slots=True)
class ArchiveLimits:
    """What an archive may unpack to.

    Args:
        members: Most files and folders.
        member_bytes: Most bytes of one file.
        total_bytes: Most bytes of all files together.
    """

    members: int = 200_000
    member_bytes: int = 8 * GIB
    total_bytes: int = 64 * GIB


@dataclass(frozen=True, slots=True)
class Member:
    """A file in an archive.

    Args:
        index: Its place in the archive's directory.
        path: Where it goes, relative to the folder it is unpacked into; None if it may not be unpacked.
        size: Declared bytes.
        refused: Why it may not be unpacked; empty if it may. Never holds the name, which may hold a person's.
    """

    index: int
    path: PurePosixPath | None
    size: int
    refused: str = ""


DEFAULT_LIMITS = ArchiveLimits()


def list_zip(path: str | os.PathLike[str], limits: ArchiveLimits = DEFAULT_LIMITS) -> list[Member]:
    """The files of an archive, folders left out, each with where it would go or why it would not.

    Raises:
        InputError: it is no zip archive, or is damaged.
        BudgetError: it declares more files or bytes than the limits allow.
    """
    where = Path(path)
    with _open(where, limits) as archive:
        return _members(archive, where, limits)


def extract_zip(
    path: str | os.PathLike[str],
    folder: str | os.PathLike[str],
    *,
    limits: ArchiveLimits = DEFAULT_LIMITS,
    wanted: Callable[[Member], bool] | None = None,
) -> list[tuple[Member, Path | None]]:
    """Unpack an archive below ``folder``. One bad member does not keep the others from being unpacked.

    Args:
        path: The archive.
        folder: Where to; made if missing.
        limits: What it may unpack to.
        wanted: Leave out the members for which this is false.
    Returns:
        Each member and the file it became, or None where it was refused, for the reason that the member gives.
    Raises:
        InputError: it is no zip archive, or its directory is damaged.
        BudgetError: it declares more than the limits allow; nothing was unpacked.
        OutputError: the folder cannot be written.
    """
    where, root = Path(path), Path(folder)
    done: list[tuple[Member, Path | None]] = []
    with _open(where, limits) as archive:
        infos = archive.infolist()
        for member in _members(archive, where, limits):
            if wanted is not None and not wanted(member):
                continue
            done.append(_extract_one(archive, infos[member.index], member, root))
    return done


def safe_relative(name: str) -> PurePosixPath | None:
    """A member's name as a path that stays below the folder it is put into; None if it cannot be made one."""
    parts = name.replace("\\", "/").split("/")
    absolute = name.startswith(("/", "\\")) or (len(name) > 1 and name[1] == ":")
    if absolute or ".." in parts or len(parts) > 64:
        return None
    kept = [part for part in parts if part not in ("", ".")]
    if not kept or any(len(part.encode("utf-8", "replace")) > 255 for part in kept):
        return None
    if any(not part.isprintable() or part.startswith(".medidiff-tmp-") for part in kept):
        return None
    return PurePosixPath(*kept)


def _open(path: Path, limits: ArchiveLimits) -> zipfile.ZipFile:
    open_source(path)  # a plain file, readable, not empty
    # zipfile builds an object for every entry at once, so the directory's size is looked at first.
    entry_bytes = 46 + 512
    if _directory_bytes(path) > limits.members * entry_bytes:
        raise BudgetError(f"{path} declares more than {limits.members} members; split it")
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, ValueError, OSError, struct.error, NotImplementedError) as error:
        raise InputError(f"{path} is a damaged zip archive ({error}); copy it again") from error
    if len(archive.infolist()) > limits.members:
        archive.close()
        raise BudgetError(f"{path} declares more than {limits.members} members; split it")
    return archive


def _directory_bytes(path: Path) -> int:
    """Size of the central directory as the end record declares it, the 64-bit one where there is one."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - _END_RECORD.size - 65535, 0))
        tail = file.read()
        at = tail.rfind(_END_MAGIC)
        if at < 0 or len(tail) - at < _END_RECORD.size:
            raise InputError(f"{path} is a damaged zip archive: its end is missing; copy it again")
        declared = int(_END_RECORD.unpack_from(tail, at)[5])
        locator = at - _END64_LOCATOR.size
        if locator >= 0 and tail[locator : locator + 4] == _LOCATOR_MAGIC:
            file.seek(min(_END64_LOCATOR.unpack_from(tail, locator)[2], size))
            record = file.read(_END64_RECORD.size)
            if len(record) == _END64_RECORD.size:
                declared = max(declared if declared < 2**32 - 1 else 0, int(_END64_RECORD.unpack(record)[8]))
    return min(declared, size)


def _members(archive: zipfile.ZipFile, path: Path, limits: ArchiveLimits) -> list[Member]:
    taken: set[str] = set()
    members = []
    for index, info in enumerate(archive.infolist()):
        if info.is_dir():
            continue
        target = safe_relative(info.filename)
        refused = _why_not(info, target, taken, limits)
        members.append(Member(index, None if refused else target, info.file_size, refused))
    total = sum(member.size for member in members if not member.refused)
    if total > limits.total_bytes:
        raise BudgetError(
            f"{path} would unpack to {human_bytes(total)}, the limit is {human_bytes(limits.total_bytes)}; split it"
        )
    return members


def _why_not(info: zipfile.ZipInfo, target: PurePosixPath | None, taken: set[str], limits: ArchiveLimits) -> str:
    kind = stat.S_IFMT(info.external_attr >> 16)
    packed = info.compress_type == zipfile.ZIP_DEFLATED
    limit = limits.member_bytes
    key = str(target).casefold()
    checks = (
        (kind not in (0, stat.S_IFREG), "it is a link or a device"),
        (target is None, "its name leads out of the archive or cannot be used"),
        (bool(info.flag_bits & _ENCRYPTED), "it is encrypted"),
        (info.file_size > limit, f"it declares {human_bytes(info.file_size)}, the limit is {human_bytes(limit)}"),
        (packed and info.file_size > (info.compress_size + 1) * DEFLATE_RATIO, "it declares more than it can hold"),
        (key in taken, "its name is there twice"),
    )
    reason = next((text for true, text in checks if true), "")
    if not reason:
        taken.add(key)
    return reason


def _extract_one(
    archive: zipfile.ZipFile, info: zipfile.ZipInfo, member: Member, root: Path
) -> tuple[Member, Path | None]:
    if member.path is None:
        return member, None
    target = root / member.path
    try:
        if not target.parent.resolve().is_relative_to(root.resolve()):  # a link that lay there before
            return _refuse(member, "a link in the folder leads elsewhere")
        _make_folder(target.parent)
        if target.is_dir():
            return _refuse(member, "its name is both a file and a folder")
        # What is unpacked can be unpacked again: flushing 100,000 small files to disk would buy nothing.
        # zipfile gives no byte more than declared, and checks the sum of those it gives.
        with (
            archive.open(info) as stream,
            atomic_file(target, durable=False) as temporary,
            temporary.open("wb") as file,
        ):
            shutil.copyfileobj(stream, file, _CHUNK_BYTES)
        os.utime(target, ns=(0, _changed_ns(info)))
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, NotImplementedError, RuntimeError) as error:
        return _refuse(member, f"it is damaged ({type(error).__name__})")
    except (FileExistsError, NotADirectoryError):
        return _refuse(member, "its name is both a file and a folder")
    return member, target


def _changed_ns(info: zipfile.ZipInfo) -> int:
    """A time of change, ns, that is the same whenever a member is unpacked, and another for other content.

    The member's own time knows two seconds; its checksum takes the place of what is finer.
    """
    try:
        seconds = calendar.timegm((*info.date_time, 0, 1, -1))
    except (ValueError, OverflowError):
        seconds = 0
    return max(seconds, 0) * 1_000_000_000 + info.CRC % 1_000_000_000


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise
    except OSError as error:
        raise OutputError(f"cannot make the folder {folder}: {error.strerror or error}") from error


def _refuse(member: Member, reason: str) -> tuple[Member, None]:
    return Member(member.index, None, member.size, reason), None
