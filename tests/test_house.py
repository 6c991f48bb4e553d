"""The house itself: what its files promise is so."""

from __future__ import annotations

import importlib.util
import re
import shlex
import subprocess
import sys
import tomllib
import zipfile
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import typer
from packaging.requirements import Requirement

from medidiff.cli.app import ANYWHERE, app
from medidiff.volume import Volume
from tests import model_cards


@pytest.fixture(scope="module")
def project(repository: Path) -> dict[str, Any]:
    return tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))


def tracked(repository: Path, *patterns: str) -> list[Path]:
    """Files under version control; all files where there is no git, as in an unpacked archive."""
    if not (repository / ".git").exists():
        return [path for pattern in patterns for path in repository.rglob(pattern.lstrip("*"))]
    command = ["git", "-c", f"safe.directory={repository}", "ls-files", "-z", "--", *patterns]
    listed = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=True).stdout
    return [path for name in listed.split("\0") if name and (path := repository / name).exists()]


def test_the_packaged_brain_is_whole(mni: Volume) -> None:
    assert mni.data.shape == (1, 197, 233, 189)
    assert mni.geometry.spacing == (1.0, 1.0, 1.0)
    assert mni.geometry.orientation == "RAS"
    assert mni.data.max() > 100


def test_every_dependency_is_pinned_within_its_bounds(project: dict[str, Any], repository: Path) -> None:
    pins = {}
    for line in (repository / "constraints.txt").read_text().splitlines():
        name, _, version = line.partition("==")
        pins[_normal(name)] = version
    assert not [line for line in pins.values() if "+" in line], "a pin for one build of torch fits no other machine"
    assert not [name for name in pins if name.startswith(("nvidia-", "triton", "cuda"))]
    extras = project["project"]["optional-dependencies"].values()
    for requirement in map(Requirement, chain(project["project"]["dependencies"], *extras)):
        pin = pins.get(_normal(requirement.name))
        assert pin, f"constraints.txt has no pin for {requirement.name}: make constraints"
        assert requirement.specifier.contains(pin), f"{requirement} excludes its own pin {pin}"
        assert requirement.specifier or requirement.name.startswith("types-"), f"{requirement} has no lower bound"


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_the_wheel_holds_every_file_of_the_package(repository: Path, tmp_path: Path) -> None:
    if importlib.util.find_spec("hatchling") is None:
        pytest.skip("hatchling, the build backend, is not installed")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=repository, check=True, capture_output=True, timeout=300)
    (wheel,) = tmp_path.glob("*.whl")
    packed = set(zipfile.ZipFile(wheel).namelist())
    expected = {str(path.relative_to(repository)) for path in tracked(repository, "medidiff/*")}
    assert "medidiff/py.typed" in expected
    assert expected <= packed
    assert any(name.endswith("licenses/LICENSE") for name in packed)
    outside = {name.split("/")[0] for name in packed}
    assert len(outside) == 2, f"only the package and its metadata belong into a wheel: {outside}"


def test_links_between_documents_lead_somewhere(repository: Path) -> None:
    broken = [
        f"{document.relative_to(repository)}: {target}"
        for document in tracked(repository, "*.md")
        for target in re.findall(r"\]\(([^)#\s]+)", document.read_text(encoding="utf-8"))
        if not re.match(r"[a-z]+:", target) and not (document.parent / target).exists()
    ]
    assert not broken


def test_make_targets_in_the_documents_exist(repository: Path) -> None:
    targets = set(re.findall(r"^([a-z%-]+):", (repository / "Makefile").read_text(), flags=re.MULTILINE))
    unknown = []
    for document in tracked(repository, "*.md"):
        for line in re.findall(r"^    make ([a-z -]+)", document.read_text(encoding="utf-8"), flags=re.MULTILINE):
            named = line.split("  ")[0].split()
            unknown += [name for name in named if name not in targets and not name.startswith("bench-")]
    assert not unknown


def test_every_room_is_in_the_architecture(repository: Path) -> None:
    text = (repository / "docs" / "architecture.md").read_text(encoding="utf-8")
    rooms = {path.relative_to(repository / "medidiff").parts[0] for path in tracked(repository, "medidiff/*.py")}
    rooms = {room.removesuffix(".py") for room in rooms if not room.startswith("__")}
    assert "geometry" in rooms
    assert not {room for room in rooms if not re.search(rf"\b{room}\b", text)}


def test_the_page_of_models_says_what_the_models_say() -> None:
    written = model_cards.PAGE.read_text(encoding="utf-8")
    assert "Not a medical device" in written
    assert written == model_cards.page(), "write it again: python -m tests.model_cards"


def test_no_dependency_brings_the_gpl_unasked(project: dict[str, Any]) -> None:
    """The decoder that is under the GPL is an extra, for whoever installs medidiff to choose."""
    names = [_normal(Requirement(text).name) for text in project["project"]["dependencies"]]
    assert "pylibjpeg-libjpeg" not in names
    assert [text.split(">")[0] for text in project["project"]["optional-dependencies"]["jpeg-gpl"]] == [
        "pylibjpeg-libjpeg"
    ]


def test_commands_in_the_documents_have_the_options_shown(repository: Path) -> None:
    typer_app = typer.main.get_command(app)
    wrong = []
    for document in tracked(repository, "*.md"):
        for line in re.findall(r"^    (?:\$ )?medidiff (.+)", document.read_text(encoding="utf-8"), flags=re.MULTILINE):
            command, words = typer_app, shlex.split(line, comments=True)
            while words and words[0] in getattr(command, "commands", {}):
                command = command.commands[words.pop(0)]
            known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
            known |= {"--help", "-h", *ANYWHERE}
            wrong += [f"{document.name}: {line}: {word}" for word in words if _is_option(word) and word not in known]
            if getattr(command, "commands", None) and words and not _is_option(words[0]):
                wrong.append(f"{document.name}: {line}: no such command")
    assert not wrong


def _is_option(word: str) -> bool:
    return re.fullmatch(r"--?[a-z][a-z-]*", word) is not None
