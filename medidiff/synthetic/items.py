"""The items of a set as arrays, for those who hold them against people."""

from __future__ import annotations

from medidiff.data.cohort import People, Person, load_people
from medidiff.errors import InputError
from medidiff.synthetic.stored import SyntheticSet


def read_items(synthetic: SyntheticSet, shape: tuple[int, int, int] | None = None) -> People:
    """The items of a set, read and scaled exactly as people are.

    Args:
        synthetic: A finished set.
        shape: Voxels (i, j, k) of the grid; what the largest item needs, in even numbers, if None.
    Raises:
        InputError: a file is missing or altered.
    """
    faults = synthetic.faults()
    if faults:
        raise InputError(
            f"{synthetic.folder}: the set is not what its records say: {faults[0]} ({len(faults)} faults in all)"
        )
    items = [
        Person(number, synthetic.folder / item.image.path, synthetic.folder / item.label.path if item.label else None)
        for number, item in enumerate(synthetic.items)
    ]
    return load_people(items, shape or _largest(synthetic))


def _largest(synthetic: SyntheticSet) -> tuple[int, int, int]:
    shapes = [item.grid.geometry.reoriented()[0].shape for item in synthetic.items]
    i, j, k = (max(sizes) + max(sizes) % 2 for sizes in zip(*shapes, strict=True))
    return i, j, k
