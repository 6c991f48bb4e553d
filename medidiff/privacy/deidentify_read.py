"""One DICOM file that nobody has vouched for, read so that it can be cleaned, or set apart with a reason."""

from __future__ import annotations

import zlib
from pathlib import Path

import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from medidiff.io.source import file_sha256
from medidiff.privacy.deidentify import quiet_pydicom
from medidiff.privacy.keys import PrivacyKey
from medidiff.privacy.policy import CannotClean, DeidentifyPolicy

_CHUNK = 1 << 20


def read_for_cleaning(path: Path, policy: DeidentifyPolicy) -> Dataset:
    """Read a DICOM file of bounded size, with or without the 128-byte preamble.

    Raises:
        CannotClean: a link or special file, too large, not DICOM, or damaged.
    """
    _check_file(path, policy)
    with quiet_pydicom(), path.open("rb") as stream:
        start = stream.read(132)
        stream.seek(0)
        forced = start[128:] != b"DICM"
        if forced and not _begins_like_dicom(start):
            raise CannotClean("not-dicom", "the file does not begin as a DICOM file does")
        try:
            _check_inflation(path, policy.max_bytes)
            ds = pydicom.dcmread(stream, force=forced)
            if "TransferSyntaxUID" not in ds.file_meta:
                implicit, little = ds.original_encoding
                ds.file_meta.TransferSyntaxUID = _syntax(bool(implicit), bool(little))
        except CannotClean:
            raise
        except Exception as error:  # pydicom fails in many ways on a damaged file
            raise CannotClean(
                "damaged", "the file breaks off or contradicts itself; no DICOM reader can be sure of it"
            ) from error
    return ds


def content_token(path: Path, policy: DeidentifyPolicy, key: PrivacyKey) -> str:
    """Keyed hash of a file's bytes.

    Raises:
        CannotClean: a link or special file, too large, or not readable.
    """
    _check_file(path, policy)
    try:
        return key.token("content", bytes.fromhex(file_sha256(path)), 32)
    except OSError as error:
        raise CannotClean("unreadable", f"the file cannot be read: {error.strerror}") from error


def _check_file(path: Path, policy: DeidentifyPolicy) -> None:
    if path.is_symlink() or not path.is_file():
        raise CannotClean("not-a-file", "links and special files are not followed")
    if path.stat().st_size > policy.max_bytes:
        raise CannotClean("too-large", f"the file is larger than the limit of {policy.max_bytes} bytes")


def _begins_like_dicom(start: bytes) -> bool:
    """A dataset without preamble: a first tag of group 0002 or 0008, either byte order, and a plausible length."""
    return len(start) >= 16 and start[:2] in (b"\2\0", b"\x08\0", b"\0\x08") and start[4:6] != b"\0\0"


def _check_inflation(path: Path, limit: int) -> None:
    """Refuse a deflated dataset that would grow beyond the limit, before anything inflates it."""
    with path.open("rb") as stream:
        if stream.read(132)[128:] != b"DICM":
            return
        meta = pydicom.filereader.read_file_meta_info(path)
        if meta.get("TransferSyntaxUID") != "1.2.840.10008.1.2.1.99":
            return
        stream.seek(132 + 12 + int(meta.FileMetaInformationGroupLength))
        inflater, total = zlib.decompressobj(-zlib.MAX_WBITS), 0
        while chunk := stream.read(_CHUNK):
            while chunk:
                total += len(inflater.decompress(chunk, _CHUNK))
                if total > limit:
                    raise CannotClean("too-large", f"the deflated dataset grows beyond the limit of {limit} bytes")
                chunk = inflater.unconsumed_tail


def _syntax(implicit: bool, little: bool) -> UID:
    if implicit:
        return ImplicitVRLittleEndian
    return ExplicitVRLittleEndian if little else ExplicitVRBigEndian
