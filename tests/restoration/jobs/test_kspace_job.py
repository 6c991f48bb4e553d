"""Raw-data files as a job: what was written as k-space comes back as the image, in its place, with what was done."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("h5py", reason="raw k-space needs the extra kspace")
pytest.importorskip("ismrmrd", reason="test files are written by the ismrmrd package")

from medidiff.diffusion.denoiser import Preconditioned
from medidiff.diffusion.network import NoNetwork
from medidiff.errors import ConfigError, InputError
from medidiff.io import read_volume
from medidiff.reconstruct import ReconstructOptions, reconstruct
from medidiff.restoration import Settings
from medidiff.restoration.jobs.kspace import KSpaceJob, prepared
from medidiff.training.kspace_simulation import coil_maps
from medidiff.volume import Volume
from tests.diffusion.networks import random_unet
from tests.io.kspace_files import Array, Layout, to_kspace, write_fastmri, write_ismrmrd

SHAPE, COILS = (48, 56, 4), 4


@pytest.fixture(scope="module")
def head(mni: Volume) -> Array:
    """Coarse axial planes, shape (48, 56, 4)."""
    return mni.data[0, 2:194:4, 4:228:4, 80:96:4].copy()


@pytest.fixture(scope="module")
def coils(head: Array) -> Array:
    """Noisy images of four coils, shape (4, 48, 56, 4)."""
    maps = coil_maps(SHAPE[:2], COILS, np.random.default_rng(0)).numpy()[..., None]
    rng = np.random.default_rng(1)
    noise = rng.normal(size=(COILS, *SHAPE, 2)) @ np.array([1, 1j])
    return (maps * head + 2e-3 * head.max() * noise).astype(np.complex64)


def classical(path: Path) -> Array:
    """The baseline of the job, on the conformed grid, shape (i, j, k)."""
    return KSpaceJob.at(path).run(Preconditioned(NoNetwork()), Settings(steps=1)).baseline[0]


def error(x: Array, truth: Array) -> float:
    inside = truth > 0.15 * truth.max()
    return float(np.linalg.norm((x - truth)[inside]) / np.linalg.norm(truth[inside]))


@pytest.mark.parametrize("volume", [False, True])
def test_a_full_acquisition_comes_back_as_the_head_in_its_place(
    tmp_path: Path, head: Array, coils: Array, volume: bool
) -> None:
    write_ismrmrd(tmp_path / "scan.h5", coils, Layout(oversampling=2, volume=volume))
    job = KSpaceJob.at(tmp_path / "scan.h5")
    # Read-out to the left, phase to the back (LPS x and y): conformed, both run the other way.
    assert job.geometry.orientation == "LPS"
    found = classical(tmp_path / "scan.h5")[::-1, ::-1]
    assert error(found, head) < 0.05
    assert any("Every sample was taken" in words for words in job.plan().words)


@pytest.mark.parametrize("volume", [False, True])
def test_lines_left_out_are_estimated(tmp_path: Path, head: Array, coils: Array, volume: bool) -> None:
    """Every second line and twelve in the middle; of a volume so many phase encodes."""
    lines = tuple(n for n in range(56) if n % 2 == 0 or 20 <= n < 36)
    if volume:
        coils = np.concatenate([coils, coils[..., ::-1]], axis=-1)
        head = np.concatenate([head, head[..., ::-1]], axis=-1)
    write_ismrmrd(tmp_path / "scan.h5", coils, Layout(lines=lines, volume=volume))
    job = KSpaceJob.at(tmp_path / "scan.h5")
    run = job.run(Preconditioned(NoNetwork()), Settings(steps=1))
    zero_filled = run.input.reoriented().data[0][::-1, ::-1]
    assert error(run.baseline[0][::-1, ::-1], head) < 0.12
    assert error(run.baseline[0][::-1, ::-1], head) < 0.7 * error(zero_filled, head)
    assert run.misfit < 0.05
    assert job.record()[0]["sampled_share"] == pytest.approx(len(lines) / 56)


def test_calibration_lines_apart_give_the_maps(tmp_path: Path, head: Array, coils: Array) -> None:
    every_third = tuple(range(1, 56, 3))
    write_ismrmrd(tmp_path / "none.h5", coils, Layout(lines=every_third))
    with pytest.raises(InputError, match="reference lines"):
        classical(tmp_path / "none.h5")
    write_ismrmrd(tmp_path / "apart.h5", coils, Layout(lines=every_third, separate=tuple(range(18, 38))))
    found = classical(tmp_path / "apart.h5")[::-1, ::-1]
    assert error(found, head) < 0.2


@pytest.mark.parametrize(("middle", "doubted"), [(range(25, 33), True), (range(20, 36), False)])
def test_few_reference_lines_are_doubted(tmp_path: Path, coils: Array, middle: range, doubted: bool) -> None:
    lines = tuple(n for n in range(56) if n % 2 == 0 or n in middle)
    write_ismrmrd(tmp_path / "scan.h5", coils, Layout(lines=lines))
    warnings = KSpaceJob.at(tmp_path / "scan.h5").plan().doubts
    assert any("coil maps from so few are coarse" in text for text in warnings) == doubted


def test_a_noise_scan_makes_the_coils_white_and_says_how_noisy_they_are(tmp_path: Path, coils: Array) -> None:
    rng = np.random.default_rng(3)
    mixing = np.eye(COILS) + 0.7 * (rng.normal(size=(COILS, COILS)) + 1j * rng.normal(size=(COILS, COILS)))
    white = rng.normal(size=(64, COILS, 64, 2)) @ np.array([1, 1j]) / np.sqrt(2)
    write_ismrmrd(tmp_path / "scan.h5", coils, Layout(noise=np.einsum("ab,nbs->nas", mixing, white)))
    job = KSpaceJob.at(tmp_path / "scan.h5")
    raw = job.raw
    assert raw.noise_covariance is not None
    _, _, noise = prepared(raw, 0)
    assert noise == pytest.approx(np.sqrt(np.mean(np.abs(mixing @ mixing.conj().T).diagonal())), rel=0.1)
    from medidiff.restoration.jobs.kspace import _whitening

    whiten = _whitening(raw.noise_covariance).numpy()
    np.testing.assert_allclose(whiten @ raw.noise_covariance @ whiten.conj().T, np.eye(COILS), atol=1e-3)
    assert job.record()[0]["prewhitened"]


def test_thick_slices_are_restored_one_by_one_and_stay(tmp_path: Path, coils: Array) -> None:
    write_ismrmrd(tmp_path / "scan.h5", coils, Layout(spacing=(4.0, 4.0, 4.0), gap=3.0))
    job = KSpaceJob.at(tmp_path / "scan.h5")
    assert job.geometry.spacing == pytest.approx((4, 4, 12), rel=1e-4)
    told: list[int] = []
    run = job.run(Preconditioned(random_unet()), Settings(steps=1), lambda done, total, _: told.append(total))
    assert run.mean.shape == (1, *SHAPE)
    assert told
    assert any("Slices stay" in words for words in job.plan().words)


def test_fastmri_and_arrays_go_the_same_way(tmp_path: Path, head: Array, coils: Array) -> None:
    write_fastmri(tmp_path / "a.h5", coils)
    np.save(tmp_path / "b.npy", to_kspace(coils, (1, 2)))
    one, other = classical(tmp_path / "a.h5"), classical(tmp_path / "b.npy")
    # Rows run to the back, columns to the left: conformed, x comes first.
    expected = head.transpose(1, 0, 2)[::-1, ::-1]
    assert error(one, expected) < 0.05
    assert error(other, expected) < 0.05


def test_from_a_file_to_a_file_with_its_record(tmp_path: Path, coils: Array) -> None:
    write_ismrmrd(tmp_path / "scan.h5", coils, Layout(lines=tuple(range(0, 56, 2)) + tuple(range(21, 36, 2))))
    done = reconstruct(
        tmp_path / "scan.h5", tmp_path / "out.nii.gz", ReconstructOptions(fast=True, preview=tmp_path / "out.png")
    )
    written = read_volume(tmp_path / "out.nii.gz")
    assert written.geometry.distance(KSpaceJob.at(tmp_path / "scan.h5").geometry) < 1e-3
    assert done.record["kind"] == "kspace"
    assert done.record["operators"][0]["coils"] == COILS
    assert not done.record["simulated"]
    assert "Secret" not in str(done.record)
    assert (tmp_path / "out.png").stat().st_size > 1000


@pytest.mark.parametrize("options", [{"spacing": 1.0}, {"denoise": True}, {"profile": "gaussian"}, {"motion": True}])
def test_options_that_are_for_images_are_refused(tmp_path: Path, coils: Array, options: dict[str, float]) -> None:
    write_ismrmrd(tmp_path / "scan.h5", coils)
    with pytest.raises(ConfigError, match="raw k-space"):
        reconstruct(tmp_path / "scan.h5", tmp_path / "out.nii.gz", ReconstructOptions(**options))  # type: ignore[arg-type]


def test_a_split_into_data_and_prior_is_refused_before_the_work(tmp_path: Path, coils: Array) -> None:
    write_ismrmrd(tmp_path / "scan.h5", coils)
    with pytest.raises(ConfigError, match="--provenance is not for raw k-space"):
        reconstruct(tmp_path / "scan.h5", tmp_path / "out.nii.gz", ReconstructOptions(fast=True, provenance=True))
    assert not [*tmp_path.glob("out*")]


@pytest.mark.slow
def test_the_real_eight_coil_slice_agrees_with_its_samples(shared: Path, tmp_path: Path) -> None:
    source = shared / "data" / "kspace-sigpy" / "cartesian_ksp_8ch.npy"
    done = reconstruct(source, tmp_path / "real.nii.gz", ReconstructOptions(steps=2))
    assert done.record["data_consistency_nrmse"] < 0.05
    restored, before = (done.volumes[name].data for name in ("restored", "input"))
    # Sharper than the zero-filled image, whose high frequencies are mostly missing.
    sharpness = [float(np.abs(np.diff(x / x.mean(), axis=1)).mean()) for x in (restored, before)]
    assert sharpness[0] > sharpness[1]
    assert torch.from_numpy(restored).isfinite().all()
