"""Writing a synthetic set, one item at a time; a killed run goes on where it was."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike
from pydantic import ValidationError

from medidiff.errors import ConfigError, GeometryError, InputError, OutputError
from medidiff.io.atomic import atomic_write_json, atomic_write_text, is_temporary, remove_stale
from medidiff.io.writers import write_nifti
from medidiff.synthetic.marks import nifti_description
from medidiff.synthetic.records import (
    FileRecord,
    Grid,
    Intensity,
    Item,
    Metadata,
    SetPlan,
    SetRecord,
    image_path,
    label_path,
    sidecar_path,
)
from medidiff.synthetic.stored import ITEMS, PLAN, SET, SyntheticSet, first_problem, load_json
from medidiff.volume import Modality, Volume

# MR has no unit. 12 bits are what scanners deliver, and every format holds them without a scaling of its own.
MR_LEVELS = 4095
# What a user gave, where the name of a record's field is not a word of theirs.
_WORDS = {
    "config_sha256": "count (or other options: conditions, spread, metadata)",
    "code_version": "version of medidiff",
    "generator": "generator, or sampler (steps, solver, guidance, given maps or scan)",
    "metadata_model": "metadata",
}
_LIMITS = {Modality.MR: (0, 32767), Modality.CT: (-32768, 32767)}


class SyntheticSetWriter:
    """A set that grows.

        writer = SyntheticSetWriter(folder, plan)
        for item in wanted:
            if not writer.done(item.id, item.seed):
                writer.add(item.id, item.seed, image, label, metadata=drawn)
        writer.finish()

    An item's record is written after its files, so that what has a record is whole. The same volume, seed and plan
    give the same bytes.

    Args:
        folder: New, empty, or of an unfinished or finished run with the same plan.
        plan: What is decided beforehand. ``created`` of an earlier run is kept.
    Raises:
        ConfigError: the folder has a set of another plan.
        OutputError: it holds something else, or cannot be written.
    """

    def __init__(self, folder: str | os.PathLike[str], plan: SetPlan) -> None:
        self._folder = Path(folder)
        earlier = _earlier_plan(self._folder)
        if earlier is None:
            self._plan = plan
            self._begin()
        else:
            self._plan = earlier
            _check_same_plan(earlier, plan, self._folder)
            for name in ("images", "labels"):
                remove_stale(self._folder / name, older_than=0)

    @property
    def plan(self) -> SetPlan:
        """The plan in force: with the moment at which the first run began."""
        return self._plan

    @property
    def finished(self) -> bool:
        return (self._folder / SET).is_file()

    def done(self, item: str, seed: int) -> bool:
        """Whether an item with this seed is there, whole."""
        found = self._item(item)
        return found is not None and found.seed == seed and self._is_whole(found)

    def add(
        self,
        item: str,
        seed: int,
        image: Volume,
        label: Volume | None = None,
        *,
        suffix: str,
        condition: Mapping[str, str | int | float | bool | None] | None = None,
        metadata: Metadata | None = None,
    ) -> Item:
        """Write an item; one with the same name that is not whole, or of another seed, is replaced.

        Args:
            item: Letters and digits, at most 16.
            seed: That it was made with.
            image: MR or CT, one channel. MR that is not whole numbers of 0 to 32767 is mapped onto 0 to 4095, and
                the map is recorded; CT is rounded to whole Hounsfield units.
            label: Whole numbers that the plan has classes for, on the same grid.
            suffix: What BIDS calls the image.
            condition, metadata: As ``Item`` has them.
        Raises:
            InputError: values are not finite, are constant, or have no class.
            GeometryError: image and label map lie on different grids.
            OutputError: the set is finished, or the disk does not take it.
        """
        if self.finished:
            raise OutputError(f"{self._folder}: the set is finished; name another folder for more items")
        stored, intensity = _whole_numbers(image)
        if label is not None:
            label = self._checked_label(label, image, item)
        try:
            draft = Item(
                id=item,
                seed=seed,
                model_sha256=self._plan.generator.sha256,
                condition=dict(condition or {}),
                metadata=metadata or Metadata(),
                modality=image.modality,
                suffix=suffix,
                image=FileRecord(path=image_path(item), sha256="0" * 64, size=1),
                grid=Grid.of(image.geometry),
                intensity=intensity,
            )
        except ValidationError as error:
            raise InputError(f"item {item[:16]!r}: {first_problem(error)}") from None
        files: dict[str, FileRecord | None] = {"image": self._write(stored, image_path(item), np.int16), "label": None}
        if label is not None:
            files["label"] = self._write(label, label_path(item), np.uint8)
        finished = draft.model_copy(update=files)
        atomic_write_text(self._folder / sidecar_path(item), finished.line() + "\n")
        return finished

    def finish(self) -> SyntheticSet:
        """Close the set; from now on it has a hash. Calling it again changes nothing.

        Raises:
            InputError: there is no item, or one is not whole.
        """
        if not self.finished:
            names = {path.name.split(".")[0] for path in self._folder.glob("*/*") if not is_temporary(path)}
            found = (self._item(name) for name in sorted(names))
            whole = [item for item in found if item is not None and self._is_whole(item)]
            if not whole or len(whole) < len(names):
                raise InputError(f"{self._folder}: {len(whole)} of {len(names)} items are whole; make the others again")
            lines = "".join(item.line() + "\n" for item in whole)
            atomic_write_text(self._folder / ITEMS, lines)
            digest = hashlib.sha256(lines.encode()).hexdigest()
            record = SetRecord(**self._plan.model_dump(), items=len(whole), items_sha256=digest)
            atomic_write_json(self._folder / SET, record.model_dump(mode="json"))
        (self._folder / PLAN).unlink(missing_ok=True)
        return SyntheticSet.open(self._folder)

    def _begin(self) -> None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            if any(self._folder.iterdir()):
                raise OutputError(f"{self._folder}: the folder is not empty and holds no synthetic set; name a new one")
            for name in ("images", "labels"):
                (self._folder / name).mkdir()
        except OSError as error:
            raise OutputError(f"cannot write {self._folder}: {error.strerror}") from error
        atomic_write_json(self._folder / PLAN, self._plan.model_dump(mode="json"))

    def _item(self, item: str) -> Item | None:
        try:
            found = Item.model_validate_json((self._folder / sidecar_path(item)).read_bytes())
        except (OSError, ValidationError):
            return None
        return found if found.id == item else None

    def _is_whole(self, item: Item) -> bool:
        for file in filter(None, (item.image, item.label)):
            try:
                content = (self._folder / file.path).read_bytes()
            except OSError:
                return False
            if hashlib.sha256(content).hexdigest() != file.sha256:
                return False
        return True

    def _checked_label(self, label: Volume, image: Volume, item: str) -> Volume:
        if label.geometry.distance(image.geometry) > 1e-3 or label.data.shape[0] != 1:
            raise GeometryError(f"item {item}: the label map must lie on the image's grid, with one channel")
        known = {0, *(entry.value for entry in self._plan.labels)}
        strange = sorted({float(value) for value in np.unique(label.data)} - known)
        if strange:
            raise InputError(f"item {item}: label values without a class in the plan: {strange[:5]}")
        return Volume(label.data.astype(np.uint8), image.geometry, Modality.LABEL)

    def _write(self, volume: Volume, path: str, dtype: DTypeLike) -> FileRecord:
        target = self._folder / path
        target.parent.mkdir(exist_ok=True)
        description = nifti_description(self._plan.code_version)
        write_nifti(volume, target, np.dtype(dtype), None, description=description)
        content = target.read_bytes()
        return FileRecord(path=path, sha256=hashlib.sha256(content).hexdigest(), size=len(content))


def _earlier_plan(folder: Path) -> SetPlan | None:
    """The plan of the set that is there, finished or not; None if there is none."""
    for name in (SET, PLAN):
        try:
            value = load_json((folder / name).read_bytes())
        except FileNotFoundError:
            continue
        except OSError as error:
            raise OutputError(f"cannot write {folder}: {error.strerror}") from error
        except InputError:
            value = None
        if isinstance(value, dict):
            value = {key: entry for key, entry in value.items() if key not in ("items", "items_sha256")}
        try:
            return SetPlan.model_validate(value)
        except ValidationError as error:
            raise ConfigError(f"{folder / name} is damaged ({first_problem(error)}); name another folder") from None
    return None


def _check_same_plan(earlier: SetPlan, plan: SetPlan, folder: Path) -> None:
    before, now = (value.model_dump(mode="json", exclude={"created"}) for value in (earlier, plan))
    other = [name for name in now if before[name] != now[name]]
    if other:
        told = ", ".join(_WORDS.get(name, name) for name in other if name != "config_sha256" or len(other) == 1)
        raise ConfigError(f"{folder}: a set with another {told} is there; name another folder")


def _whole_numbers(image: Volume) -> tuple[Volume, Intensity]:
    """The image as it is stored, and how its values came from the given ones."""
    if image.modality not in _LIMITS or image.data.shape[0] != 1:
        raise InputError(f"a synthetic image is MR or CT with one channel, got {image.modality} {image.data.shape}")
    if min(image.data.shape[1:]) < 2:
        raise InputError(f"a volume has two voxels or more along each axis, got {image.data.shape[1:]}")
    data = np.asarray(image.data, dtype=np.float64)
    if not np.isfinite(data).all():
        raise InputError("a synthetic image has values that are not finite; the generator is broken")
    low, high = float(data.min()), float(data.max())
    if low == high:
        raise InputError("a synthetic image is constant; the generator is broken")
    least, most = _LIMITS[image.modality]
    intensity = Intensity()
    if image.modality is Modality.CT:
        data = np.clip(np.rint(data), least, most)
    elif low < least or high > most or not np.array_equal(data, np.rint(data)):
        intensity = Intensity(slope=(high - min(low, 0.0)) / MR_LEVELS, intercept=min(low, 0.0))
        data = np.rint((data - intensity.intercept) / intensity.slope)
    return Volume(data.astype(np.int16), image.geometry, image.modality), intensity
