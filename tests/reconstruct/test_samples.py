"""Posterior samples: in agreement with the data, each its own, and the same again for the same seed."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from medidiff.io import read_volume, write_volume
from medidiff.reconstruct import ReconstructOptions, reconstruct
from medidiff.volume import Volume
from tests.reconstruct.scans import CASES, CONSISTENCY, grouped, nrmse, read_again, scan


def test_samples_agree_with_the_data_and_their_spread_is_theirs(model: str, tmp_path: Path) -> None:
    write_volume(scan(CASES["sagittal"].geometry), tmp_path / "scan.nii")
    options = ReconstructOptions(model=model, samples=3, steps=3, seed=0)
    result = reconstruct(tmp_path / "scan.nii", tmp_path / "out.nii", options)
    assert [path.name for path in result.samples] == [f"out_sample-0{n}.nii" for n in (1, 2, 3)]
    before, _ = read_again(tmp_path / "scan.nii")
    drawn = [read_again(path)[0] for path in result.samples]
    for sample in drawn:
        assert nrmse(grouped(sample, 2, 4), before) < CONSISTENCY
    assert result.spread == tmp_path / "out_spread.nii"
    np.testing.assert_allclose(read_again(result.spread)[0], np.std(drawn, axis=0, ddof=1), rtol=1e-3, atol=1e-2)
    assert nrmse(drawn[0], drawn[1]) > 1e-3
    assert "not calibrated" in result.record["spread"]
    assert result.record["seed"] == 0, "zero is a seed like any other"


def test_the_same_seed_draws_the_same_and_another_does_not(model: str, tmp_path: Path) -> None:
    write_volume(scan(CASES["axial"].geometry), tmp_path / "scan.nii")
    drawn = []
    for seed in (5, 5, 6, None):
        options = ReconstructOptions(model=model, samples=1, steps=2, seed=seed)
        result = reconstruct(tmp_path / "scan.nii", tmp_path / "out.nii", options)
        drawn.append(read_again(result.samples[0])[0])
    assert np.array_equal(drawn[0], drawn[1])
    assert not np.allclose(drawn[0], drawn[2])
    again = ReconstructOptions(model=model, samples=1, steps=2, seed=result.record["seed"])
    result = reconstruct(tmp_path / "scan.nii", tmp_path / "out.nii", again)
    assert np.array_equal(drawn[3], read_again(result.samples[0])[0]), "a drawn seed is recorded"


def test_frames_have_noise_of_their_own(model: str, tmp_path: Path) -> None:
    geometry = CASES["axial"].geometry
    write_volume(Volume(np.repeat(scan(geometry).data, 2, axis=0), geometry), tmp_path / "scan.nii")
    options = ReconstructOptions(model=model, samples=1, steps=2, seed=1)
    result = reconstruct(tmp_path / "scan.nii", tmp_path / "out.nii", options)
    first, second = read_volume(result.samples[0]).data
    assert not np.allclose(first, second)
