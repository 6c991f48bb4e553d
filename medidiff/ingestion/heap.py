"""Walking a heap: folders, archives, whatever lies in them, each file told apart by its content.

A DICOMDIR is not followed: it may be old, partial or wrong, and the files say everything themselves.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from medidiff.errors import InputError, MedidiffError
from medidiff.ingestion import lines
from medidiff.ingestion.lines import APART, SKIPPED, FileLine
from medidiff.ingestion.series import person_of
from medidiff.ingestion.spool import Spool
from medidiff.io.archives import ArchiveLimits, extract_zip, list_zip
from medidiff.io.dicom import Reason, SetAside, index
from medidiff.io.dicom.scan import walk
from medidiff.io.formats import FORMATS
from medidiff.io.nifti import header_beside
from medidiff.io.source import open_source
from medidiff.privacy.identity import name_under_id
from medidiff.privacy.keys import PrivacyKey

_DEEPEST_NESTING = 3
_METADATA_SUFFIXES = (".json", ".tsv", ".csv", ".txt", ".md", ".rst", ".bval", ".bvec", ".bidsignore", ".xml", ".html")
_METADATA_NAMES = ("README", "CHANGES", "LICENSE", "LICENCE", "VERSION", ".DS_Store", "Thumbs.db")
_DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")
_ZIP_MAGIC = (b"PK\x03\x04", b"PK\x05\x06")

OnFile = Callable[[int], None]


def token_of(name: str, key: PrivacyKey) -> str:
    """How reports call a source file."""
    return f"file-{key.token('file', name, 10)}"


class Heap:
    """The sources of one run.

    Args:
        sources: Files and folders.
        work: Private folder for what is unpacked.
        key: Makes the tokens.
        limits: What archives may unpack to, all of them together.
    """

    def __init__(self, sources: Iterable[Path], work: Path, key: PrivacyKey, limits: ArchiveLimits) -> None:
        self._sources = [Path(source).resolve() for source in sources]
        self._work = work
        self._key = key
        self._limits = limits
        self._left = limits.total_bytes
        self._origins: dict[str, str] = {}
        self.roots = list(self._sources)

    def token(self, path: str) -> str:
        """The token of a file, by its place in the source: for what was unpacked, the archive's place and its own."""
        return token_of(self.name(path), self._key)

    def name(self, path: str) -> str:
        """Where a file lies for the user, ``archive.zip!inside/it`` if unpacked; identifying, not for printing."""
        for folder, origin in self._origins.items():
            if path.startswith(folder):
                return f"{origin}!{path[len(folder) :]}"
        return path

    def stage(self, folder: Path, origin: str) -> None:
        """Take in a work folder that holds what came from ``origin``."""
        self._origins[f"{folder}{os.sep}"] = origin
        self.roots.append(folder)
        self._sources.append(folder)

    def index(
        self, spool: Spool, *, budget: int | None, localizers: bool, workers: int | None, on_file: OnFile
    ) -> None:
        """Look at every file once, and put it into the spool."""
        headers = index(self._dicom(spool), workers=workers, budget=budget, localizers=localizers)
        for seen, found in enumerate(headers, 1):
            if seen % 100 == 0:
                on_file(seen)
            if isinstance(found, SetAside):
                self._aside(found, spool)
            else:
                name = name_under_id(*found.patient[:2])
                called = self._key.token("name", name) if name else ""
                spool.add_object(found, self.token(found.path), person_of(found, self._key), called)

    def _aside(self, found: SetAside, spool: Spool) -> None:
        name = Path(found.path).name.lower()
        stranger = found.reason is Reason.NOT_DICOM and not name.endswith(_DICOM_SUFFIXES)
        spool.add_line(FileLine(self.token(found.path), SKIPPED if stranger else APART, found.reason.value, found.text))
        if found.series_uid:
            spool.add_stray(found.path, found.series_uid)

    def _dicom(self, spool: Spool) -> Iterator[str]:
        """Every file that the DICOM reader should look at; all others go to the spool."""
        for source in self._sources:
            yield from self._below(source, spool, 0)

    def _below(self, source: Path, spool: Spool, depth: int) -> Iterator[str]:
        for path in walk(source):
            if isinstance(path, SetAside):
                self._aside(path, spool)
            else:
                yield from self._sort(path, spool, depth)

    def _sort(self, path: str, spool: Spool, depth: int) -> Iterator[str]:
        where = Path(path)
        try:
            pair = header_beside(where)
            head = open_source(where).head
        except InputError:
            yield path  # the DICOM reader has a typed reason for what is empty or cannot be opened
            return
        if pair is not None and pair != where:
            spool.add_part(self.token(path), self.token(str(pair)))
        elif head[128:132] == b"DICM":
            yield path
        elif head.startswith(_ZIP_MAGIC):
            yield from self._unpacked(where, spool, depth)
        elif any(known.recognises(head) for known in FORMATS):
            spool.add_image(path, self.token(path))
        elif where.name.endswith(_METADATA_SUFFIXES) or where.name in _METADATA_NAMES:
            text = "holds no voxels; what belongs to an image is read with the image"
            spool.add_line(FileLine(self.token(path), SKIPPED, lines.METADATA, text))
        else:
            yield path

    def _unpacked(self, archive: Path, spool: Spool, depth: int) -> Iterator[str]:
        token = self.token(str(archive))
        if depth >= _DEEPEST_NESTING:
            text = f"archives inside archives are opened {_DEEPEST_NESTING} deep, no deeper; unpack it"
            spool.add_line(FileLine(token, APART, lines.DAMAGED_ARCHIVE, text))
            return
        folder = self._work / f"unpacked-{len(self._origins):05d}"
        limits = ArchiveLimits(self._limits.members, self._limits.member_bytes, max(self._left, 0))
        try:
            self._left -= sum(member.size for member in list_zip(archive, limits) if not member.refused)
            self._origins[f"{folder}{os.sep}"] = self.name(str(archive))
            members = extract_zip(archive, folder, limits=limits)
        except MedidiffError as error:
            text = str(error).replace(str(archive), "the archive")
            spool.add_line(FileLine(token, APART, lines.DAMAGED_ARCHIVE, text))
            return
        refused = 0
        for member, target in members:
            if target is None:
                refused += 1
                name = token_of(f"{self.name(str(archive))}!#{member.index}", self._key)
                spool.add_line(FileLine(name, APART, lines.REFUSED_MEMBER, f"not unpacked: {member.refused}"))
        text = f"{len(members) - refused} files unpacked, {refused} refused"
        spool.add_line(FileLine(token, SKIPPED, lines.UNPACKED, text))
        if folder.is_dir():
            self.roots.append(folder)
            yield from self._below(folder, spool, depth + 1)
