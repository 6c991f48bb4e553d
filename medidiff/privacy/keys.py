"""One secret per project, from which every pseudonym, UID and date shift is made.

HMAC-SHA256 with a label for each purpose: the same patient gets the same pseudonym on every run, on every machine
that has the key, and nobody without the key can test a guess. The key file lives outside the dataset.
"""

from __future__ import annotations

import base64
import hmac
import os
import re
import secrets
import stat
import sys
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from uuid import UUID

from medidiff.errors import ConfigError, OutputError

_HEADER = "medidiff privacy key 1"
_KEY_BYTES = 32
# Longest key file that is read: the header line and 64 hexadecimal digits, with room for line ends.
_MAX_FILE = 256

_DATE_LIKE = re.compile(r"(?:19|20)\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])")

# Shifts go 1 to 10 years back, so that no clean scan lies in the future, and 1 to 23 hours besides, so that the time
# of day, which can be matched with a hospital's worklist, changes too.
_MIN_DAYS, _RANGE_DAYS = 366, 3287
_MIN_SECONDS, _RANGE_SECONDS = 3600, 79200


@dataclass(frozen=True, slots=True)
class PrivacyKey:
    """The secret behind pseudonyms. Never printed, never logged, never written into a dataset.

    Args:
        secret: 32 random bytes.
    Raises:
        ConfigError: the secret has another length.
    """

    secret: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.secret) != _KEY_BYTES:
            raise ConfigError(f"a privacy key has {_KEY_BYTES} bytes, got {len(self.secret)}")

    @classmethod
    def generate(cls) -> PrivacyKey:
        """A fresh random key that exists in memory only."""
        return cls(secrets.token_bytes(_KEY_BYTES))

    @classmethod
    def create(cls, path: str | os.PathLike[str]) -> PrivacyKey:
        """Make a key file with mode 0600; never overwrites one, because that would cut all later scans off.

        Raises:
            OutputError: the file exists already or cannot be written.
        """
        key = cls.generate()
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except FileExistsError as error:
            raise OutputError(f"{path}: there is a file already; a key is never overwritten") from error
        except OSError as error:
            raise OutputError(f"{path}: the key file cannot be made: {error.strerror}") from error
        with os.fdopen(descriptor, "w", encoding="ascii") as stream:
            stream.write(f"{_HEADER}\n{key.secret.hex()}\n")
            stream.flush()
            os.fsync(stream.fileno())
        return key

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> PrivacyKey:
        """Read a key file.

        Raises:
            ConfigError: missing, not a key file, or readable by others than its owner.
        """
        try:
            with Path(path).open("rb") as stream:
                mode = stat.S_IMODE(os.fstat(stream.fileno()).st_mode)
                content = stream.read(_MAX_FILE + 1)
        except OSError as error:
            raise ConfigError(f"{path}: the privacy key cannot be read: {error.strerror}") from error
        if sys.platform != "win32" and mode & 0o077:
            raise ConfigError(f"{path}: the privacy key is open to other users (mode {mode:o}); run chmod 600 on it")
        lines = content.decode("ascii", "replace").split()
        text = lines[-1] if lines else ""
        if not content.startswith(_HEADER.encode()) or not re.fullmatch(f"[0-9a-f]{{{2 * _KEY_BYTES}}}", text):
            raise ConfigError(f"{path}: not a medidiff privacy key; expected the line {_HEADER!r} and 64 hex digits")
        return cls(bytes.fromhex(text))

    @classmethod
    def load_or_create(
        cls, path: str | os.PathLike[str], *, outside: str | os.PathLike[str] | None = None
    ) -> PrivacyKey:
        """The key of ``path``, made on first use.

        Raises:
            ConfigError: the path lies inside the folder ``outside``, or holds something else.
        """
        if outside is not None and Path(path).resolve().is_relative_to(Path(outside).resolve()):
            raise ConfigError(f"{path}: the key must lie outside the dataset {outside}, else sharing one shares both")
        return cls.load(path) if Path(path).exists() else cls.create(path)

    def digest(self, purpose: str, text: str | bytes) -> bytes:
        """HMAC-SHA256 of ``text`` for one purpose; the label keeps purposes apart. 32 bytes."""
        message = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
        return hmac.digest(self.secret, purpose.encode("ascii") + b"\0" + message, "sha256")

    def token(self, purpose: str, text: str | bytes, length: int = 12) -> str:
        """Base32 letters and digits (lower case), 5 bits each: safe in file names and in DICOM."""
        return base64.b32encode(self.digest(purpose, text)).decode("ascii").lower()[:length]

    def pseudonym(self, patient: str) -> str:
        """The pseudonymous patient ID, ``MD`` and 12 characters (60 bits)."""
        return "MD" + self.token("patient", patient).upper()

    def uid(self, uid: str) -> str:
        """A DICOM UID (2.25. and a version-8 UUID as a decimal number, PS3.5 B.2) in place of another.

        No part of it reads as a date: an audit for a birth date would stumble over one in every few thousand UIDs.
        """
        for attempt in range(256):
            digest = bytearray(self.digest("uid", f"{uid}#{attempt}" if attempt else uid)[:16])
            digest[6] = (digest[6] & 0x0F) | 0x80
            digest[8] = (digest[8] & 0x3F) | 0x80
            number = str(UUID(bytes=bytes(digest)).int)
            if not _DATE_LIKE.search(number):
                break
        return f"2.25.{number}"

    def shift(self, patient: str) -> timedelta:
        """How far this patient's dates and times move: back by 1 to 10 years and 1 to 23 hours, never zero."""
        digest = self.digest("dates", patient)
        days = _MIN_DAYS + int.from_bytes(digest[:8]) % _RANGE_DAYS
        seconds = _MIN_SECONDS + int.from_bytes(digest[8:16]) % _RANGE_SECONDS
        return -timedelta(days=days, seconds=seconds)
