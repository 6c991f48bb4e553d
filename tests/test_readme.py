"""What README.md shows is what happens: its commands are run, and their output is compared."""

from __future__ import annotations

import doctest
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from medidiff.io import write_volume
from medidiff.volume import Volume

README = Path(__file__).parents[1] / "README.md"
# Output that takes long to make, or differs from run to run, is shown in the README but not compared.
NOT_RUN = ("medidiff reconstruct", "medidiff ingest", "medidiff deidentify", "medidiff train", "make ")


def shown_commands() -> list[tuple[str, str]]:
    """Each indented line ``$ medidiff ...``, and the indented lines below it."""
    text = README.read_text(encoding="utf-8")
    pairs = re.findall(r"^    \$ (.+)\n((?:    (?!\$ ).+\n)*)", text, flags=re.MULTILINE)
    return [
        (command, "\n".join(line[4:].rstrip() for line in output.splitlines()))
        for command, output in pairs
        if not command.startswith(NOT_RUN)
    ]


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory, mni: Volume) -> Path:
    """A folder with the files that the README speaks of; ``scan.nii.gz`` is a brain in 4 mm slices."""
    folder = tmp_path_factory.mktemp("desk")
    fine = mni.data[..., :188]
    thick = fine.reshape(*fine.shape[:3], 47, 4).mean(-1).round()
    write_volume(
        Volume(thick, mni.geometry.resampled(2, 47, 4.0), mni.modality), folder / "scan.nii.gz", dtype=np.int16
    )
    (folder / "wrong.yaml").write_text(
        "kind: train\nname: tiny\ndata: {root: ., train: []}\noptimizer:\n  steps: 0\n", encoding="utf-8"
    )
    (folder / "tiny.yaml").write_text(
        "kind: train\nname: tiny\ndata: {root: scans, train: [{files: '*_T1w.nii.gz'}]}\noptimizer: {steps: 500}\n",
        encoding="utf-8",
    )
    return folder


def test_the_readme_shows_commands() -> None:
    assert len(shown_commands()) >= 4


@pytest.mark.parametrize(("command", "expected"), shown_commands(), ids=lambda text: text.splitlines()[0][:40])
def test_a_command_prints_what_the_readme_shows(command: str, expected: str, desk: Path) -> None:
    program, *arguments = shlex.split(command)
    assert program == "medidiff"
    done = subprocess.run(
        [sys.executable, "-m", "medidiff", *arguments],
        cwd=desk,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        env=os.environ | {"COLUMNS": "120", "NO_COLOR": "1", "PYTHONPATH": str(README.parent)},
    )
    # Empty lines separate parts for the eye; an indented block in Markdown would end at some of them.
    printed = [line.rstrip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    assert printed == expected.splitlines()


def test_the_library_examples_run(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(desk)
    failed, tried = doctest.testfile(str(README), module_relative=False, optionflags=doctest.ELLIPSIS)
    assert tried > 0
    assert failed == 0
