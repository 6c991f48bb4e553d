"""A heap of DICOM in, a clean tree out; the use case behind ``medidiff deidentify``.

Every file ends in one line: written, already there, or set apart with a reason. Names of files and folders of the
source are never repeated, in the output or in the report, because they may hold a name; a file is called by a keyed
token instead, and ``find_source`` says which file it was.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pydicom

from medidiff.errors import ConfigError, InputError
from medidiff.io.atomic import atomic_file
from medidiff.io.dicom import InstanceHeader
from medidiff.io.dicom.header import read_header
from medidiff.io.safety import default_budget
from medidiff.privacy.deidentify import CleanResult, deidentify_dataset, quiet_pydicom, write_clean
from medidiff.privacy.deidentify_journal import JOURNAL, Journal
from medidiff.privacy.deidentify_read import content_token, read_for_cleaning
from medidiff.privacy.dicom_faces import FaceOrder, order_faces
from medidiff.privacy.keys import PrivacyKey
from medidiff.privacy.policy import CannotClean, DeidentifyPolicy

Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class SetApart:
    """A file that was not written.

    Args:
        token: Keyed name of the source file, see ``find_source``.
        reason: A short fixed word.
        explanation: What was found and what to do; no value of the file.
    """

    token: str
    reason: str
    explanation: str


@dataclass(frozen=True, slots=True)
class DeidentifyReport:
    """What became of every file of a source folder; no identifier in it.

    Args:
        written: Clean files written now, relative to the output folder.
        unchanged: Files whose clean form was there already.
        set_apart: Files that were not written, each with its reason.
        patients: Number of pseudonymous patients among written and unchanged files.
        pixels: How many files had which pixel outcome.
        faces: In how many files a face was removed, kept, or not there.
    """

    written: tuple[str, ...]
    unchanged: tuple[str, ...]
    set_apart: tuple[SetApart, ...]
    patients: int
    pixels: dict[str, int] = field(default_factory=dict)
    faces: dict[str, int] = field(default_factory=dict)

    @property
    def reasons(self) -> dict[str, int]:
        """How many files were set apart for which reason."""
        return dict(Counter(item.reason for item in self.set_apart))


def deidentify_tree(
    src: str | os.PathLike[str],
    dst: str | os.PathLike[str],
    policy: DeidentifyPolicy,
    key: PrivacyKey,
    on_progress: Progress | None = None,
) -> DeidentifyReport:
    """Clean every DICOM image below ``src`` (a folder or one file) into ``dst``; the source is only read.

    A run that is stopped and started again, or repeated, ends in the same tree: file names and contents follow from
    the source, the key and the policy alone, and a journal of keyed content hashes skips what is done.

    Args:
        src: Folder or file.
        dst: Output folder: ``patient/study/series/instance.dcm``, all pseudonymous. Made if missing.
        policy: What may stay.
        key: The project's secret.
        on_progress: Called with (files done, files in all).
    Raises:
        ConfigError: one folder lies inside the other.
        InputError: the source does not exist.
        OutputError: the output cannot be written.
    """
    source, target = Path(src), Path(dst)
    _check_places(source, target)
    target.mkdir(parents=True, exist_ok=True)
    run = _Run(source, target, policy, key, Journal(target / JOURNAL, policy.fingerprint))
    files = list(source_files(source))
    done = 0
    for study in _studies(files, policy):
        for _ in run.clean(study):
            if on_progress:
                on_progress(done, len(files))
            done += 1
    if on_progress:
        on_progress(len(files), len(files))
    return run.report()


class _Run:
    """What has become of the files so far."""

    def __init__(self, source: Path, target: Path, policy: DeidentifyPolicy, key: PrivacyKey, journal: Journal) -> None:
        self._source, self._target, self._policy, self._key, self._journal = source, target, policy, key, journal
        self._written: list[str] = []
        self._unchanged: list[str] = []
        self._apart: list[SetApart] = []
        self._pixels: Counter[str] = Counter()
        self._faces: Counter[str] = Counter()
        self._names: set[str] = set()

    def clean(self, study: list[Path]) -> Iterator[Path]:
        """Clean the files of one study, which decide together where a face is."""
        digests: dict[Path, str] = {}
        for path in study:
            try:
                digests[path] = content_token(path, self._policy, self._key)
            except CannotClean as error:
                self._set_apart(path, error)
                yield path
        together = self._key.token("study", "\n".join(sorted(digests.values())), 16)
        known = {path: self._journal.done(digest, together, self._target) for path, digest in digests.items()}
        orders: dict[str, FaceOrder] = {}
        if self._policy.clean_faces and not all(known.values()):
            orders = order_faces(digests, self._policy.body_part)
        for path, digest in digests.items():
            yield path
            entry = known[path]
            if entry is not None:
                self._count(entry["target"], entry["pixels"], entry["face"], fresh=False)
                continue
            order = orders.get(str(path)) or FaceOrder("kept", "by choice")
            try:
                name, result, fresh = _clean_file(path, self._target, self._policy, self._key, order, self._names)
            except CannotClean as error:
                # What an older policy let through, this one does not.
                self._journal.drop(digest, self._target)
                self._set_apart(path, error)
                continue
            self._count(name, result.pixels, result.face, fresh=fresh)
            self._journal.add(digest, together, name, result)

    def report(self) -> DeidentifyReport:
        patients = len({name.split("/")[0] for name in (*self._written, *self._unchanged)})
        return DeidentifyReport(
            tuple(self._written), tuple(self._unchanged), tuple(self._apart), patients, dict(self._pixels),
            dict(self._faces),
        )  # fmt: skip

    def _count(self, name: str, pixels: str, face: str, *, fresh: bool) -> None:
        (self._written if fresh else self._unchanged).append(name)
        self._names.add(name)
        self._pixels[pixels] += 1
        self._faces[face] += 1

    def _set_apart(self, path: Path, error: CannotClean) -> None:
        token = source_token(path, self._source, self._key)
        self._apart.append(SetApart(token, error.reason, error.explanation))


def _studies(files: list[Path], policy: DeidentifyPolicy) -> list[list[Path]]:
    """Files of one person's study together, in the order of their first; every other file by itself."""
    if not policy.clean_faces:
        return [[path] for path in files]
    studies: dict[tuple[str, ...], list[Path]] = {}
    for path in files:
        place: tuple[str, ...] = (str(path),)
        if path.is_file() and not path.is_symlink():
            found = read_header(str(path), default_budget(), localizers=True)
            if isinstance(found, InstanceHeader):
                place = (*found.patient, found.study_uid)
        studies.setdefault(place, []).append(path)
    return list(studies.values())


