"""Searches everything below a folder for given strings, however they are packed, spelled or encoded.

The audit knows the secrets (from a list or an answer key) and shouts when one is found: in file and folder names, in
plain bytes of five encodings, inside gzip, zip and zlib streams, in SQLite cells, in DICOM attributes, NIfTI headers,
PNG text, base64 runs, and with case, accents, blanks, carets and name order folded away. It never prints a secret:
findings name the secret by its number.
"""

from __future__ import annotations

import base64
import gzip
import json
import os
import re
import sqlite3
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from medidiff.errors import ConfigError, InputError

_ENCODINGS = ("utf-8", "latin-1", "utf-16-le", "utf-16-be", "utf-32-le")
_MAX_DEPTH = 4
# Most bytes that one packed stream may grow to; a larger one is reported as not searched, never as clean.
_MAX_UNPACKED = 4 << 30
_CHUNK = 8 << 20
_SHORTEST = 4
_BASE64 = re.compile(rb"[A-Za-z0-9+/_-]{16,}={0,2}")
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Finding:
    """A secret was found.

    Args:
        place: File below the root, and the way inside it (``scan.zip!report.json``). If the secret is in the name
            itself the name is masked.
        secret: Number of the secret in the given list.
        how: A fixed word: ``bytes``, ``folded``, ``name``, ``base64``, ``sqlite``, ``dicom``.
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
    """

    files: int
    secrets: int
    findings: tuple[Finding, ...]
    unsearched: tuple[tuple[str, str], ...]
    skipped: tuple[int, ...] = ()

    @property
    def clean(self) -> bool:
        """Nothing found, and nothing left unsearched."""
        return not self.findings and not self.unsearched


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


def audit_phi(root: str | os.PathLike[str], secrets: Sequence[str], on_progress: Progress | None = None) -> AuditReport:
    """Search a file or folder for every secret.

    Args:
        root: What to search.
        secrets: Strings that must not be there, at least four characters each to be searched for.
        on_progress: Called with (files done, files in all).
    Raises:
        InputError: the root does not exist.
    """
    place = Path(root)
    if not place.exists():
        raise InputError(f"{place}: there is no such file or folder")
    search = _Search(secrets)
    files = (
        [place] if place.is_file() else [Path(folder) / name for folder, _, names in os.walk(place) for name in names]
    )
    findings: list[Finding] = []
    unsearched: list[tuple[str, str]] = []
    if place.is_dir():
        folders = [Path(folder).relative_to(place).as_posix() for folder, _, _ in os.walk(place)]
        findings += [
            Finding("(a folder's name)", number, "name") for name in folders for number in search.in_text(name)
        ]
    for done, path in enumerate(sorted(files)):
        if on_progress:
            on_progress(done, len(files))
        name = path.name if place.is_file() else path.relative_to(place).as_posix()
        in_name = search.in_text(name)
        findings += [Finding("(a file's name)", number, "name") for number in in_name]
        shown = "(masked name)" if in_name else name
        try:
            _search_file(path, shown, search, findings, unsearched)
        except OSError as error:
            unsearched.append((shown, error.strerror or "cannot be read"))
    return AuditReport(len(files), len(secrets), tuple(dict.fromkeys(findings)), tuple(unsearched), search.skipped)


class _Search:
    """The secrets in all the forms in which they may be met."""

    def __init__(self, secrets: Sequence[str]) -> None:
        self.skipped = tuple(number for number, text in enumerate(secrets) if len(text.strip()) < _SHORTEST)
        forms: dict[bytes, int] = {}
        self.folded: dict[str, int] = {}
        for number, secret in enumerate(secrets):
            text = secret.strip()
            if len(text) < _SHORTEST:
                continue
            for variant in _variants(text):
                for encoding in _ENCODINGS:
                    with suppress(UnicodeEncodeError):
                        forms.setdefault(variant.lower().encode(encoding), number)
            compact = fold(text)
            if len(compact) >= 6:
                self.folded.setdefault(compact, number)
        self.longest = max((len(form) for form in forms), default=1)
        self._forms = forms
        self._pattern = re.compile(
            b"|".join(re.escape(form) for form in sorted(forms, key=len, reverse=True)) or b"(?!)"
        )
        self._folded_pattern = re.compile(
            "|".join(re.escape(form) for form in sorted(self.folded, key=len, reverse=True)) or "(?!)"
        )

    def in_bytes(self, data: bytes) -> set[int]:
        """Secrets that occur in bytes, in any encoding and case (of ASCII letters)."""
        return {self._forms[found.group()] for found in self._pattern.finditer(data.lower())}

    def in_text(self, text: str) -> set[int]:
        """Secrets that occur in text when case, accents, blanks and separators are folded away."""
        found = self.in_bytes(text.encode("utf-8", "surrogateescape"))
        return found | {self.folded[hit.group()] for hit in self._folded_pattern.finditer(fold(text))}


