"""The registry of formats: which content belongs to which reader, which name to which writer."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medidiff.errors import InputError, TargetError
from medidiff.io import mgh, nifti, nrrd, writers
from medidiff.io.declared import Declared
from medidiff.io.source import Source, is_folder, open_source, refuse_root
from medidiff.volume import Volume

Writer = Callable[[Volume, Path, np.dtype[Any], float | None], None]


@dataclass(frozen=True, slots=True)
class Format:
    """A file format: how its content is recognised and read, and the names under which it is written."""

    name: str
    recognises: Callable[[bytes], bool]
    declare: Callable[[Source], Declared]
    write: Writer
    suffixes: tuple[str, ...]


FORMATS = (
    Format("NIfTI", nifti.recognises, nifti.declare, writers.write_nifti, (".nii", ".nii.gz")),
    Format("NRRD", nrrd.recognises, nrrd.declare, writers.write_nrrd, (".nrrd",)),
    # Last: its magic is the number 1.
    Format("MGH", mgh.recognises, mgh.declare, writers.write_mgh, (".mgh", ".mgz")),
)

# What else people try, so that the message can say what it is.
_OTHERS = (
    (0, b"PK\x03\x04", "a zip archive; unpack it, or use `medidiff ingest`"),
    (
        0,
        b"\x89HDF",
        "an HDF5 file that holds neither k-space (ISMRMRD, fastMRI) nor projections (Data Exchange); convert it",
    ),
    (0, b"CDF", "a MINC-1 file; convert it to NIfTI first"),
    (0, b"ObjectType", "a MetaImage; convert it to NIfTI or NRRD first"),
    (0, b"\x93NUMPY", "a NumPy array: it does not say where its voxels lie; write it as NIfTI with an affine"),
    (0, b"\x89PNG", "a PNG picture, not a volume"),
    (0, b"\xff\xd8\xff", "a JPEG picture, not a volume"),
    (0, b"%PDF", "a PDF document, not a volume"),
    (257, b"ustar", "a tar archive; unpack it first"),
    (
        0,
        b"\x5c\x01\x00\x00",
        "an Analyze 7.5 header or a damaged NIfTI one; it does not say left from right: convert it",
    ),
    (
        0,
        b"\x00\x00\x01\x5c",
        "an Analyze 7.5 header or a damaged NIfTI one; it does not say left from right: convert it",
    ),
)

_MOST_FILES_LOOKED_AT = 2000


def is_dicom(path: Path) -> bool:
    """Whether this is a DICOM file, or a folder with one.

    Raises:
        InputError: it cannot be opened, or it is a folder without DICOM.
    """
    if not is_folder(path):
        return nifti.header_beside(path) is None and looks_like_dicom(open_source(path).head)
    refuse_root(path)
    if not os.access(path, os.R_OK | os.X_OK):
        raise InputError(f"no permission to read the folder {path}")
    count = 0
    for file in _files(path):
        count += 1
        try:
            if looks_like_dicom(open_source(file).head):
                return True
        except InputError:  # an unreadable neighbour says nothing about the others
            continue
        if count >= _MOST_FILES_LOOKED_AT:
            break
    raise InputError(
        f"the folder {path} holds no DICOM ({count} files looked at); name a volume file, or a DICOM folder"
    )


def looks_like_dicom(head: bytes) -> bool:
    """Part 10 files by their prefix, bare data sets by their first element (group 0002 or 0008)."""
    if head[128:132] == b"DICM":
        return True
    group, element = int.from_bytes(head[:2], "little"), int.from_bytes(head[2:4], "little")
    if len(head) < 132 or group not in (0x0002, 0x0008) or element > 0x0018:
        return False
    explicit = head[4:6] in (b"UL", b"CS", b"UI", b"OB", b"DA", b"TM")
    return explicit or int.from_bytes(head[4:8], "little") <= 256


def declare(path: Path) -> tuple[Declared, Source]:
    """What the header claims, and the file that holds the voxels.

    Raises:
        InputError: no reader knows this content, or its header is damaged.
    """
    source = open_source(nifti.header_beside(path) or path)
    for known in FORMATS:
        if known.recognises(source.head):
            declared = _declare(known, source)
            data = source if declared.data_path == source.path else open_source(declared.data_path)
            return declared, data
    for at, magic, what in _OTHERS:
        if source.head[at : at + len(magic)] == magic:
            raise InputError(f"{path} is {what}")
    raise InputError(f"{path} is no volume: its content is neither NIfTI, MGH/MGZ, NRRD nor DICOM")


def _declare(known: Format, source: Source) -> Declared:
    """The boundary to damaged headers: what a reader did not foresee is the header's fault, in one line."""
    try:
        with np.errstate(all="ignore"):  # what is not finite is refused by the geometry
            return known.declare(source)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())[:120] or type(error).__name__
        raise InputError(f"{source.path} has a damaged {known.name} header ({reason})") from error


def writer_for(path: Path) -> Writer:
    """The writer that a file name asks for.

    Raises:
        TargetError: the suffix is unknown.
    """
    name = path.name.lower()
    for known in FORMATS:
        if name.endswith(known.suffixes):
            return known.write
    endings = ", ".join(suffix for known in FORMATS for suffix in known.suffixes)
    raise TargetError(f"cannot write {path}: the name must end in one of {endings}")


def strip_extension(name: str) -> str:
    """A file's name without the ending of a volume format; a name without one comes back as it is."""
    endings = sorted((suffix for known in FORMATS for suffix in known.suffixes), key=len, reverse=True)
    found = next((suffix for suffix in endings if name.lower().endswith(suffix)), "")
    return name[: len(name) - len(found)]


def _files(folder: Path) -> Iterator[Path]:
    for parent, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            yield Path(parent) / name
