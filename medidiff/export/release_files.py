"""What a release folder holds, and whether it still does: hashes and marks of every file."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from medidiff.errors import InputError
from medidiff.io.source import file_sha256
from medidiff.synthetic.marks import nifti_is_marked

SUMS = "SHA256SUMS"
# Lists of names and hashes, in forms that leave no room for a word.
_UNMARKED = frozenset({SUMS, ".bidsignore"})
_TEXTS = frozenset({".json", ".md", ".tsv", ".csv", ".html"})
_LINE = re.compile(r"^([0-9a-f]{64})  (.+)$")
_WORD = b"synthetic"


def write_sums(folder: Path) -> None:
    """Write ``SHA256SUMS`` of all that lies below ``folder``, as ``sha256sum -c`` reads it."""
    lines = [f"{_digest(folder / name)}  {name}" for name in files_below(folder) if name != SUMS]
    (folder / SUMS).write_text("\n".join(lines) + "\n", encoding="utf-8")


def release_faults(folder: Path) -> list[str]:
    """Everything in which a release folder is not as it was made: files and marks; empty if all is well.

    Raises:
        InputError: it is no release.
    """
    try:
        lines = (folder / SUMS).read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{folder}: no release there (no {SUMS})") from error
    sums: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        match = _LINE.match(line)
        if match is None:
            raise InputError(f"{folder / SUMS}:{number}: not a line of sha256sum")
        sums[match[2]] = match[1]
    there = [name for name in files_below(folder) if name != SUMS]
    faults = [f"{name}: missing" for name in sorted(sums.keys() - set(there))]
    faults += [f"{name}: not part of the release" for name in there if name not in sums]
    faults += [f"{name}: altered" for name in there if name in sums and _digest(folder / name) != sums[name]]
    return faults + unmarked(folder)


def unmarked(folder: Path) -> list[str]:
    """Files below ``folder`` that do not say that they are synthetic."""
    return [f"{name}: not marked as synthetic" for name in files_below(folder) if not _is_marked(folder / name)]


def files_below(folder: Path) -> list[str]:
    """Paths of all that is no folder, relative, with forward slashes, in order."""

    def walk() -> Iterator[str]:
        for parent, folders, files in os.walk(folder):
            links = [name for name in folders if (Path(parent) / name).is_symlink()]
            for name in (*files, *links):
                yield (Path(parent) / name).relative_to(folder).as_posix()

    return sorted(walk())


def _is_marked(path: Path) -> bool:
    if path.name in _UNMARKED:
        return True
    if path.is_symlink() or not path.is_file():
        return False
    if path.name.endswith(".nii.gz"):
        with path.open("rb") as stream:
            return nifti_is_marked(stream.read(1 << 16))
    if path.suffix == ".dcm":
        return _dicom_is_marked(path)
    return path.suffix in _TEXTS and (_WORD in path.name.encode() or _WORD in path.read_bytes().lower())


def _dicom_is_marked(path: Path) -> bool:
    import pydicom

    from medidiff.export.dicom import is_marked

    try:
        return is_marked(pydicom.dcmread(path, stop_before_pixels=True))
    except Exception:  # noqa: BLE001 - a file that pydicom cannot read shows no mark, however it fails
        return False


def _digest(path: Path) -> str:
    return "" if path.is_symlink() or not path.is_file() else file_sha256(path)
