"""The set and the people that it is held against, read onto one grid; those who do not belong together are refused."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from medidiff import __version__
from medidiff.audit.options import AuditOptions
from medidiff.config import config_digest
from medidiff.data.cohort import People, check_sides, load_people, people, split_sha256
from medidiff.errors import CheckpointError
from medidiff.io.source import file_sha256
from medidiff.models import find_model
from medidiff.privacy.leakage.store import Store
from medidiff.progress import OnProgress
from medidiff.synthetic.items import read_items
from medidiff.synthetic.stored import SyntheticSet

Array = NDArray[Any]
STEPS = 6


@dataclass(slots=True)
class Work:
    """An audit under way.

    Args:
        synthetic: The set.
        options: What was asked.
        items: The set's volumes and label maps.
        who: Everybody, those trained on first.
        members, non_members: Places of those trained on, and of the others, in ``who``.
        store: What is half done of this set.
        people_store: What was learned of the people, for other sets too.
        tell: Called with steps done, steps in all, and what is being done.
        model: The generator's file, if it is to be attacked.
        notes: What a reader must know.
    """

    synthetic: SyntheticSet
    options: AuditOptions
    items: People
    who: People
    members: list[int]
    non_members: list[int]
    store: Store
    people_store: Store
    tell: OnProgress
    model: Path | None
    notes: list[str] = field(default_factory=list)

    @property
    def images(self) -> Array:
        """Of the set, model units, shape (items, i, j, k)."""
        return self.items.images[:, 0]

    @property
    def volumes(self) -> Array:
        """Of the people, model units, shape (people, i, j, k)."""
        return self.who.images[:, 0]


def prepare(synthetic: SyntheticSet, options: AuditOptions, tell: OnProgress) -> Work:
    """Read the set and the people, and refuse those that do not belong together.

    Raises:
        ConfigError: others were trained on, or somebody is on both sides.
        CheckpointError: the set was made by another model.
        InputError: the set is not what its records say, or somebody's scan cannot be read.
    """
    tell(0, STEPS, "reading the set and the people")
    trained, others = people(options.training), people(options.held_out)
    digest = synthetic.record.training_split_sha256
    check_sides(trained, others, digest)
    model = None if options.model is None else _its_model(synthetic, options.model)
    items = read_items(synthetic, options.shape)
    shape = items.geometry.shape
    place = options.work or synthetic.folder.parent / f".{synthetic.folder.name}.medidiff-audit"
    return Work(
        synthetic,
        options,
        items,
        load_people([*trained, *others], shape),
        members=list(range(len(trained))),
        non_members=list(range(len(trained), len(trained) + len(others))),
        store=Store(place / _key(synthetic.sha256, config_digest(options))),
        people_store=Store(place / f"people-{_key(digest, split_sha256(others), str(shape))}"),
        tell=tell,
        model=model,
    )


def _its_model(synthetic: SyntheticSet, name: str) -> Path:
    """The file of the generator, which must be the one that made the set."""
    path = find_model(name)
    if file_sha256(path) != synthetic.record.generator.sha256:
        raise CheckpointError(f"{path}: the set was made by another model; name that one, or none")
    return path


def _key(*parts: str) -> str:
    return hashlib.sha256(" ".join((*parts, __version__)).encode()).hexdigest()[:16]
