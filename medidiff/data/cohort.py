"""Real people on one grid: who is in training and who is held out, and their volumes as arrays.

Everything that learns from people, or compares a synthetic set with them, names them by a ``Cohort`` and reads them
here, so that generator, segmenter, metrics and privacy tests see the same voxels.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from medidiff.config import Config
from medidiff.data.intensity import IntensityCodec
from medidiff.data.manifest import read_manifest
from medidiff.errors import ConfigError, InputError, MedidiffError
from medidiff.geometry import Geometry
from medidiff.io import read_volume
from medidiff.io.formats import strip_extension
from medidiff.io.source import file_sha256
from medidiff.volume import Modality, Volume

# Two grids of one person may differ by what a header rounds, mm.
GRID_TOLERANCE = 1e-3
# A cohort is held in memory; this is a head at 1 mm for some thousand people.
MOST_BYTES = 32 << 30


class Cohort(Config):
    """Some people: of a folder of images, a file a person, or of a dataset that was ingested.

    People of a folder are in the order of their file names, so that ``first: 160`` and ``last: 40`` of a folder of 200
    never share anybody.
    """

    images: Path | None = Field(None, description="folder of images, one a person")
    labels: Path | None = Field(None, description="folder of label maps with the same file names")
    dataset: Path | None = Field(None, description="instead of folders: a dataset of `medidiff ingest`")
    split: Literal["train", "validation", "test"] = Field("train", description="of the dataset")
    suffix: str | None = Field(None, description="of the dataset: take only these images, e.g. T1w")
    first: int | None = Field(None, ge=1, description="only so many from the front")
    last: int | None = Field(None, ge=1, description="only so many from the end")

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if (self.images is None) == (self.dataset is None):
            raise ValueError("give either images (a folder) or dataset (of `medidiff ingest`)")
        if self.dataset is not None and self.labels is not None:
            raise ValueError("labels stand beside images; a dataset has none")
        if self.first is not None and self.last is not None:
            raise ValueError("give first or last, not both")
        return self


@dataclass(frozen=True, slots=True)
class Person:
    """Where the scan of one person lies.

    Args:
        index: Place in the whole folder or dataset; what logs and reports may name.
        image, label: The files. Their names may identify somebody and are for nobody else.
    """

    index: int
    image: Path
    label: Path | None = None


@dataclass(frozen=True, slots=True)
class People:
    """Volumes of n people on one grid.

    Args:
        images: Model units, shape (n, 1, i, j, k), float32.
        labels: Whole numbers, same shape, uint8; None where nobody has a label map.
        inside: True where voxels were acquired, same shape; the rest is padding.
        geometry: The grid: RAS, with the spacing of the scans, centred on world zero.
        persons: Who they are, in the order of the arrays.
    """

    images: NDArray[np.float32]
    labels: NDArray[np.uint8] | None
    inside: NDArray[np.bool_]
    geometry: Geometry
    persons: tuple[Person, ...]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, chosen: slice | Sequence[int]) -> People:
        """Some of them."""
        places = range(len(self))[chosen] if isinstance(chosen, slice) else chosen
        index = np.asarray(list(places), dtype=np.intp)
        labels = None if self.labels is None else self.labels[index]
        persons = tuple(self.persons[place] for place in index)
        return People(self.images[index], labels, self.inside[index], self.geometry, persons)


def people(cohort: Cohort) -> list[Person]:
    """The persons of a cohort, without reading a voxel.

    Raises:
        ConfigError: there is no such folder, it has fewer people than asked for, or an image has no label map.
        InputError: the dataset has no readable manifest.
    """
    found = _of_dataset(cohort) if cohort.dataset is not None else _of_folder(cohort)
    wanted = cohort.first or cohort.last or len(found)
    if not found or wanted > len(found):
        raise ConfigError(f"a cohort of {wanted or 'some'} people: {len(found)} images were found in {_place(cohort)}")
    return found[-wanted:] if cohort.last is not None else found[:wanted]


def load_people(persons: Sequence[Person], shape: tuple[int, int, int]) -> People:
    """Read people onto one grid: axes to R, A, S, model units, the middle kept and the border repeated.

    Args:
        persons: As ``people`` gives them.
        shape: Voxels (i, j, k) of the grid. A scan that is larger is cropped, a smaller one is padded with its edge.
    Raises:
        InputError: a file is damaged, has several frames or another spacing than the others, or a label map lies on
            another grid or has values that are no whole numbers of 0 to 255.
    """
    if not persons:
        raise ConfigError("nobody is in the cohort")
    size = len(persons) * int(np.prod(shape))
    if size * 6 > MOST_BYTES:
        raise ConfigError(f"{len(persons)} people of {shape} voxels need more than {MOST_BYTES >> 30} GiB; take fewer")
    images = np.empty((len(persons), 1, *shape), dtype=np.float32)
    inside = np.zeros(images.shape, dtype=bool)
    labels = np.zeros(images.shape, dtype=np.uint8) if all(person.label for person in persons) else None
    spacing: tuple[float, ...] | None = None
    for place, person in enumerate(persons):
        image = _read(person.image, person, "image")
        spacing = spacing or image.geometry.spacing
        if not np.allclose(image.geometry.spacing, spacing, rtol=0.02):
            raise InputError(
                f"person {person.index}: voxels of {_mm(image.geometry.spacing)}, others have {_mm(spacing)}; "
                "resample them first"
            )
        codec = IntensityCodec.fit(image.data, image.modality)
        images[place, 0] = onto(codec.encode(image.data[0].astype(np.float32)), shape)
        inside[place, 0] = onto(np.ones(image.geometry.shape, dtype=bool), shape, constant=True)
        if labels is not None and person.label is not None:
            labels[place, 0] = onto(_label(person, image), shape, constant=True)
    assured = spacing or (1.0, 1.0, 1.0)
    return People(images, labels, inside, centred_grid(shape, assured), tuple(persons))


def split_sha256(persons: Iterable[Person]) -> str:
    """A digest of who somebody was trained on: of the sorted SHA-256 of their images, so that no name is in it."""
    return hashlib.sha256("\n".join(sorted(map(image_sha256, persons))).encode()).hexdigest()


def image_sha256(person: Person) -> str:
    """Digest of somebody's image file.

    Raises:
        InputError: it cannot be read; which person is said by number.
    """
    try:
        return file_sha256(person.image)
    except OSError as error:
        raise InputError(f"person {person.index}: the image cannot be read ({error.strerror})") from None


def check_sides(trained: Sequence[Person], others: Sequence[Person], split: str) -> None:
    """That some people are all whom a generator was trained on, and others are none of them.

    Args:
        trained: Said to be those trained on.
        others: Said to be held out; a copy of somebody's file under another name is still that person.
        split: The digest that the generator's card has of those trained on; see ``split_sha256``.
    Raises:
        ConfigError: somebody is on both sides, or other people were trained on.
    """
    both = {image_sha256(person) for person in trained} & {image_sha256(person) for person in others}
    if both:
        raise ConfigError(f"{len(both)} of the people held out are among those trained on; name others")
    digest = split_sha256(trained)
    if digest != split:
        raise ConfigError(
            f"training: these {len(trained)} people are not those that the set's generator was trained on (digest "
            f"{digest[:12]}, the set says {split[:12]}); name exactly those"
        )


def nameless(error: MedidiffError | OSError, path: Path) -> str:
    """What is wrong with a file without the file's name, which may be that of a person."""
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    told = str(error)
    for name in (str(path), path.name):
        told = told.removeprefix(f"{name}: ").replace(name, "the file")
    return told


