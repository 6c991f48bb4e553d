"""Where results go: names that follow from the source's, and places that are refused before minutes are spent."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable
from pathlib import Path

from medidiff.errors import OutputError, TargetError
from medidiff.io.formats import writer_for
from medidiff.io.source import exists, is_folder

SUFFIXES = (".nii.gz", ".nii", ".mgz", ".mgh", ".nrrd", ".nhdr", ".hdr", ".img", ".h5", ".hdf5", ".npy")


def split_name(path: Path) -> tuple[str, str]:
    """File name without and with its whole suffix: ``scan.nii.gz`` -> (``scan``, ``.nii.gz``)."""
    for suffix in SUFFIXES:
        if path.name.lower().endswith(suffix):
            return path.name[: -len(suffix)], path.name[-len(suffix) :]
    return path.name, ""


def beside(target: Path, tag: str, suffix: str | None = None) -> Path:
    """A companion of a volume: ``out.nii.gz`` with tag ``_spread`` -> ``out_spread.nii.gz``.

    Raises:
        TargetError: there is no name.
    """
    if not target.name or target.name == "..":
        raise TargetError(f"cannot write to {str(target)!r}: name a file")
    stem, own = split_name(target)
    return target.with_name(f"{stem}{tag}{own if suffix is None else suffix}")


def default_output(source: Path) -> Path:
    """Beside the source, so that the result is found where it is looked for."""
    if source.name in ("", ".."):  # the folder that one stands in has a name all the same
        source = source.resolve()
    stem, suffix = split_name(source)
    return source.with_name(f"{stem}_medidiff{suffix if suffix in ('.mgz', '.nrrd') else '.nii.gz'}")


def check_targets(volumes: Iterable[Path], others: Iterable[Path], source: Path | None = None) -> None:
    """Refuse what cannot be written.

    Args:
        volumes: Names that must end as a volume does.
        others: Records, pictures, pages.
        source: The input, which is never overwritten.
    Raises:
        TargetError: unknown suffix, no such folder, two results under one name, or the source's.
        OutputError: no permission to write there.
    """
    volumes, taken = tuple(volumes), set[str]()
    for path in volumes:
        writer_for(path)
    for path in (*volumes, *others):
        folder = path.parent
        if not is_folder(folder):
            raise TargetError(f"cannot write {path}: there is no folder {folder}; create it first")
        if is_folder(path):
            raise TargetError(f"cannot write {path}: it is a folder; name a file")
        if not os.access(folder, os.W_OK | os.X_OK):
            raise OutputError(f"cannot write {path}: no permission to write in {folder}; choose another place")
        if _too_long(path):
            raise TargetError(f"cannot write {path.name[:40]}...: the name is too long")
        real = os.path.realpath(path)
        if source is not None and exists(source) and (real == os.path.realpath(source) or _same(path, source)):
            raise TargetError(f"cannot write {path}: it is the input; choose another name")
        if real in taken:
            raise TargetError(f"cannot write {path}: two results would have this name; choose another for one of them")
        taken.add(real)


def _same(path: Path, source: Path) -> bool:
    """Whether two names lead to one file, as hard links do."""
    try:
        return path.samefile(source)
    except OSError:
        return False


def _too_long(path: Path) -> bool:
    try:
        path.lstat()
    except OSError as error:
        return error.errno == errno.ENAMETOOLONG
    return False