def fold(text: str) -> str:
    """Letters and digits alone, lower case, without accents: ``Müller^Jörg`` and ``MULLER, Jorg`` are one."""
    plain = unicodedata.normalize("NFKD", text).casefold()
    return "".join(letter for letter in plain if letter.isalnum())


def _variants(text: str) -> set[str]:
    """A secret as written, with accents removed, and a person's name in both orders and with other separators."""
    plain = "".join(letter for letter in unicodedata.normalize("NFKD", text) if not unicodedata.combining(letter))
    found = {text, plain, unicodedata.normalize("NFD", text), unicodedata.normalize("NFC", text)}
    parts = [part for part in re.split(r"[\^, ]+", plain) if part]
    if 2 <= len(parts) <= 3 and "^" in text:
        for order in (parts, parts[::-1]):
            found |= {separator.join(order) for separator in ("^", " ", ", ", "_", "-", ",", ".")}
    return {variant for variant in found if len(variant) >= _SHORTEST}


def _search_file(
    path: Path, name: str, search: _Search, findings: list[Finding], unsearched: list[tuple[str, str]]
) -> None:
    with path.open("rb") as stream:
        head = stream.read(16)
        stream.seek(0)
        tail = b""
        while chunk := stream.read(_CHUNK):
            window = tail + chunk
            findings += [Finding(name, number, "bytes") for number in search.in_bytes(window)]
            tail = window[-search.longest :]
    if head.startswith(b"SQLite format 3\0"):
        _search_sqlite(path, name, search, findings, unsearched)
    if path.stat().st_size > _MAX_UNPACKED:
        unsearched.append((name, "larger than can be searched inside"))
        return
    _search_inside(path.read_bytes(), name, search, findings, unsearched, 0)


def _search_inside(
    data: bytes, name: str, search: _Search, findings: list[Finding], unsearched: list[tuple[str, str]], depth: int
) -> None:
    """Look into what is packed or encoded: archives, streams, DICOM values, text with folding, base64."""
    if depth > _MAX_DEPTH:
        unsearched.append((name, "packed too deep"))
        return
    for inner, content in _unpacked(data, name, unsearched):
        findings += [Finding(inner, number, "bytes") for number in search.in_bytes(content)]
        _search_inside(content, inner, search, findings, unsearched, depth + 1)
    if data[128:132] == b"DICM":
        findings += [Finding(name, number, "dicom") for text in _dicom_texts(data) for number in search.in_text(text)]
    if _is_texty(data):
        text = data.decode("utf-8", "replace")
        for piece in (text, _unescaped(text)):
            findings += [Finding(name, number, "folded") for number in search.in_text(piece)]
        for run in _BASE64.findall(data):
            for number in search.in_bytes(_from_base64(run)):
                findings.append(Finding(name, number, "base64"))


def _unpacked(data: bytes, name: str, unsearched: list[tuple[str, str]]) -> Iterator[tuple[str, bytes]]:
    """What is packed in bytes, one part at a time; what cannot be opened is noted as not searched."""
    try:
        if data[:2] == b"\x1f\x8b":
            with gzip.GzipFile(fileobj=BytesIO(data)) as stream:
                yield f"{name}!gz", stream.read(_MAX_UNPACKED)
        elif data[:4] == b"PK\x03\x04":
            yield from _zip_members(data, name, unsearched)
        elif data[:8] == b"\x89PNG\r\n\x1a\n":
            for kind, body in _png_chunks(data):
                if kind in (b"zTXt", b"iTXt", b"iCCP"):
                    yield f"{name}!{kind.decode()}", _inflated(body[max(0, body.find(b"x")) :])
        elif data[:5] == b"%PDF-":
            for number, part in enumerate(re.findall(rb"stream\r?\n(.*?)endstream", data, re.DOTALL)):
                yield f"{name}!stream{number}", _inflated(part)
        elif data[128:132] == b"DICM" and b"1.2.840.10008.1.2.1.99" in data[132:400]:
            yield f"{name}!deflated", _deflated_dicom(data)
    except (OSError, EOFError, zlib.error, zipfile.BadZipFile, RuntimeError, NotImplementedError, ValueError) as error:
        unsearched.append((name, f"cannot be unpacked: {type(error).__name__}"))


