"""Raw projections to an image: the whole job on small and real data, and what several looks promise."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from medidiff.diffusion.checkpoint import load_model
from medidiff.diffusion.denoiser import Preconditioned
from medidiff.diffusion.network import NoNetwork
from medidiff.errors import ConfigError, InputError
from medidiff.guidance import condition_from
from medidiff.models import find_model
from medidiff.operators import ParallelBeam
from medidiff.operators.projection import views
from medidiff.reconstruct import ReconstructOptions, reconstruct
from medidiff.restoration import Settings
from medidiff.restoration.jobs.projections import ProjectionJob
from medidiff.restoration.looks import LOOKS, ORIENTATIONS, look_again, unexplained
from medidiff.training.validate_projections import ProjectionValidation
from tests.sinograms import BINS, phantom, write_sinogram

pytest.importorskip("h5py", reason="medidiff[kspace] is not installed")


@pytest.fixture(scope="module")
def prior() -> Preconditioned:
    return load_model(find_model("ct-body"), torch.device("cpu"))[0]


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    return write_sinogram(tmp_path / "scan.h5")


def test_without_a_network_the_phantom_comes_back_in_its_own_units(scan: Path) -> None:
    job = ProjectionJob.at(scan)
    run = job.run(Preconditioned(NoNetwork()), Settings())
    assert run.mean.shape == (1, BINS, BINS, 2)
    np.testing.assert_allclose(run.mean, run.baseline, rtol=1e-6)
    inside = phantom() > 0
    assert run.mean[0, ..., 0][inside].mean() == pytest.approx(phantom()[inside].mean(), rel=0.05)
    assert np.abs(run.mean[0, ..., 0] - phantom()).mean() < 0.15 * phantom().max()
    assert run.misfit < 0.05
    assert run.evaluations == 0


def test_millimetres_scale_grid_and_values(scan: Path) -> None:
    import h5py

    with h5py.File(scan, "a") as file:
        file["measurement/instrument/detector/pixel_size_x"] = 0.25
        file["measurement/instrument/detector/pixel_size_x"].attrs["units"] = "mm"
    job = ProjectionJob.at(scan)
    assert job.geometry.spacing == pytest.approx((0.25, 0.25, 0.25))
    run = job.run(Preconditioned(NoNetwork()), Settings())
    assert np.percentile(run.mean, 95) == pytest.approx(np.percentile(phantom(), 95) / 0.25, rel=0.15)


def test_the_record_rebuilds_the_operator(scan: Path) -> None:
    job = ProjectionJob.at(scan)
    (told,) = json.loads(json.dumps(job.record()))
    again = ParallelBeam(
        (1, told["detectors"], told["detectors"], told["rows"]), np.deg2rad(told["angles_degrees"]).tolist(),
        detectors=told["detectors"], centre=told["centre_bins"],
    )  # fmt: skip
    x = torch.rand(1, *again.in_shape)
    torch.testing.assert_close(again.forward(x), job.operator().forward(x), rtol=1e-4, atol=1e-3)


def test_reconstruct_finds_projections_by_content(scan: Path, tmp_path: Path) -> None:
    renamed = scan.rename(tmp_path / "anything.dat")
    out, page, picture = tmp_path / "out.nii.gz", tmp_path / "page.html", tmp_path / "picture.png"
    options = ReconstructOptions(samples=2, steps=2, seed=3, preview=picture, report=page)
    result = reconstruct(renamed, out, options)
    record = json.loads((tmp_path / "out.json").read_text())
    assert (record["kind"], record["simulated"], record["model"]["name"]) == ("projections", False, "ct-body")
    assert record["estimate"] == f"posterior mean, {LOOKS * ORIENTATIONS} network evaluations"
    for words in ("not Hounsfield units", "trunks of people", "mirror image"):
        assert any(words in text for text in record["warnings"])
    assert result.volumes["restored"].data.shape == (1, BINS, BINS, 2)
    assert record["data_consistency_nrmse"] < 0.05
    assert len(result.samples) == 2
    assert picture.stat().st_size > 10_000
    assert "projections" in page.read_text()


def test_a_sample_is_its_seeds_and_agrees_with_the_data(scan: Path, prior: Preconditioned) -> None:
    job = ProjectionJob.at(scan)
    first, again, other = (job.run(prior, Settings(samples=1, steps=3, seed=seed)).samples[0] for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-4
    operator, y = job.operator(), torch.from_numpy(job.sinogram.data)[None, None]
    back = operator.forward(torch.from_numpy(first)[None])
    assert float((back - y).norm() / y.norm()) < 0.1


@pytest.mark.parametrize("given", [{"denoise": True}, {"spacing": 1.0}, {"thickness": 2.0}, {"motion": True}])
def test_options_of_scans_are_refused(scan: Path, tmp_path: Path, given: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="raw projections"):
        reconstruct(scan, tmp_path / "out.nii.gz", ReconstructOptions(**given))  # type: ignore[arg-type]


def test_projections_of_nothing_are_refused(tmp_path: Path) -> None:
    path = write_sinogram(tmp_path / "air.h5", data=np.full((45, 2, BINS), 20_000.0))
    with pytest.raises(InputError, match="nothing"):
        ProjectionJob.at(path).run(Preconditioned(NoNetwork()), Settings())


def test_every_look_is_brought_back_to_the_data_and_counts(prior: Preconditioned) -> None:
    x = torch.from_numpy(phantom() / 0.09).float()[None, None, ..., None]
    operator = ParallelBeam((1, BINS, BINS, 1), views(20))
    noise = 0.05
    y = operator.forward(x)
    y = y + noise * torch.randn(y.shape, generator=torch.Generator().manual_seed(0))
    seen: list[int] = []
    with torch.no_grad():
        found = look_again(prior, operator, y, noise, looks=3, on_look=lambda: seen.append(1))
    assert (len(found), len(seen)) == (3, 3 * ORIENTATIONS)
    for one in found:
        assert float(one.min()) >= 0
        assert float((operator.forward(one) - y).norm() / y.norm()) < 0.06
    assert (found[0] - x).norm() < 0.9 * (operator.classical(y) - x).norm()


def test_orientations_are_undone_and_a_look_does_not_depend_on_how_the_plane_lies(prior: Preconditioned) -> None:
    """Mirroring a plane about i is projecting it from the opposite side: the answers are mirror images."""
    x = torch.zeros(1, 1, 40, 32, 1)
    x[:, :, 8:30, 6:22] = 0.4
    x[:, :, 12:18, 9:14] = 0.9
    angles = views(20)
    straight = ParallelBeam((1, 40, 32, 1), angles)
    mirrored = ParallelBeam((1, 40, 32, 1), [math.pi - angle for angle in angles])
    y, flipped = straight.forward(x), mirrored.forward(x.flip(2))
    told = condition_from(straight, y, 0.05)
    # Total variation takes differences forwards: its own mirror image is not the same to the last digit.
    turned = replace(told, reference=told.reference.flip(2), known=told.known.flip(2))
    with torch.no_grad():
        (one,) = look_again(prior, straight, y, 0.05, looks=1, condition=told)
        (other,) = look_again(prior, mirrored, flipped, 0.05, looks=1, condition=turned)
    torch.testing.assert_close(other.flip(2), one, rtol=0, atol=2e-3)
    # The corner with the insert is where it was: each of the eight was turned back.
    assert float(one[0, 0, 12:18, 9:14].mean()) > float(one[0, 0, 20:26, 9:14].mean()) + 0.3
    assert one.shape == x.shape


def test_what_no_image_explains_counts_as_noise() -> None:
    operator = ParallelBeam((1, 16, 16, 1), views(8))
    x = torch.rand(1, 1, 16, 16, 1)
    y = operator.forward(x)
    assert unexplained(operator, y, x, 0.05) == 0.05
    assert unexplained(operator, y + 0.2, x, 0.05) == pytest.approx(0.2, rel=1e-4)


def test_the_prior_beats_its_reference_on_the_held_back_person(prior: Preconditioned, shared: Path) -> None:
    """What the card promises: planes of a person it never saw, from 40 views, over total variation."""
    from benchmarks.reconstruction.ct import HELD_OUT, planes_of

    truth, _ = planes_of(shared / "data" / HELD_OUT, 28)
    case = ProjectionValidation(truth[0, 0], views=40, noise_std=0.05, looks=LOOKS)
    assert case(prior) > case.baseline() + 1


def test_the_tooth_is_reconstructed(shared: Path) -> None:
    """Real counts: enamel, dentine and the canal apart, and air at zero."""
    job = ProjectionJob.at(shared / "data" / "sinogram-tomopy" / "tooth.h5")
    operator, sinogram = job.operator(), job.sinogram
    y = torch.from_numpy(sinogram.data[..., :1].copy())[None, None]
    one = ParallelBeam((1, 640, 640, 1), operator.angles[::3], detectors=operator.detectors, centre=operator.centre)
    image = one.classical(y[:, :, ::3].contiguous(), steps=6)[0, 0, :, :, 0].numpy()
    air, tooth = image[280:360, 60:120], image[250:420, 230:430]
    assert abs(air.mean()) < 0.05 * np.percentile(tooth, 95)
    assert np.percentile(tooth, 95) == pytest.approx(0.008, rel=0.25)
