"""The CT benchmark: rivals that see what we see, scores that are what they say."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.reconstruction import ct, ct_rivals
from benchmarks.reconstruction.ct import CASES, Case, _hu, planes_of, psnr, window_errors
from medidiff.geometry import Geometry
from medidiff.io import write_volume
from medidiff.volume import Modality, Volume

GOOD = {
    "FBP": {"filter": "hann"},
    "SART": {"sweeps": 2, "relaxation": 0.2},
    "SIRT": {"iterations": 60},
    "TV": {"weight": 2e-4, "iterations": 80},
}


def trunk(i: int = 44, j: int = 36, k: int = 12) -> np.ndarray:
    x, y, _ = np.meshgrid(np.linspace(-1, 1, i), np.linspace(-1, 1, j), np.arange(k), indexing="ij")
    hu = np.full(x.shape, -1000.0)
    hu[x**2 + (y / 0.8) ** 2 < 0.9] = -90
    hu[x**2 + (y / 0.8) ** 2 < 0.7] = 50
    hu[(x - 0.45) ** 2 + y**2 < 0.06] = 150
    hu[x**2 + (y + 0.45) ** 2 < 0.03] = 700
    return hu


@pytest.fixture(scope="module")
def case() -> Case:
    truth = torch.from_numpy((trunk(45, 37, 2) + 1000).astype(np.float32) / 2048)[None, None]
    return Case.simulate(truth, 8.0, 60, 180, 0)


@pytest.mark.parametrize("name", list(ct_rivals.GRIDS))
def test_a_rival_sees_the_planes_where_they_are(case: Case, name: str) -> None:
    """From many views every method gives the truth, neither turned nor mirrored nor shifted."""
    found = ct_rivals.reconstruct(name, case.operator, case.y, GOOD[name])
    level = psnr(window_errors(found, case))
    assert level > 11
    for wrong in (found.flip(2), found.flip(3), found.roll(1, 2), found.roll(-1, 3), found.roll(1, 3)):
        assert psnr(window_errors(wrong, case)) < level - 0.5


def test_our_sirt_is_astras(case: Case) -> None:
    pytest.importorskip("astra", exc_type=ImportError, reason="astra-toolbox is not installed")
    ours = ct_rivals.sirt(case.operator, case.y, 20)
    theirs = ct_rivals.astra_sirt(case.operator, case.y, 20)
    assert float((ours - theirs).norm() / theirs.norm()) < 0.01


def test_scores_are_those_of_the_window(case: Case) -> None:
    errors = window_errors(case.truth + 20 / 2048, case)
    inside = np.clip(_hu(case.truth), -160, 240)
    counted = case.body & (inside < 220) & (inside > -160)
    assert errors[:, 2].sum() == case.body.sum()
    assert errors[:, 0].sum() == pytest.approx(400 * counted.sum(), rel=0.01)
    assert ct.similarity(case.truth, case) == pytest.approx(1)


def test_noise_is_what_the_photons_leave(case: Case) -> None:
    one, again = (Case.simulate(case.truth, 8.0, 60, 180, seed) for seed in (0, 1))
    difference = (again.y - one.y).square().mean().sqrt() / 2**0.5
    assert float(difference) == pytest.approx(one.noise_std, rel=0.05)


def test_planes_come_with_an_odd_grid(tmp_path: Path) -> None:
    hu = trunk(43, 36, 12)
    write_volume(
        Volume(hu[None].astype(np.float32), Geometry(np.diag([2.0, 2, 3, 1]), hu.shape), Modality.CT),
        tmp_path / "a.nii.gz",
    )
    planes, mm = planes_of(tmp_path / "a.nii.gz", 4)
    assert planes.shape == (1, 1, 43, 37, 3)
    assert mm == pytest.approx(2.0)
    np.testing.assert_allclose(_hu(planes)[:43, :36], hu[:, :, 2::4], atol=1e-3)


def test_the_tuned_settings_are_of_the_grids_and_of_training_people() -> None:
    tuned = json.loads(ct.TUNED.read_text())
    assert set(tuned) == set(CASES)
    for case in tuned.values():
        assert {name: settings in list(ct_rivals.GRIDS[name]) for name, settings in case.items()} == dict.fromkeys(
            ct_rivals.GRIDS, True
        )
    assert ct.HELD_OUT not in ct.TRAINING


def test_one_command_leaves_rows_table_and_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tmp_path / "data" / ct.HELD_OUT
    data.parent.mkdir(parents=True)
    write_volume(
        Volume(trunk()[None].astype(np.float32), Geometry(np.diag([8.0, 8, 8, 1]), (44, 36, 12)), Modality.CT), data
    )
    monkeypatch.setattr(ct, "CASES", {"40 views": (40, 180)})
    monkeypatch.setattr(ct, "LOOKS", (1,))
    out = tmp_path / "out"
    ct.main(["--out", str(out), "--data", str(tmp_path / "data"), "--step", "4"])
    with (out / "ct.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["method"] for row in rows] == [*ct_rivals.GRIDS, "medidiff, 1 look"]
    assert float(next(row for row in rows if row["method"] == "TV")["gain"]) == 0
    assert all(float(row["psnr_low"]) <= float(row["psnr"]) <= float(row["psnr_high"]) for row in rows)
    text = (out / "ct.md").read_text()
    assert "3 planes" in text
    assert (out / "ct.png").stat().st_size > 5000
    assert (out / "ct_planes.png").stat().st_size > 5000