def _zip_members(data: bytes, name: str, unsearched: list[tuple[str, str]]) -> Iterator[tuple[str, bytes]]:
    with zipfile.ZipFile(BytesIO(data)) as archive:
        members = archive.infolist()
        yield f"{name}!names", "\n".join(member.filename for member in members).encode()
        for number, member in enumerate(members):
            if member.file_size > _MAX_UNPACKED:
                unsearched.append((f"{name}!{number}", "larger than can be searched inside"))
            elif not member.is_dir():
                yield f"{name}!{number}", archive.read(member)


def _deflated_dicom(data: bytes) -> bytes:
    length = int.from_bytes(data[140:144], "little")
    return zlib.decompressobj(-zlib.MAX_WBITS).decompress(data[144 + length :], _MAX_UNPACKED)


def _inflated(data: bytes) -> bytes:
    with suppress(zlib.error):
        return zlib.decompressobj().decompress(data, _MAX_UNPACKED)
    return data


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    position = 8
    while position + 8 <= len(data):
        length = int.from_bytes(data[position : position + 4], "big")
        yield data[position + 4 : position + 8], data[position + 8 : position + 8 + length]
        position += 12 + length


def _dicom_texts(data: bytes) -> Iterator[str]:
    """Every text value, decoded with the file's own character set, and byte values that may be text."""
    import pydicom

    from medidiff.privacy.deidentify import quiet_pydicom

    with quiet_pydicom():
        try:
            ds = pydicom.dcmread(BytesIO(data), force=True)
            elements = [*ds.file_meta, *ds.iterall()]
        except Exception:  # noqa: BLE001 - pydicom fails in many ways on a damaged file; its bytes were searched already
            return
        for element in elements:
            with suppress(Exception):
                if element.VR == "PN":
                    yield from (
                        str(part) for name in _several(element.value) for part in (name, *_reversed_name(str(name)))
                    )
                elif element.VR not in ("OB", "OW", "UN", "SQ", "OF", "OD"):
                    yield str(element.value)


def _several(value: object) -> list[object]:
    from pydicom.multival import MultiValue

    return list(value) if isinstance(value, (list, MultiValue)) else [value]


def _reversed_name(name: str) -> list[str]:
    parts = [part for part in name.partition("=")[0].split("^") if part]
    return [" ".join(parts[::-1]), " ".join(parts)]


def _search_sqlite(
    path: Path, name: str, search: _Search, findings: list[Finding], unsearched: list[tuple[str, str]]
) -> None:
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
                for row in database.execute(f'select * from "{quoted}"'):  # noqa: S608 - the name is quoted as SQL wants it
                    for cell in row:
                        content = cell if isinstance(cell, bytes) else str(cell).encode()
                        hits = search.in_bytes(content) | search.in_text(content.decode("utf-8", "replace"))
                        findings += [Finding(name, number, "sqlite") for number in hits]
                        _search_inside(content, f"{name}!cell", search, findings, unsearched, 1)
    except sqlite3.Error as error:
        unsearched.append((name, f"not a readable database: {type(error).__name__}"))


def _is_texty(data: bytes) -> bool:
    """Mostly printable, so worth searching as text."""
    sample = data[:4096]
    return bool(sample) and sum(byte >= 32 or byte in (9, 10, 13) for byte in sample) > 0.9 * len(sample)


def _unescaped(text: str) -> str:
    """JSON and HTML escapes undone."""
    import html

    return html.unescape(re.sub(r"\\u([0-9a-fA-F]{4})", lambda found: chr(int(found.group(1), 16)), text))


def _from_base64(run: bytes) -> bytes:
    padded = run.rstrip(b"=").replace(b"-", b"+").replace(b"_", b"/")
    with suppress(ValueError):
        return base64.b64decode(padded + b"=" * (-len(padded) % 4))
    return b""
