"""Sets that the tests of a module share; each test spoils a copy of its own."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from medidiff.volume import Volume
from tests.synthetic.sets import write_releasable


@pytest.fixture(scope="session")
def pristine(tmp_path_factory: pytest.TempPathFactory, mni: Volume) -> Path:
    """A set of ten crops with two passing reports. Read only."""
    folder = tmp_path_factory.mktemp("sets") / "fixture"
    write_releasable(folder, mni)
    return folder


@pytest.fixture
def releasable(pristine: Path, tmp_path: Path) -> Path:
    """The same, the test's own."""
    return Path(shutil.copytree(pristine, tmp_path / "set"))