def onto(data: NDArray[Any], shape: Sequence[int], *, constant: bool = False) -> NDArray[Any]:
    """Centre an array on a grid of another size: cropped where it is larger, padded where it is smaller.

    Args:
        data: Shape (i, j, k).
        constant: Pad with zeros instead of the nearest voxel.
    """
    box, widths = [], []
    for have, want in zip(data.shape, shape, strict=True):
        start = max(0, (have - want) // 2)
        box.append(slice(start, start + min(have, want)))
        before = max(0, (want - have) // 2)
        widths.append((before, max(0, want - have) - before))
    cropped = data[tuple(box)]
    return np.pad(cropped, widths) if constant else np.pad(cropped, widths, mode="edge")


def centred_grid(shape: tuple[int, int, int], spacing: Sequence[float]) -> Geometry:
    """A grid along R, A, S whose middle is world zero: a place that nobody was scanned at."""
    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = [-step * (n - 1) / 2 for step, n in zip(spacing, shape, strict=True)]
    return Geometry(affine, shape)


def _of_folder(cohort: Cohort) -> list[Person]:
    folder = cohort.images
    if folder is None or not folder.is_dir():
        raise ConfigError(f"images: there is no folder {folder}")
    files = [path for path in sorted(folder.iterdir(), key=os.fspath) if _is_volume(path)]
    if cohort.labels is None:
        return [Person(index, path) for index, path in enumerate(files)]
    if not cohort.labels.is_dir():
        raise ConfigError(f"labels: there is no folder {cohort.labels}")
    maps = {strip_extension(path.name): path for path in cohort.labels.iterdir() if _is_volume(path)}
    missing = [index for index, path in enumerate(files) if strip_extension(path.name) not in maps]
    if missing:
        raise ConfigError(f"labels: {len(missing)} of {len(files)} images have no label map of the same name")
    return [Person(index, path, maps[strip_extension(path.name)]) for index, path in enumerate(files)]


def _of_dataset(cohort: Cohort) -> list[Person]:
    """One scan a person, the first by path: a second one would be counted as somebody else."""
    if cohort.dataset is None:
        return []
    seen: set[str] = set()
    found: list[Person] = []
    for record in read_manifest(cohort.dataset):
        fits = record.usable and record.split == cohort.split and record.suffix == (cohort.suffix or record.suffix)
        if fits and record.subject not in seen and record.modality in (Modality.MR, Modality.CT):
            seen.add(record.subject)
            found.append(Person(len(found), cohort.dataset / record.path))
    return found


def _is_volume(path: Path) -> bool:
    return path.is_file() and not path.name.startswith(".") and strip_extension(path.name) != path.name


def _read(path: Path, person: Person, what: str) -> Volume:
    try:
        volume = read_volume(path).reoriented()
    except (MedidiffError, OSError) as error:
        raise InputError(f"person {person.index}: the {what} cannot be read ({nameless(error, path)})") from None
    if volume.data.shape[0] != 1:
        raise InputError(f"person {person.index}: the {what} has {volume.data.shape[0]} frames; one is expected")
    return volume


def _label(person: Person, image: Volume) -> NDArray[np.uint8]:
    if person.label is None:
        raise InputError(f"person {person.index}: there is no label map")
    volume = _read(person.label, person, "label map")
    same = volume.geometry.shape == image.geometry.shape
    if not same or volume.geometry.distance(image.geometry) > GRID_TOLERANCE:
        raise InputError(f"person {person.index}: the label map lies on another grid than the image")
    values = volume.data[0]
    if not np.array_equal(values, np.rint(values)) or values.min() < 0 or values.max() > 255:
        raise InputError(f"person {person.index}: the label map holds values that are no whole numbers of 0 to 255")
    return np.asarray(values, dtype=np.uint8)


def _place(cohort: Cohort) -> str:
    return "the dataset's split" if cohort.dataset is not None else str(cohort.images)


def _mm(spacing: Sequence[float]) -> str:
    return " x ".join(f"{step:.2f}" for step in spacing) + " mm"
