"""A synthetic set on disk, read and checked."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import ValidationError

from medidiff.errors import GeometryError, InputError
from medidiff.io import read_volume
from medidiff.synthetic.marks import nifti_is_marked
from medidiff.synthetic.records import FileRecord, Item, SetRecord, sidecar_path
from medidiff.volume import Modality, Volume

SET = "set.json"
ITEMS = "synthetic.jsonl"
QUALITY = "quality.json"
PRIVACY = "privacy.json"
PLAN = "plan.json"

_MOST_RECORD_BYTES = 16 << 20
_SAME_PLACE_MM = 1e-3


@dataclass(frozen=True, slots=True)
class SyntheticSet:
    """A finished set.

    Args:
        folder: Where it lies.
        record: Of the whole.
        items: In order of their names.
        sha256: Of ``set.json``, and through it of every item and file: the hash by which reports name the set.
    """

    folder: Path
    record: SetRecord
    items: tuple[Item, ...]
    sha256: str

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> SyntheticSet:
        """Read the records of a set; ``faults`` looks at its files.

        Raises:
            InputError: there is no finished set, or its records are damaged.
        """
        where = Path(folder)
        content = read_set_record(where)
        try:
            record = SetRecord.model_validate_json(content)
        except ValidationError as error:
            raise InputError(f"{where / SET}: {first_problem(error)}") from None
        return cls(where, record, tuple(_read_items(where, record)), hashlib.sha256(content).hexdigest())

    def read(self, file: FileRecord) -> bytes:
        """The bytes of a file of the set.

        Raises:
            InputError: it is missing, or not what the record says.
        """
        content = _read(self.folder / file.path, limit=file.size)
        if len(content) != file.size or hashlib.sha256(content).hexdigest() != file.sha256:
            raise InputError(f"{file.path}: its content is not what the set's record says")
        return content

    def image(self, item: Item) -> Volume:
        """An image, shape (1, i, j, k), stored whole numbers as float32.

        Raises:
            InputError: missing or damaged.
        """
        volume = read_volume(self.folder / item.image.path)
        return Volume(volume.data, volume.geometry, item.modality)

    def label(self, item: Item) -> Volume | None:
        """The label map of an item, shape (1, i, j, k), or None.

        Raises:
            InputError: missing or damaged.
        """
        if item.label is None:
            return None
        volume = read_volume(self.folder / item.label.path)
        return Volume(volume.data, volume.geometry, Modality.LABEL)

    def faults(self) -> list[str]:
        """Everything in which the folder is not what its records say; empty if all is well."""
        found = self._faults_of_names()
        for item in self.items:
            found += self._faults_of_item(item)
        twins = Counter(item.image.sha256 for item in self.items)
        found += [f"{count} items are one and the same image" for count in twins.values() if count > 1]
        return found

    def _faults_of_names(self) -> list[str]:
        expected = {SET, ITEMS}
        for item in self.items:
            expected |= {item.image.path, sidecar_path(item.id)}
            expected |= {item.label.path} if item.label else set()
        there = set(_files_below(self.folder))
        # What others called their files may be somebody's name: how many, and where, is enough to find them.
        foreign = Counter(_known_folder(name) for name in there - expected - {QUALITY, PRIVACY})
        links = sorted(name for name in there & (expected | {QUALITY, PRIVACY}) if not _is_own(self.folder / name))
        return (
            [f"{name}: missing" for name in sorted(expected - there)]
            + [f"{name}: a link or device, not a file of the set" for name in links]
            + [
                f"{place}: {count} {'file' if count == 1 else 'files'} not part of the set"
                for place, count in sorted(foreign.items())
            ]
        )

    def _faults_of_item(self, item: Item) -> list[str]:
        found = []
        if item.model_sha256 != self.record.generator.sha256:
            found.append(f"item {item.id}: made by another generator than the set's")
        if self.record.labels and item.label is None:
            found.append(f"item {item.id}: has no label map, though the set names label classes")
        try:
            if _read(self.folder / sidecar_path(item.id)) != (item.line() + "\n").encode():
                found.append(f"{sidecar_path(item.id)}: altered, or its synthetic mark is gone")
        except InputError:
            pass  # told among the names
        for file in filter(None, (item.image, item.label)):
            if _is_own(self.folder / file.path):
                found += self._faults_of_file(item, file)
        return found

    def _faults_of_file(self, item: Item, file: FileRecord) -> list[str]:
        found = []
        try:
            if not nifti_is_marked(_read(self.folder / file.path, limit=1 << 16, whole=False)):
                found.append(f"{file.path}: its header is not marked as synthetic")
            self.read(file)
            volume = read_volume(self.folder / file.path)
            if volume.geometry.distance(item.grid.geometry) > _SAME_PLACE_MM:
                found.append(f"{file.path}: lies on another grid than its record says")
            if file is item.label:
                found += self._faults_of_label(file.path, volume)
        except (InputError, GeometryError) as error:
            text = str(error).replace(f"{self.folder}/", "").removeprefix(f"{Path(file.path).name}: ")
            found.append(text if text.startswith(file.path) else f"{file.path}: {text}")
        return found

    def _faults_of_label(self, path: str, label: Volume) -> list[str]:
        known = {0, *(entry.value for entry in self.record.labels)}
        strange = sorted({float(value) for value in np.unique(label.data)} - known)
        text = ", ".join(f"{value:g}" for value in strange[:5])
        return [f"{path}: values without a label class: {text}"] if strange else []


def read_set_record(folder: Path) -> bytes:
    """The bytes of ``set.json``.

    Raises:
        InputError: there is no finished set.
    """
    if (folder / SET).is_symlink():
        raise InputError(f"{folder / SET}: a link, not a file of the set; what it leads to may change")
    if (folder / SET).is_file():
        return _read(folder / SET)
    if (folder / PLAN).is_file():
        raise InputError(f"{folder}: the set is not finished; make the rest of it, and finish it")
    raise InputError(f"{folder}: no synthetic set there (no {SET})")


def first_problem(error: ValidationError) -> str:
    """Where a record does not fit and why, in one line; nothing of its content."""
    problem = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(part) for part in problem["loc"])
    return f"{place}: {problem['msg']}" if place else problem["msg"]


def _read_items(folder: Path, record: SetRecord) -> Iterator[Item]:
    content = _read(folder / ITEMS, limit=1 << 30)
    if hashlib.sha256(content).hexdigest() != record.items_sha256:
        raise InputError(f"{ITEMS}: its content is not what {SET} says")
    lines = content.decode("utf-8", "replace").splitlines()
    if len(lines) != record.items:
        raise InputError(f"{ITEMS}: {len(lines)} items, {SET} says {record.items}")
    before = ""
    for number, line in enumerate(lines, 1):
        try:
            item = Item.model_validate_json(line)
        except ValidationError as error:
            raise InputError(f"{ITEMS}:{number}: {first_problem(error)}") from None
        if item.id <= before:
            raise InputError(f"{ITEMS}:{number}: items must have different names, in order")
        before = item.id
        yield item


def _read(path: Path, *, limit: int = _MOST_RECORD_BYTES, whole: bool = True) -> bytes:
    try:
        with open(path, "rb", opener=own_only) as stream:
            content = stream.read(limit + 1 if whole else limit)
    except OSError as error:
        raise InputError(f"{path.name}: cannot be read ({error.strerror})") from error
    if whole and len(content) > limit:
        raise InputError(f"{path.name}: larger than the {limit} bytes that were expected")
    return content


def own_only(path: str, flags: int) -> int:
    """Opener of files of a set: a link leads out of it, and a pipe would be waited for without end."""
    if not stat.S_ISREG(os.lstat(path).st_mode):
        raise OSError(errno.EINVAL, "no plain file")
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)


def _is_own(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except FileNotFoundError:
        return False


def _known_folder(name: str) -> str:
    first, below, _ = name.partition("/")
    return first if below and first in ("images", "labels") else "the set's folder"


def _files_below(folder: Path) -> Iterator[str]:
    """Everything that is no folder, links to folders included: a link could change what it leads to."""
    for parent, folders, files in os.walk(folder):
        links = [name for name in folders if (Path(parent) / name).is_symlink()]
        for name in (*files, *links):
            yield (Path(parent) / name).relative_to(folder).as_posix()


def load_json(content: bytes) -> object:
    """Parsed JSON.

    Raises:
        InputError: it is none, or has NaN or infinity, which JSON has not.
    """
    try:
        return json.loads(content, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise InputError("not JSON") from error


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")
