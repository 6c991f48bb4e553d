"""Nothing that names a person leaves a step: what errors say is cleaned, and strangers' log lines are kept back.

A path of a source may name a patient in any of its parts, so every part of it is removed from every message.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any

# Words of one or two letters in a path would tear holes into every sentence.
_SHORTEST = 3
_MOST_NAMES = 100_000
_PATH = re.compile(r"(?<!\w)(?:[A-Za-z]:)?(?:[\\/][^\s\\/:,;'\")]+)+")
_OURS = ("prefect", "distributed", "uvicorn", "fastapi")
_KEPT_BACK = "a message that may name a person was kept back"


def clean(text: str, sources: Iterable[str | os.PathLike[str]], instead: str = "[source]") -> str:
    """The text without the sources' paths, their parts, and whatever else looks like a path.

    Args:
        text: A message.
        sources: Paths and addresses whose every part may be a name.
        instead: What to say there.
    """
    for part in sorted(_parts(sources), key=len, reverse=True):
        text = re.sub(re.escape(part), lambda _: instead, text, flags=re.IGNORECASE)
    return _PATH.sub("[path]", text)


def places_in(value: Any) -> Iterator[str]:
    """Whatever in a configuration may be a path or an address, and what lies directly in such a folder.

    For messages about the configuration as a whole, which may quote any of it.
    """
    match value:
        case dict():
            for inner in value.values():
                yield from places_in(inner)
        case list():
            for inner in value:
                yield from places_in(inner)
        case str() if "/" in value or Path(value).exists():
            yield value
            with suppress(OSError):
                yield from (entry.name for entry in islice(os.scandir(value), _MOST_NAMES))


def _parts(sources: Iterable[str | os.PathLike[str]]) -> set[str]:
    found = set()
    for source in sources:
        name = os.fsdecode(os.fspath(source))
        for form in (name, str(Path(name).absolute()), os.path.realpath(name)):
            found.add(form)
            for part in Path(form).parts:
                stem = part.split(".")[0]
                found |= {part, stem, *re.split(r"[^\w]|_", stem)}
        found |= {repr(part)[1:-1] for part in found}
    return {part for part in found if len(part) >= _SHORTEST}


class KeepBack(logging.Filter):
    """Replaces what a library says by the fact that it said something: it may quote a header or a name."""

    def filter(self, record: logging.LogRecord) -> bool:
        if record.name.split(".")[0] not in _OURS:
            record.msg = f"{record.name.split('.')[0]}: {_KEPT_BACK}"
            record.args = ()
            record.exc_info = record.exc_text = record.stack_info = None
        return True


def keep_back_strangers() -> None:
    """From here on warnings and log lines of other libraries lose their text, in this process."""
    logging.captureWarnings(capture=True)
    root = logging.getLogger()
    if not root.handlers:
        root.addHandler(logging.StreamHandler())
    for handler in root.handlers:
        if not any(isinstance(each, KeepBack) for each in handler.filters):
            handler.addFilter(KeepBack())