def source_files(source: Path) -> Iterator[Path]:
    """The plain files below a folder, in a fixed order; links are listed too, and set apart when opened."""
    if source.is_file():
        yield source
        return
    for folder, folders, names in os.walk(source):
        folders.sort()
        for name in sorted(names):
            yield Path(folder) / name


def source_token(path: Path, source: Path, key: PrivacyKey) -> str:
    """The keyed name by which reports call a source file."""
    inside = path.name if source.is_file() else path.relative_to(source).as_posix()
    return key.token("file", inside, 10)


def find_source(source: str | os.PathLike[str], token: str, key: PrivacyKey) -> Path | None:
    """The source file that a report calls ``token``, for whoever holds source and key; None if there is none."""
    root = Path(source)
    return next((path for path in source_files(root) if source_token(path, root, key) == token), None)


def _clean_file(
    path: Path, target: Path, policy: DeidentifyPolicy, key: PrivacyKey, order: FaceOrder, names: set[str]
) -> tuple[str, CleanResult, bool]:
    """Clean one file; returns its new relative name, the result, and whether it was written now."""
    ds = read_for_cleaning(path, policy)
    try:
        result = deidentify_dataset(ds, policy, key, order)
    except CannotClean:
        raise
    except (
        Exception
    ) as error:  # what a hostile header can raise in pydicom has no end; the file is set apart, the heap goes on
        raise CannotClean("damaged", f"cleaning ended in an unexpected {type(error).__name__}") from error
    name = clean_name(result, key)
    place = target / name
    place.parent.mkdir(parents=True, exist_ok=True)
    fresh = True
    with atomic_file(place) as temporary:
        write_clean(result, temporary)
        if place.exists():
            if temporary.read_bytes() == place.read_bytes():
                fresh = False
            elif name in names or _same_method(place, result):
                raise CannotClean("duplicate", "another image with the same SOPInstanceUID was written before")
    return name, result, fresh


def clean_name(result: CleanResult, key: PrivacyKey) -> str:
    """``patient/study/series/instance.dcm`` made of pseudonyms."""
    ds = result.dataset
    study, series, instance = (
        key.token("name", str(uid), 10) for uid in (ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.SOPInstanceUID)
    )
    return f"{result.patient}/study-{study}/series-{series}/{instance}.dcm"


def _same_method(place: Path, result: CleanResult) -> bool:
    """Whether the file there was made under the same policy and with the same face; an older one is replaced."""
    with quiet_pydicom():
        try:
            method = pydicom.dcmread(place, specific_tags=["DeidentificationMethod"]).get("DeidentificationMethod", "")
        except Exception:  # noqa: BLE001 - a damaged output is replaced
            return False
    return str(method) == str(result.dataset.DeidentificationMethod)


def _check_places(source: Path, target: Path) -> None:
    if not source.exists():
        raise InputError(f"{source}: there is no such file or folder")
    one, other = source.resolve(), target.resolve()
    if one.is_relative_to(other) or other.is_relative_to(one):
        raise ConfigError("source and output lie inside one another; give an output folder outside the source")
    if target.exists() and not target.is_dir():
        raise ConfigError(f"{target}: the output must be a folder")
