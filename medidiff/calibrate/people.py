"""Whose scans are given: nobody twice, and nobody both teaches and is counted."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from medidiff.errors import InputError
from medidiff.io.source import file_sha256

# Of all people this share teaches the scale, and at least two.
SCALE_SHARE = 5


def check_people(scans: Sequence[Path]) -> list[Path]:
    """Refuse the same person twice, as far as files and names tell: two scans of one count as one at most.

    Raises:
        InputError: the same bytes or the same BIDS subject twice, or a file that is not there.
    """
    seen: dict[str, int] = {}
    for number, path in enumerate(scans, 1):
        try:
            marks = [file_sha256(path)]
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({error.strerror}); give files, one a person") from error
        marks += re.findall(r"sub-[A-Za-z0-9]+", path.name)[:1]
        for mark in marks:
            if mark in seen:
                raise InputError(f"scans {seen[mark]} and {number} are of one person: give one scan of each")
            seen[mark] = number
    return list(scans)


def split_people(people: list[Path], level: float) -> tuple[list[Path], list[Path]]:
    """Who teaches the scale, and who is counted for the multiplier: nobody does both.

    Raises:
        InputError: too few people for intervals of that level.
    """
    from medidiff.uncertainty import smallest_count

    share = max(2, len(people) // SCALE_SHARE)
    taught = {round((index + 0.5) * len(people) / share - 0.5) for index in range(share)} if people else set()
    counted = [path for index, path in enumerate(people) if index not in taught]
    if len(counted) < smallest_count(level):
        raise InputError(
            f"intervals of {1 - level:.0%} need {smallest_count(level)} people for the multiplier and 2 for the scale, "
            f"got {len(people)}: spread, not calibrated"
        )
    return [people[index] for index in sorted(taught)], counted
