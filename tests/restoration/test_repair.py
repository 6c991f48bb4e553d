"""Holes and noise on a scan's own grid: nothing else changes, and the shipped prior is worth its while."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from medidiff.cli import main
from medidiff.diffusion.checkpoint import load_model
from medidiff.diffusion.denoiser import Preconditioned
from medidiff.errors import ConfigError, GeometryError, InputError
from medidiff.geometry import Geometry
from medidiff.io import read_volume, write_volume
from medidiff.models import find_model
from medidiff.reconstruct import ReconstructOptions, reconstruct
from medidiff.restoration import Denoise, Inpaint, Settings
from medidiff.restoration.repair import estimate_noise
from medidiff.volume import Volume
from tests.tiny_model import write_tiny_model

Array = NDArray[Any]

OBLIQUE = np.array([[0, -0.1, 0.99, 3], [-1, 0, 0, 40], [0, 0.99, 0.1, -20], [0, 0, 0, 1]])
SHIFTED = OBLIQUE + np.array([[0, 0, 0, 0.5], [0, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_tiny_model(tmp_path_factory.mktemp("model") / "tiny.safetensors"))


@pytest.fixture(scope="session")
def shipped() -> Preconditioned:
    return load_model(find_model("brain-t1"), torch.device("cpu"))[0]


@pytest.fixture(scope="session")
def part(mni: Volume) -> Volume:
    """A piece of a head with air and skull, laid obliquely, odd sizes."""
    data = mni.data[:, 60:115, 150:213, 70:121].copy()
    return Volume(data, Geometry(OBLIQUE, data.shape[1:]))


def with_hole(volume: Volume) -> Array:
    mask = np.zeros(volume.geometry.shape, np.uint8)
    mask[20:30, 22:31, 15:24] = 1
    mask[40:44] = 1
    return mask


def rician(x: Array, std: float, seed: int = 0) -> Array:
    rng = np.random.default_rng(seed)
    return np.asarray(np.hypot(x + rng.normal(0, std, x.shape), rng.normal(0, std, x.shape)), dtype=np.float32)


def psnr(x: Array, truth: Array) -> float:
    return float(20 * np.log10(truth.max() / np.sqrt(np.mean((x - truth) ** 2))))


# --- holes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_outside_the_mask_not_a_bit_changes(part: Volume, tiny: str, tmp_path: Path, dtype: type) -> None:
    mask = with_hole(part)
    spoilt = np.where(mask[None], 30000, part.data).astype(dtype)
    write_volume(Volume(spoilt, part.geometry), tmp_path / "scan.nii.gz", dtype=dtype)
    # A mask whose axes are stored in another order and direction lies on the same grid.
    laid = Volume(mask[None].astype(np.float32), part.geometry).reoriented()
    write_volume(laid, tmp_path / "mask.nii.gz", dtype=np.uint8)
    options = ReconstructOptions(model=tiny, inpaint=tmp_path / "mask.nii.gz", samples=1, steps=2, seed=0)
    result = reconstruct(tmp_path / "scan.nii.gz", tmp_path / "out.nii.gz", options)
    before = read_volume(tmp_path / "scan.nii.gz")
    for path in (result.output, *result.samples):
        after = read_volume(path)
        assert after.geometry.distance(before.geometry) < 1e-3
        assert np.array_equal(after.data[0][mask == 0], before.data[0][mask == 0])
        inside = after.data[0][mask == 1]
        assert inside.max() < 1000, "what was in the hole is not believed"
        assert inside.std() > 0
    record = json.loads((tmp_path / "out.json").read_text())
    assert record["operators"] == [{"kind": "inpaint", "missing_voxels": int(mask.sum())}]
    assert record["rule"] == "projection"
    assert record["data_consistency_nrmse"] < 1e-6


def test_every_frame_is_filled_alone(part: Volume, tiny: str) -> None:
    model, _ = load_model(Path(tiny), torch.device("cpu"))
    frames = Volume(np.concatenate([part.data, 3 * part.data[:, ::-1]]), part.geometry)
    repair = Inpaint.from_mask(Volume(with_hole(part)[None], part.geometry), part.geometry)
    steps: list[tuple[int, int]] = []
    together = repair.run(frames, model, Settings(), lambda done, total, _: steps.append((done, total)))
    for n in range(2):
        alone = repair.run(Volume(frames.data[n : n + 1], part.geometry), model, Settings())
        np.testing.assert_array_equal(together.mean[n], alone.mean[0])
    assert steps == [(0, 2), (1, 2), (1, 2), (2, 2)]


def test_a_hole_in_a_large_scan_is_looked_at_from_nearby_only() -> None:
    missing = np.zeros((200, 210, 190), bool)
    missing[100:110, 4:8, 180:] = True
    box = Inpaint(missing).box
    assert [(s.start, s.stop) for s in box] == [(68, 142), (0, 64), (126, 190)]


@pytest.mark.parametrize(
    ("spoil", "error", "words"),
    [
        (lambda m: (m[:, :-1], None), GeometryError, "voxels"),
        (lambda m: (m, SHIFTED), GeometryError, "mm from the scan"),
        (lambda m: (0 * m, None), InputError, "no voxel"),
        (lambda m: (0 * m + 1, None), InputError, "every voxel|two values"),
        (lambda m: (np.arange(m.size).reshape(m.shape) % 3, None), InputError, "two values"),
    ],
)
def test_what_is_no_mask_of_this_scan_is_refused(
    spoil: Any, error: type[Exception], words: str, part: Volume, tiny: str, tmp_path: Path
) -> None:
    data, place = spoil(with_hole(part))
    write_volume(part, tmp_path / "scan.nii")
    mask = Volume(data[None].astype(np.float32), Geometry(part.geometry.affine if place is None else place, data.shape))
    write_volume(mask, tmp_path / "mask.nii")
    options = ReconstructOptions(model=tiny, inpaint=tmp_path / "mask.nii")
    with pytest.raises(error, match=words) as caught:
        reconstruct(tmp_path / "scan.nii", tmp_path / "out.nii", options)
    assert "mask.nii" in str(caught.value)
    assert not (tmp_path / "out.nii").exists()


def test_a_hole_deeper_than_any_in_training_is_told(part: Volume) -> None:
    missing = np.zeros((80, 80, 80), bool)
    missing[20:60, 20:60, 20:60] = True
    assert any("deep" in text for text in Inpaint(missing).plan(part.geometry).warnings)
    assert Inpaint(with_hole(part) > 0).plan(part.geometry).warnings == ()


def test_the_shipped_prior_fills_a_gap_better_than_a_membrane(mni: Volume, shipped: Preconditioned) -> None:
    truth = mni.data[:, 60:124, 80:144, 50:114]
    missing = np.zeros((64, 64, 64), bool)
    missing[:, :, 30:34] = True
    volume = Volume(np.where(missing, 0, truth), Geometry(np.eye(4), (64, 64, 64)))
    done = Inpaint(missing).run(volume, shipped, Settings())
    gain = psnr(done.mean[0][missing], truth[0][missing]) - psnr(done.baseline[0][missing], truth[0][missing])
    assert gain > 1.0


# --- noise -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.03, 0.1])
def test_the_noise_level_is_found(mni: Volume, share: float) -> None:
    truth = mni.data[0, ::2, ::2, ::2]
    noise = share * float(np.percentile(truth, 99))
    assert estimate_noise(rician(truth, noise), (2.0, 2.0, 2.0)) == pytest.approx(noise, rel=0.1)


@pytest.mark.parametrize("share", [0.03, 0.08])
def test_the_shipped_prior_takes_out_noise_and_leaves_the_head(
    mni: Volume, shipped: Preconditioned, share: float
) -> None:
    truth = mni.data[:, 50:114, 20:84, 50:114]
    noise = share * float(np.percentile(truth, 99))
    noisy = rician(truth, noise)
    volume = Volume(noisy, Geometry(np.eye(4), (64, 64, 64)))
    done = Denoise(noise).run(volume, shipped, Settings(guidance=Denoise().guidance))
    assert psnr(done.mean, truth) > psnr(noisy, truth) + 4
    assert done.details[0]["residual_over_noise"] == pytest.approx(1, abs=0.15)
    assert done.mean.min() >= 0
    # Weighing the answer against the same noisy scan once more puts noise back: the choice of the rule is measured.
    weighed = Denoise(noise).run(volume, shipped, Settings(guidance="proximal"))
    assert psnr(weighed.mean, truth) < psnr(done.mean, truth) - 0.3


def test_noise_is_taken_out_where_the_scan_lies_and_in_its_units(
    part: Volume, tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    noisy = Volume(1000 * rician(part.data, 12.0), part.geometry)
    write_volume(noisy, tmp_path / "scan.nii")
    words = ["--denoise", "--noise-std", "12000", "--model", tiny, "--report", str(tmp_path / "page.html")]
    with pytest.raises(SystemExit) as left:
        main(["reconstruct", str(tmp_path / "scan.nii"), "-o", str(tmp_path / "out.nii"), *words])
    assert left.value.code == 0
    told = capsys.readouterr().out
    assert "Noise is taken out" in told
    assert "1.2e+04" in told
    after = read_volume(tmp_path / "out.nii")
    assert after.geometry.distance(part.geometry) < 1e-3
    assert after.data.shape == noisy.data.shape
    record = json.loads((tmp_path / "out.json").read_text())
    assert record["operators"] == [{"kind": "denoise", "noise_std": 12000}]
    assert record["rule"] == "unguided"
    assert record["by_frame"][0]["noise_std"] == 12000
    assert "of the noise" in (tmp_path / "page.html").read_text()


def test_unusual_noise_is_told(part: Volume, tiny: str) -> None:
    model, _ = load_model(Path(tiny), torch.device("cpu"))
    high = float(np.percentile(part.data, 99.5))
    assert Denoise(0.05 * high).run(part, model, Settings(guidance="unguided")).warnings == ()
    assert "--noise-std" in Denoise(0.4 * high).run(part, model, Settings(guidance="unguided")).warnings[0]


def test_a_scan_without_noise_says_so() -> None:
    clean = np.zeros((40, 40, 40), np.float32)
    clean[8:32, 8:32, 8:32] = 100
    with pytest.raises(InputError, match="--noise-std"):
        estimate_noise(clean, (1.0, 1.0, 1.0))


def test_thick_slices_are_doubted(part: Volume) -> None:
    thick = Geometry(np.diag([1.0, 1, 4, 1]), (20, 20, 8))
    assert "slices first" in Denoise().plan(thick).warnings[0]
    assert Denoise().plan(part.geometry).warnings == ()


@pytest.mark.parametrize(
    "options",
    [
        {"denoise": True, "inpaint": Path("mask.nii")},
        {"denoise": True, "spacing": 1.0},
        {"inpaint": Path("mask.nii"), "thickness": 3.0},
        {"noise_std": 3.0},
        {"denoise": True, "noise_std": 0.0},
        {"denoise": True, "noise_std": float("nan")},
    ],
)
def test_options_that_contradict_each_other(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        ReconstructOptions(**options)
