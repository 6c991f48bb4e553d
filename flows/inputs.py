"""What a configuration reads: every file that it names or means; if one changes, the step is done again."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from flows.engine.keys import Fingerprints
from medidiff.config import Config
from medidiff.data.cohort import Cohort, people
from medidiff.errors import CheckpointError
from medidiff.models import find_model
from medidiff.train import DataConfig
from medidiff.training.volumes import list_files

# Settings that name a model: one that ships, or a file.
_MODELS = frozenset({"model", "encoder", "features"})


def content_of(fingerprints: Fingerprints, config: Config) -> tuple[str, tuple[str, ...]]:
    """The hash of all that a configuration reads, and the paths, whose parts must be kept out of messages.

    Raises:
        ConfigError, InputError: what it names is not there.
    """
    digest = hashlib.sha256()
    sources = []
    for place, path in files_of(config):
        digest.update(f"{place} {fingerprints.of(path)}\n".encode())
        sources.append(str(path))
    return digest.hexdigest(), tuple(sources)


def files_of(value: Any, place: str = "") -> Iterator[tuple[str, Path]]:
    """Files and folders that a configuration reads, each with the place in it where it is named.

    Of people only the chosen ones count: whoever joins a cohort of "the first 160" behind them changes nothing.
    """
    match value:
        case Path():
            yield place, value
        case Cohort():
            yield from _people(value, place)
        case DataConfig():
            yield from _training_data(value, place)
        case BaseModel():
            for name in type(value).model_fields:
                inner = getattr(value, name)
                is_model = name in _MODELS and isinstance(inner, str)
                yield from _model(inner, f"{place}.{name}") if is_model else files_of(inner, f"{place}.{name}")
        case tuple() | list():
            for number, inner in enumerate(value):
                yield from files_of(inner, f"{place}[{number}]")
        case _:
            return


def _people(cohort: Cohort, place: str) -> Iterator[tuple[str, Path]]:
    for person in people(cohort):
        yield f"{place}[{person.index}]", person.image
        if person.label is not None:
            yield f"{place}[{person.index}].label", person.label


def _training_data(data: DataConfig, place: str) -> Iterator[tuple[str, Path]]:
    for number, record in enumerate(list_files(data.root, data.train)):
        yield f"{place}.train[{number}]", record["path"]
    if data.validation is not None:
        yield f"{place}.validation", data.root / data.validation


def _model(name: str, place: str) -> Iterator[tuple[str, Path]]:
    """The file of a model that is named; a name that is none is told by the use case."""
    try:
        yield place, find_model(name)
    except CheckpointError:
        yield place, Path(name)
