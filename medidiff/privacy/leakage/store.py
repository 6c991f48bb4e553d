"""Arrays kept on disk while a long examination runs, so that one that was killed goes on where it stopped."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medidiff.errors import OutputError
from medidiff.io.atomic import atomic_file

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Store:
    """A folder of results, each under a name that says what it was made from.

    Args:
        folder: Made if it is not there.
    """

    folder: Path

    def arrays(self, name: str, make: Callable[[], Mapping[str, Array]]) -> dict[str, Array]:
        """What is kept under a name, or what ``make`` gives, which is then kept.

        Raises:
            OutputError: the folder cannot be written.
        """
        path = self.folder / f"{name}.npz"
        if path.is_file():
            # A damaged file is as good as none.
            with suppress(OSError, ValueError, EOFError, zipfile.BadZipFile), np.load(path, allow_pickle=False) as kept:
                return {key: kept[key] for key in kept.files}
        made = dict(make())
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"cannot write {self.folder}: {error.strerror}; name another place") from error
        with atomic_file(path, durable=False) as temporary, temporary.open("wb") as stream:
            np.savez(stream, allow_pickle=False, **made)
        return made

    def clear(self) -> None:
        """Remove everything."""
        shutil.rmtree(self.folder, ignore_errors=True)
