"""Versions that are known to break Prefect stay out."""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

# First versions with which nothing starts, or schedules never fire, or that cannot be installed together.
BROKEN = {"fastapi": "0.151", "sqlalchemy": "2.1", "prefect": "3.9", "certifi": "2026.10.19"}


def pins(repository: Path) -> dict[str, str]:
    lines = (repository / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return dict(line.split("==") for line in lines if "==" in line)


@pytest.mark.parametrize(("name", "first_broken"), BROKEN.items())
def test_the_constraints_keep_to_versions_that_work(name: str, first_broken: str, repository: Path) -> None:
    pinned = Version(pins(repository)[name])
    assert pinned < Version(first_broken)
    assert Version(metadata.version(name)) == pinned, "the environment is not the tested set: make install"


@pytest.mark.parametrize("name", ["fastapi", "sqlalchemy"])
def test_the_extra_refuses_what_breaks_prefect(name: str, repository: Path) -> None:
    text = (repository / "pyproject.toml").read_text(encoding="utf-8")
    found = re.search(r"^flows = \[(.*)\]", text, flags=re.MULTILINE)
    assert found is not None
    requirements = {item.name: item for item in map(Requirement, re.findall(r'"([^"]+)"', found[1]))}
    assert not requirements[name].specifier.contains(BROKEN[name])
    assert not requirements[name].specifier.contains(f"{BROKEN[name]}.9")
