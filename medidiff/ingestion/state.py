"""What a dataset remembers of earlier runs, and the private folder that a run works in.

Every fact is a small file that appears whole or not at all, and is written after what it speaks of. So a run that is
killed anywhere and started again finds what is done, does the rest, and ends as if nothing had happened.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medidiff.data.manifest import ManifestRecord
from medidiff.errors import ConfigError, InputError, OutputError
from medidiff.io.atomic import atomic_write_bytes, atomic_write_json, is_temporary
from medidiff.privacy.keys import PrivacyKey

STATE = ".medidiff"
_FORMAT = 1


@dataclass(frozen=True, slots=True)
class StoredVolume:
    """A volume that is in the dataset.

    Args:
        record: Its line of the manifest; split and relative reasons are set when the manifest is made.
        digest: Keyed hash of the objects it was made from and of the policy.
        planes: How many planes it was made from.
        fingerprint: See ``duplicates.fingerprint``.
        files: Everything that belongs to it, relative to the dataset.
    """

    record: ManifestRecord
    digest: str
    planes: int
    fingerprint: str
    files: tuple[str, ...]


class DatasetState:
    """The folder ``.medidiff`` of a dataset: a file a volume, a file a source group, thumbnails."""

    def __init__(self, dataset: Path) -> None:
        self.dataset = dataset
        self.root = dataset / STATE

    @classmethod
    def open(cls, dataset: Path, key: PrivacyKey) -> DatasetState:
        """Open a dataset, or begin one in a folder that is missing or empty.

        Raises:
            ConfigError: the folder holds something else, or a dataset that another key made.
            OutputError: it cannot be written.
        """
        state = cls(dataset)
        check = key.token("dataset", "which key", 16)
        marker = state.root / "dataset.json"
        known = _read_json(marker)
        if known is None:
            if dataset.exists() and any(entry.name != STATE for entry in _entries(dataset)):
                raise ConfigError(f"{dataset}: not empty, and no medidiff dataset; choose a new or an empty folder")
            try:
                for folder in ("volumes", "groups", "thumbs"):
                    (state.root / folder).mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise OutputError(f"{dataset}: the dataset cannot be made there: {error.strerror}") from error
            atomic_write_json(marker, {"format": _FORMAT, "key": check})
        elif known.get("format") != _FORMAT:
            raise ConfigError(f"{dataset}: a dataset of another version of medidiff; ingest into a new folder")
        elif known.get("key") != check:
            raise ConfigError(
                f"{dataset}: made with another privacy key, under which its patients have other pseudonyms; "
                "give that key with --key, or ingest into a new folder"
            )
        return state

    def volume(self, identity: str) -> StoredVolume | None:
        """A volume whose files are all there; None if it has to be made."""
        value = _read_json(self._volume_path(identity))
        if value is None:
            return None
        try:
            stored = StoredVolume(
                ManifestRecord.from_json(value["record"]),
                str(value["digest"]),
                int(value["planes"]),
                str(value["fingerprint"]),
                tuple(value["files"]),
            )
        except (KeyError, TypeError, InputError):
            return None
        return stored if all((self.dataset / name).is_file() for name in stored.files) else None

    def add_volume(self, stored: StoredVolume) -> None:
        """The moment from which the volume is in the dataset: its files were written before."""
        value = {
            "record": stored.record.to_json(),
            "digest": stored.digest,
            "planes": stored.planes,
            "fingerprint": stored.fingerprint,
            "files": list(stored.files),
        }
        atomic_write_json(self._volume_path(stored.record.id), value)

    def volumes(self) -> Iterator[StoredVolume]:
        """Every volume, in order of its id."""
        for entry in sorted((self.root / "volumes").glob("*.json")):
            stored = self.volume(entry.stem)
            if stored is not None:
                yield stored

    def group(self, identity: str, digest: str) -> dict[str, list[list[str]]] | None:
        """What became of each object of a source group that was done with the same content and policy.

        Returns:
            Lists of (outcome, reason, text, volume) by object token; None if the group has to be looked at.
        """
        value = _read_json(self._group_path(identity))
        if value is None or value.get("digest") != digest:
            return None
        objects = value.get("objects")
        if not isinstance(objects, dict):
            return None
        kept = {fate[3] for fates in objects.values() for fate in fates if fate[3]}
        return objects if all(self.volume(name) is not None for name in kept) else None

    def add_group(self, identity: str, digest: str, objects: dict[str, list[list[str]]]) -> None:
        atomic_write_json(self._group_path(identity), {"digest": digest, "objects": objects}, indent=None)

    def add_thumbnail(self, identity: str, png: bytes) -> str:
        name = f"{STATE}/thumbs/{identity}.png"
        atomic_write_bytes(self.dataset / name, png)
        return name

    def sweep(self) -> None:
        """Remove what belongs to no volume: leftovers of a killed run, and files of a version that was replaced."""
        owned = {name for stored in self.volumes() for name in stored.files}
        subjects = [entry for entry in _entries(self.dataset) if entry.name.startswith("sub-") and entry.is_dir()]
        for subject in subjects:
            for folder, _, names in os.walk(subject, topdown=False):
                for name in names:
                    relative = (Path(folder) / name).relative_to(self.dataset).as_posix()
                    if relative not in owned and (is_temporary(name) or not name.endswith("_scans.tsv")):
                        (self.dataset / relative).unlink()
                left = [entry.name for entry in _entries(Path(folder))]
                if not left or all(name.endswith("_scans.tsv") for name in left):
                    with suppress(OSError):
                        for name in left:
                            (Path(folder) / name).unlink()
                        Path(folder).rmdir()
        for place in (self.dataset, self.root, *(self.root / name for name in ("volumes", "groups", "thumbs"))):
            for entry in _entries(place):
                orphan = place.name == "thumbs" and f"{STATE}/thumbs/{entry.name}" not in owned
                if is_temporary(entry.name) or orphan:
                    Path(entry.path).unlink(missing_ok=True)

    def _volume_path(self, identity: str) -> Path:
        return self.root / "volumes" / f"{identity}.json"

    def _group_path(self, identity: str) -> Path:
        return self.root / "groups" / f"{identity}.json"


@contextmanager
def workshop(dataset: Path) -> Iterator[Path]:
    """A private folder beside the dataset for what knows names: the index, unpacked archives, fetched objects.

    It is emptied before and removed after; one run at a time may have it.

    Raises:
        ConfigError: another run works on this dataset.
        OutputError: the folder cannot be made.
    """
    folder = dataset.with_name(f".{dataset.name}.medidiff-work")
    try:
        dataset.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        folder.chmod(0o700)
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise OutputError(f"{folder}: the work folder cannot be made: {error.strerror}") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConfigError(f"{dataset}: another run works on this dataset; wait for its end") from error
        try:
            _empty(folder)
            yield folder
        finally:
            _empty(folder)
            with suppress(OSError):
                folder.rmdir()
    finally:
        os.close(descriptor)


def _empty(folder: Path) -> None:
    for entry in _entries(folder):
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path)
        else:
            Path(entry.path).unlink()


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise OutputError(f"{folder}: the folder cannot be listed: {error.strerror}") from error


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None
