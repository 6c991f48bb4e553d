"""Killed with -9 at any point and started again, a run ends as if nothing had happened."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest

from medidiff.privacy.keys import PrivacyKey
from tests.ingest.heaps import PLAIN, nifti, run, series, tree


def killed_at(step: int, sources: Path, dataset: Path) -> bool:
    """Run in a child that dies by SIGKILL at its n-th flush, rename or removal; whether it died."""
    child = os.fork()
    if child == 0:
        left = step

        def deadly(kind: str) -> None:
            nonlocal left
            original = getattr(os, kind)

            def call(*arguments: object, **named: object) -> object:
                nonlocal left
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return original(*arguments, **named)

            setattr(os, kind, call)

        code = 1
        try:
            for kind in ("fsync", "replace", "unlink"):
                deadly(kind)
            run(sources, dataset)
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.WEXITSTATUS(status) == 0
    return False


@pytest.fixture(scope="module")
def heap(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("crash")
    series(folder / "heap" / "a", "P-1")
    series(folder / "heap" / "b", "P-2", seed=1)
    nifti(folder / "heap" / "scan_T1w.nii.gz")
    shutil.copy(folder / "heap" / "scan_T1w.nii.gz", folder / "heap" / "copy_T1w.nii.gz")
    PrivacyKey.create(folder / "key")
    run(folder / "heap", folder / "whole", PLAIN.model_copy(update={"key": folder / "key"}))
    return folder


def test_wherever_it_is_killed_the_next_run_ends_the_same(heap: Path, tmp_path: Path) -> None:
    expected, before = tree(heap / "whole"), tree(heap / "heap")
    deaths = 0
    for step in (1, 4, 9, 14, 19, 23, 28, 33, 39, 46, 55):
        dataset = tmp_path / f"killed-{step}"
        shutil.copy(heap / "key", tmp_path / f"killed-{step}.key")
        if not killed_at(step, heap / "heap", dataset):
            continue
        deaths += 1
        run(heap / "heap", dataset)
        assert tree(dataset) == expected, f"killed at step {step}"
        assert not list(tmp_path.rglob(".medidiff-tmp-*"))
        assert not (tmp_path / f".killed-{step}.medidiff-work").exists()
    assert deaths >= 8
    assert tree(heap / "heap") == before


def test_killed_again_and_again_it_still_gets_there(heap: Path, tmp_path: Path) -> None:
    dataset = tmp_path / "dataset"
    shutil.copy(heap / "key", tmp_path / "dataset.key")
    attempts = 0
    while killed_at(9 + 6 * attempts, heap / "heap", dataset):
        attempts += 1
        assert attempts < 40
    assert attempts >= 3
    assert tree(dataset) == tree(heap / "whole")
