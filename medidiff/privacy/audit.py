"""Searches everything below a folder for given strings, however they are packed, spelled, encoded or drawn.

The audit knows the secrets (from a list or an answer key) and shouts when one is found: in file and folder names, in
plain bytes of five encodings, inside gzip, zip and zlib streams, in SQLite cells, in DICOM attributes, NIfTI headers,
PNG text, base64 runs, and with case, accents, blanks, carets and name order folded away; and, read by OCR, in the
pixels of pictures, DICOM images and volumes. It never prints a secret: findings name the secret by its number. It says
what it did not search.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from medidiff.errors import ConfigError, InputError
from medidiff.privacy import ocr
from medidiff.privacy.audit_inside import (
    MOST_UNPACKED,
    dicom_texts,
    from_base64,
    is_packed,
    is_texty,
    unescaped,
    unpacked,
)
from medidiff.privacy.audit_match import Secrets
from medidiff.privacy.audit_pixels import PixelSearch, holds_picture, search_pixels

_MAX_DEPTH = 4
_CHUNK = 8 << 20
NO_OCR = "pixels were not read: tesseract is not installed"
NOT_ASKED = "pixels were not read: not asked for"
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Finding:
    """A secret was found.

    Args:
        place: File below the root, and the way inside it (``scan.zip!report.json``). If the secret is in the name
            itself the name is masked.
        secret: Number of the secret in the given list.
        how: A fixed word: ``bytes``, ``folded``, ``name``, ``base64``, ``sqlite``, ``dicom``, ``pixels``.
    """

    place: str
    secret: int
    how: str


@dataclass(frozen=True, slots=True)
class AuditReport:
    """What an audit searched and found.

    Args:
        files: Number of files searched.
        secrets: Number of strings searched for.
        findings: Every place where one was found.
        unsearched: Places that could not be opened, with a reason; an audit with any is not a clean bill.
        skipped: Numbers of secrets too short to search for (under four characters).
        pictures: Pictures, DICOM images and volumes met.
        planes: Their planes that were looked at for text.
        read: Planes that OCR read.
        pixels: Why pixels were not searched, though there are pictures; empty if they were, or if there are none.
    """

    files: int
    secrets: int
    findings: tuple[Finding, ...]
    unsearched: tuple[tuple[str, str], ...]
    skipped: tuple[int, ...] = ()
    pictures: int = 0
    planes: int = 0
    read: int = 0
    pixels: str = ""

    @property
    def clean(self) -> bool:
        """Nothing found, and nothing left unsearched but what the caller left out."""
        return not self.findings and not self.unsearched and self.pixels in ("", NOT_ASKED)


def load_secrets(path: str | os.PathLike[str]) -> list[str]:
    """Strings to search for: one a line, or JSON (a list, or an object with ``sensitive_tokens`` and ``planted``).

    Raises:
        ConfigError: the file cannot be read or holds no string.
    """
    try:
        text = Path(path).read_text("utf-8-sig")
        content = json.loads(text) if text.lstrip()[:1] in ("[", "{") else text.splitlines()
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{path}: expected a text file with one string a line, or JSON: {type(error).__name__}"
        ) from error
    if isinstance(content, dict):
        planted = [item.get("string", "") for item in content.get("planted", []) if isinstance(item, dict)]
        content = [*content.get("sensitive_tokens", []), *planted]
    secrets = sorted({str(item).strip() for item in content if str(item).strip()})
    if not secrets:
        raise ConfigError(f"{path}: no string to search for")
    return secrets


def audit_phi(
    root: str | os.PathLike[str],
    secrets: Sequence[str],
    on_progress: Progress | None = None,
    *,
    pixels: bool = True,
) -> AuditReport:
    """Search a file or folder for every secret.

    Args:
        root: What to search.
        secrets: Strings that must not be there, at least four characters each to be searched for.
        on_progress: Called with (files done, files in all).
        pixels: Read pictures, too. Without tesseract they cannot be read: the report says so, and is not clean.
    Raises:
        InputError: the root does not exist.
    """
    place = Path(root)
    if not place.exists():
        raise InputError(f"{place}: there is no such file or folder")
    audit = _Audit(Secrets(secrets), pixels=pixels and ocr.available())
    files = [place] if place.is_file() else _files(place, audit)
    for done, path in enumerate(files):
        if on_progress:
            on_progress(done, len(files))
        name = path.name if place.is_file() else path.relative_to(place).as_posix()
        in_name = audit.secrets.in_text(name)
        audit.found("(a file's name)", in_name, "name")
        shown = "(masked name)" if in_name else name
        try:
            audit.file(path, shown)
        except OSError as error:
            audit.not_searched(shown, error.strerror or "cannot be read")
    done_with = audit.pictures
    left_out = ""
    if done_with.pictures and not audit.pixels:
        left_out = NO_OCR if pixels else NOT_ASKED
    return AuditReport(
        len(files),
        len(secrets),
        tuple(dict.fromkeys(audit.findings)),
        tuple(audit.unsearched),
        audit.secrets.skipped,
        done_with.pictures,
        done_with.planes,
        done_with.read,
        left_out,
    )


def _files(root: Path, audit: _Audit) -> list[Path]:
    """All files below a folder, in order; the folders' names are searched on the way.

    A link is named and not followed: what it leads to may lie outside, and is no part of what is handed on.
    """
    files: list[Path] = []

    def cannot_list(error: OSError) -> None:
        audit.not_searched("(a folder)", f"cannot be listed: {error.strerror}")

    for folder, folders, names in os.walk(root, onerror=cannot_list):
        relative = Path(folder).relative_to(root).as_posix()
        audit.found("(a folder's name)", audit.secrets.in_text(relative), "name")
        for name in (*names, *folders):
            path = Path(folder) / name
            if path.is_symlink():
                audit.found("(a link)", audit.secrets.in_text(f"{relative}/{name} {os.readlink(path)}"), "name")  # noqa: PTH115
                if name in names and path.is_file() and path.resolve().is_relative_to(root.resolve()):
                    continue  # it is met where it lies
                audit.not_searched("(a link)", "leads outside, to a folder, or nowhere")
            elif name in names and path.is_file():
                files.append(path)
            elif name in names:
                audit.not_searched("(no plain file)", "a pipe, a socket or a device")
    return sorted(files)


@dataclass(slots=True)
class _Audit:
    """A search under way."""

    secrets: Secrets
    pixels: bool
    findings: list[Finding] = field(default_factory=list)
    unsearched: list[tuple[str, str]] = field(default_factory=list)
    pictures: PixelSearch = field(default_factory=PixelSearch)

    def found(self, place: str, numbers: Iterable[int], how: str) -> None:
        self.findings += [Finding(place, number, how) for number in sorted(numbers)]

    def not_searched(self, place: str, why: str) -> None:
        self.unsearched.append((place, why))

    def file(self, path: Path, name: str) -> None:
        """A file's bytes, block by block, then what is inside them."""
        with path.open("rb") as stream:
            head = stream.read(16)
            stream.seek(0)
            tail = b""
            while chunk := stream.read(_CHUNK):
                window = tail + chunk
                self.found(name, self.secrets.in_bytes(window), "bytes")
                tail = window[-self.secrets.longest :]
        if head.startswith(b"SQLite format 3\0"):
            self.database(path, name)
        if path.stat().st_size > MOST_UNPACKED:
            self.not_searched(name, "larger than can be searched inside")
            return
        self.inside(path.read_bytes(), name, 0)

    def inside(self, data: bytes, name: str, depth: int, *, shown: bool = True) -> None:
        """What is packed or encoded: archives, streams, DICOM values, text with folding, base64, pictures.

        Args:
            data: Content.
            name: Its place.
            depth: How many packings it lies in.
            shown: Whether its pixels are still to be looked at.
        """
        if depth > _MAX_DEPTH:
            self.not_searched(name, "packed too deep")
            return
        volume = shown and holds_picture(data)
        if volume:
            self.picture(data, name)
        for inner, content in unpacked(data, name, self.not_searched):
            self.found(inner, self.secrets.in_bytes(content), "bytes")
            self.inside(content, inner, depth + 1, shown=not volume)
        if data[128:132] == b"DICM":
            for text in dicom_texts(data):
                self.found(name, self.secrets.in_text(text), "dicom")
        if is_texty(data):
            text = data.decode("utf-8", "replace")
            for piece in dict.fromkeys((text, unescaped(text))):
                self.found(name, self.secrets.in_text(piece), "folded")
            for content in from_base64(data):
                self.found(name, self.secrets.in_bytes(content), "base64")
                if is_packed(content):
                    self.inside(content, f"{name}!base64", depth + 1)

    def picture(self, data: bytes, name: str) -> None:
        if self.pixels:
            numbers = search_pixels(data, name, self.secrets, self.pictures, self.not_searched)
            self.found(name, numbers, "pixels")
        else:
            self.pictures.pictures += 1

    def database(self, path: Path, name: str) -> None:
        """Cells of every table; long values span pages, where a search of the bytes would miss them."""
        try:
            with closing(sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)) as database:
                database.text_factory = bytes
                tables = [
                    row[0].decode("utf-8", "replace")
                    for row in database.execute("select name from sqlite_master where type='table'")
                ]
                for table in tables:
                    quoted = table.replace('"', '""')
                    for row in database.execute(f'select * from "{quoted}"'):  # noqa: S608 - quoted as SQL wants it
                        for cell in row:
                            self.cell(cell if isinstance(cell, bytes) else str(cell).encode(), name)
        except sqlite3.Error as error:
            self.not_searched(name, f"not a readable database: {type(error).__name__}")

    def cell(self, content: bytes, name: str) -> None:
        hits = self.secrets.in_bytes(content) | self.secrets.in_text(content.decode("utf-8", "replace"))
        self.found(name, hits, "sqlite")
        self.inside(content, f"{name}!cell", 1)
