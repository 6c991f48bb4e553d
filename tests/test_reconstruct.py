"""The use case reconstruct: in the same place, in agreement with the data, whole or not at all, for any network."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from numpy.typing import NDArray

from medidiff.errors import CheckpointError, ConfigError, GeometryError, InputError, OutputError
from medidiff.geometry import Geometry
from medidiff.io import probe, read_volume, write_volume
from medidiff.io.places import default_output
from medidiff.reconstruct import ReconstructOptions, reconstruct
from medidiff.volume import Modality, Volume
from tests.io.dicom_series import write_series
from tests.tiny_model import write_tiny_model

Array = NDArray[Any]

# What the README promises.
CONSISTENCY = 0.01


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_tiny_model(tmp_path_factory.mktemp("model") / "tiny.safetensors"))


def rotation(axis: tuple[float, float, float], degrees: float) -> Array:
    """Rodrigues' formula."""
    x, y, z = np.asarray(axis) / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = np.radians(degrees)
    return np.asarray(np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross)


def affine(directions: Array, spacing: tuple[float, float, float]) -> Array:
    result = np.eye(4)
    result[:3, :3] = directions * spacing
    result[:3, 3] = (-31.25, 17.5, -8.75)
    return result


RAS = np.eye(3)
LPS = np.diag([-1.0, -1.0, 1.0])
SAGITTAL = np.array([[0, 0, -1.0], [1, 0, 0], [0, -1, 0]])  # i to A, j to I, slices to L
CORONAL = np.array([[-1.0, 0, 0], [0, 0, 1], [0, -1, 0]])  # i to L, j to I, slices to A
OBLIQUE = rotation((1, 2, 3), 28) @ LPS


@dataclass(frozen=True)
class Case:
    """A scan's grid: how its axes point, and which of them is thick."""

    directions: Array
    axis: int = 2
    thick: float = 4.0
    fine: float = 1.0
    suffix: str = ".nii.gz"

    @property
    def geometry(self) -> Geometry:
        spacing, shape = [self.fine] * 3, [24, 28, 32]
        spacing[self.axis], shape[self.axis] = self.thick, 9
        return Geometry(affine(self.directions, tuple(spacing)), tuple(shape))


CASES = {
    "axial": Case(RAS),
    "negative pixdim": Case(LPS),
    "left-handed": Case(np.diag([-1.0, 1.0, 1.0])),
    "sagittal": Case(SAGITTAL),
    "coronal": Case(CORONAL),
    "oblique": Case(OBLIQUE),
    "oblique sagittal": Case(rotation((3, -1, 1), 17) @ SAGITTAL),
    "thick along i": Case(OBLIQUE, axis=0),
    "thick along j": Case(CORONAL, axis=1, thick=2.5, fine=0.5),
    "unpacked": Case(OBLIQUE, suffix=".nii"),
    "mgz": Case(OBLIQUE, suffix=".mgz"),
    "nrrd": Case(rotation((0, 1, 1), -20) @ SAGITTAL, suffix=".nrrd"),
}


def scan(geometry: Geometry, seed: int = 0, scale: float = 1000.0) -> Volume:
    """A bright, off-centre blob and texture, seen in thick slices."""
    i, j, k = np.meshgrid(*(np.linspace(-1, 1, n) for n in geometry.shape), indexing="ij")
    blob = np.exp(-(((i - 0.2) / 0.4) ** 2 + ((j + 0.3) / 0.4) ** 2 + ((k - 0.25) / 0.5) ** 2))
    noise = np.random.default_rng(seed).normal(0, 0.02, geometry.shape)
    data = scale * np.clip(0.05 + blob + noise, 0, None)
    return Volume(data[None].astype(np.float32), geometry)


def read_again(path: Path) -> tuple[Array, Array]:
    """Voxels and affine, read by others than us: nibabel for MGZ, SimpleITK for the rest."""
    if path.suffix == ".mgz":
        image: Any = nibabel.load(path)
        return np.asarray(image.dataobj, dtype=np.float64), np.asarray(image.affine)
    image = sitk.ReadImage(str(path))
    matrix = np.eye(4)
    matrix[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    matrix[:3, 3] = image.GetOrigin()
    return sitk.GetArrayFromImage(image).T.astype(np.float64), np.diag([-1.0, -1.0, 1.0, 1.0]) @ matrix


def nrmse(a: Array, b: Array) -> float:
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def grouped(data: Array, axis: int, factor: int) -> Array:
    """The mean of every ``factor`` planes: what touching slices are."""
    moved = np.moveaxis(data, axis, -1)
    return np.moveaxis(moved.reshape(*moved.shape[:-1], -1, factor).mean(-1), -1, axis)


# --- the same place, the same numbers --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_a_second_reader_finds_every_slice_where_it_was(name: str, model: str, tmp_path: Path) -> None:
    case = CASES[name]
    source, target = tmp_path / f"scan{case.suffix}", tmp_path / f"out{case.suffix}"
    write_volume(scan(case.geometry), source)
    result = reconstruct(source, target, ReconstructOptions(model=model))
    before, place_before = read_again(source)
    after, place_after = read_again(target)
    factor = round(case.thick / case.fine)

    # The centre of slice n is the middle of its fine planes, in the order and direction of the file's own axes.
    corners = np.stack(np.meshgrid(*[(0, n - 1) for n in before.shape], indexing="ij"), -1).reshape(-1, 3)
    fine = corners.astype(float)
    fine[:, case.axis] = corners[:, case.axis] * factor + (factor - 1) / 2
    world_before = corners @ place_before[:3, :3].T + place_before[:3, 3]
    world_after = fine @ place_after[:3, :3].T + place_after[:3, 3]
    np.testing.assert_allclose(world_after, world_before, atol=1e-3)
    assert np.linalg.norm(place_after[:3, :3], axis=0) == pytest.approx([case.fine] * 3, rel=1e-5)

    assert nrmse(grouped(after, case.axis, factor), before) < CONSISTENCY
    assert nrmse(np.repeat(before, factor, case.axis), after) > 2 * CONSISTENCY, "the network did nothing"
    assert result.record["data_consistency_nrmse"] < CONSISTENCY


def centre_of_mass(path: Path) -> Array:
    data, place = read_again(path)
    weights = np.clip(data - 0.5 * data.max(), 0, None)
    index = np.stack([(weights * grid).sum() / weights.sum() for grid in np.indices(data.shape)])
    return np.asarray(place[:3, :3] @ index + place[:3, 3])


def test_a_planted_blob_stays_where_it_is_in_space(model: str, tmp_path: Path) -> None:
    geometry = CASES["oblique sagittal"].geometry
    write_volume(scan(geometry), tmp_path / "scan.nii")
    reconstruct(tmp_path / "scan.nii", tmp_path / "out.nii", ReconstructOptions(model=model))
    moved = np.linalg.norm(centre_of_mass(tmp_path / "out.nii") - centre_of_mass(tmp_path / "scan.nii"))
    assert moved < 0.5, "half a fine voxel"


def box_weights(slices: int, fine: int, factor: float, thickness: float) -> Array:
    """Overlap of slices with fine voxels, computed interval by interval."""
    weights = np.zeros((slices, fine))
    for n in range(slices):
        centre = (fine - 1) / 2 + (n - (slices - 1) / 2) * factor
        for voxel in range(fine):
            low, high = max(voxel - 0.5, centre - thickness / 2), min(voxel + 0.5, centre + thickness / 2)
            weights[n, voxel] = max(0.0, high - low)
    return weights / weights.sum(1, keepdims=True)


@pytest.mark.parametrize(("thick", "thickness"), [(6.5, None), (3.3, 2.6), (5.0, 6.0)])
def test_slices_with_gaps_or_overlap_at_any_distance_come_back(
    thick: float, thickness: float | None, model: str, tmp_path: Path
) -> None:
    case = Case(OBLIQUE, thick=thick, fine=0.9)
    write_volume(scan(case.geometry), tmp_path / "scan.nii.gz")
    options = ReconstructOptions(model=model, thickness=thickness)
    reconstruct(tmp_path / "scan.nii.gz", tmp_path / "out.nii.gz", options)
    before, _ = read_again(tmp_path / "scan.nii.gz")
    after, _ = read_again(tmp_path / "out.nii.gz")
    weights = box_weights(before.shape[2], after.shape[2], thick / 0.9, (thickness or thick) / 0.9)
    assert nrmse(after @ weights.T, before) < CONSISTENCY


def test_two_lost_axes_are_restored_one_after_the_other(model: str, tmp_path: Path) -> None:
    geometry = Geometry(affine(OBLIQUE, (1.0, 2.0, 4.0)), (24, 14, 9))
    write_volume(scan(geometry), tmp_path / "scan.nii")
    result = reconstruct(
        tmp_path / "scan.nii", tmp_path / "out.nii", ReconstructOptions(model=model, samples=2, steps=2)
    )
    before, _ = read_again(tmp_path / "scan.nii")
    assert [stage["factor"] for stage in result.record["operators"]] == pytest.approx([4, 2])
    for path in (result.output, *result.samples):
        after, _ = read_again(path)
        assert after.shape == (24, 28, 36)
        assert nrmse(grouped(grouped(after, 1, 2), 2, 4), before) < CONSISTENCY


def test_units_are_the_scan_s_own(model: str, tmp_path: Path) -> None:
    geometry = CASES["axial"].geometry
    for scale in (1.0, 4096.0):
        write_volume(scan(geometry, scale=scale), tmp_path / f"{scale:g}.nii")
        reconstruct(tmp_path / f"{scale:g}.nii", tmp_path / f"out{scale:g}.nii", ReconstructOptions(model=model))
    small, _ = read_again(tmp_path / "out1.nii")
    large, _ = read_again(tmp_path / "out4096.nii")
    assert nrmse(large / 4096, small) < 1e-4
    assert small.min() >= 0, "a magnitude image has no negative values"


def test_every_frame_is_restored_in_its_turn(model: str, tmp_path: Path) -> None:
    geometry = CASES["negative pixdim"].geometry
    frames = [scan(geometry, seed, scale).data[0] for seed, scale in ((0, 1000.0), (1, 10.0), (2, 300.0))]
    write_volume(Volume(np.stack(frames), geometry), tmp_path / "all.nii", frame_step=2.5)
    steps: list[tuple[int, int]] = []
    reconstruct(
        tmp_path / "all.nii",
        tmp_path / "out.nii",
        ReconstructOptions(model=model),
        lambda done, total, what: steps.append((done, total)),
    )
    together = read_volume(tmp_path / "out.nii")
    assert together.data.shape == (3, 24, 28, 36)
    assert probe(tmp_path / "out.nii").frame_step == pytest.approx(2.5)
    for number, frame in enumerate(frames):
        write_volume(Volume(frame[None], geometry), tmp_path / "one.nii")
        reconstruct(tmp_path / "one.nii", tmp_path / "alone.nii", ReconstructOptions(model=model))
        np.testing.assert_array_equal(together.data[number], read_volume(tmp_path / "alone.nii").data[0])
    done = [step for step, _ in steps]
    assert done == sorted(done)
    assert steps[-1] == (3, 3)
    assert {total for _, total in steps} == {3}


def test_a_dicom_folder_is_restored_where_the_scanner_saw_it(model: str, tmp_path: Path) -> None:
    directions = (tuple(rotation((1, 0, 0), 12) @ (1, 0, 0)), tuple(rotation((1, 0, 0), 12) @ (0, 0.6, -0.8)))
    data = np.rint(scan(Geometry(np.eye(4), (9, 28, 24)), scale=900).data[0]).astype(np.uint16)
    folder = tmp_path / "exam"
    write_series(folder, data, directions=directions, spacing=(1.25, 1.25), gap=5.0)
    result = reconstruct(folder, tmp_path / "out.nii.gz", ReconstructOptions(model=model))
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    series, restored = reader.Execute(), sitk.ReadImage(str(result.output))
    # Wherever GDCM puts a voxel of slice n, the mean of our four voxels about that place along the normal is its value.
    array = sitk.GetArrayFromImage(restored).astype(float)
    normal = np.reshape(series.GetDirection(), (3, 3))[:, 2]
    for index in ((5, 9, 1), (12, 14, 4), (20, 3, 7)):
        centre = np.asarray(series.TransformIndexToPhysicalPoint(index))
        places = [
            restored.TransformPhysicalPointToContinuousIndex(centre + normal * s)
            for s in (-1.875, -0.625, 0.625, 1.875)
        ]
        np.testing.assert_allclose(places, np.rint(places), atol=1e-3)
        values = [array[tuple(np.rint(place).astype(int)[::-1])] for place in places]
        assert np.mean(values) == pytest.approx(series.GetPixel(index), rel=0.03, abs=3)


@pytest.mark.parametrize("series", ["ge_t1_few_slices", "philips_scaled", "hitachi"])
def test_real_dicom_series_go_all_the_way(series: str, shared: Path, model: str, tmp_path: Path) -> None:
    folder = shared / "dicom" / series / "dicom"
    if not folder.is_dir():
        pytest.skip(f"{series} is packed")
    result = reconstruct(folder, tmp_path / "out.nii.gz", ReconstructOptions(model=model, spacing=2.0))
    before = read_volume(folder)
    assert result.record["data_consistency_nrmse"] < CONSISTENCY
    middle = np.asarray(before.geometry.to_world((np.asarray(before.geometry.shape) - 1) / 2))
    after = read_volume(result.output).geometry
    assert np.linalg.norm(after.to_world((np.asarray(after.shape) - 1) / 2) - middle) < 1e-2


def test_nothing_lost_is_nothing_changed(model: str, mni: Volume, tmp_path: Path) -> None:
    part = Volume(mni.data[:, 60:90, 60:90, 60:90], mni.geometry.cropped((60, 60, 60), (30, 30, 30)))
    write_volume(part, tmp_path / "scan.nii.gz")
    result = reconstruct(tmp_path / "scan.nii.gz", tmp_path / "out.nii.gz", ReconstructOptions(model=model))
    assert "nothing to restore" in result.plan.words[0]
    written = read_volume(tmp_path / "out.nii.gz")
    np.testing.assert_array_equal(written.data, part.data)
    assert written.geometry == read_volume(tmp_path / "scan.nii.gz").geometry
    assert result.record["model"] is None


# --- samples -------------------------------------------------------------------------------------------------------


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


# --- the record ----------------------------------------------------------------------------------------------------


def test_the_record_says_how_and_not_who(model: str, tmp_path: Path) -> None:
    source = tmp_path / "DOE_JANE_19610203.nii.gz"
    write_volume(scan(CASES["oblique"].geometry), source)
    options = ReconstructOptions(model=model, preview=tmp_path / "p.png", report=tmp_path / "r.html")
    reconstruct(source, tmp_path / "out.nii.gz", options)
    text = (tmp_path / "out.json").read_text()
    record = json.loads(text)
    assert record["model"]["sha256"] == hashlib.sha256(Path(model).read_bytes()).hexdigest()
    assert record["operators"][0]["factor"] == pytest.approx(4, rel=1e-4)
    assert record["operators"][0]["kind"] == "slices"
    assert {"medidiff", "torch", "rule", "seed", "device", "data_consistency_nrmse", "seconds"} <= set(record)
    for written in (text.encode(), (tmp_path / "r.html").read_bytes(), (tmp_path / "p.png").read_bytes()):
        assert b"DOE_JANE" not in written
        assert str(tmp_path).encode() not in written


def test_an_older_record_does_not_outlive_its_volume(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_volume(scan(CASES["axial"].geometry), tmp_path / "scan.nii")
    reconstruct(tmp_path / "scan.nii", tmp_path / "out.nii", ReconstructOptions(model=model))
    assert (tmp_path / "out.json").exists()
    (tmp_path / "page.html").symlink_to(tmp_path / "missing" / "page.html")  # passes every check, fails when written
    with pytest.raises(OutputError):
        reconstruct(
            tmp_path / "scan.nii", tmp_path / "out.nii", ReconstructOptions(model=model, report=tmp_path / "page.html")
        )
    assert not (tmp_path / "out.json").exists()


# --- refusals ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"model": "no-such"}, CheckpointError, "no model no-such"),
        ({"device": "cuda:99"}, ConfigError, "cuda:99"),
        ({"preview": "out.nii"}, OutputError, "two results"),
        ({"report": "out.json"}, OutputError, "two results"),
        ({"report": "scan.nii"}, OutputError, "it is the input"),
        ({"spacing": 0.01}, GeometryError, "scan.nii: the result would have"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_written(
    options: dict[str, Any],
    error: type[Exception],
    words: str,
    model: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    write_volume(scan(CASES["axial"].geometry), "scan.nii")
    places = {key: Path(value) for key, value in options.items() if key in ("preview", "report")}
    with pytest.raises(error, match=words):
        reconstruct(Path("scan.nii"), Path("out.nii"), ReconstructOptions(**({"model": model} | options | places)))
    assert [path.name for path in tmp_path.iterdir()] == ["scan.nii"]


@pytest.mark.parametrize(
    "options",
    [
        {"samples": -1},
        {"steps": 0},
        {"spacing": 0.0},
        {"spacing": float("nan")},
        {"thickness": -3.0},
        {"thickness": float("inf")},
        {"device": "tpu"},
        {"fast": True, "model": "brain-t1"},
        {"fast": True, "samples": 2},
        {"fast": True, "denoise": True},
    ],
)
def test_options_that_make_no_sense(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="--"):
        ReconstructOptions(**options)


def test_fast_is_the_classical_answer(tmp_path: Path) -> None:
    write_volume(scan(CASES["axial"].geometry), tmp_path / "a.nii")
    done = reconstruct(tmp_path / "a.nii", tmp_path / "b.nii", ReconstructOptions(fast=True))
    assert done.record["model"] is None
    assert done.record["data_consistency_nrmse"] < 4e-3
    restored, baseline = (done.volumes[name].data for name in ("restored", "baseline"))
    # Positivity is all that is added to cubic and projection.
    assert np.abs(restored - baseline.clip(min=0)).max() < 0.2 * baseline.max()
    assert np.corrcoef(restored.ravel(), baseline.ravel())[0, 1] > 0.999


def test_without_a_network_nothing_is_said_of_its_training(model: str, tmp_path: Path) -> None:
    """A factor of 12 is beyond the prior; few slices are a doubt about the data whoever restores them."""
    write_volume(scan(Geometry(np.diag([1.0, 1.0, 12.0, 1.0]), (16, 16, 3))), tmp_path / "a.nii")
    told = {
        fast: reconstruct(
            tmp_path / "a.nii", tmp_path / "b.nii", ReconstructOptions(fast=fast, model=None if fast else model)
        ).record["warnings"]
        for fast in (True, False)
    }
    assert [text.split()[0] for text in told[True]] == ["Only"]
    assert any("trained" in text for text in told[False])


def test_a_sample_never_falls_on_the_input(model: str, tmp_path: Path) -> None:
    write_volume(scan(CASES["axial"].geometry), tmp_path / "a_sample-01.nii")
    with pytest.raises(OutputError, match="it is the input"):
        reconstruct(tmp_path / "a_sample-01.nii", tmp_path / "a.nii", ReconstructOptions(model=model, samples=1))


def test_labels_and_ct_are_not_for_this_prior(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    geometry = CASES["axial"].geometry
    labels = Volume((scan(geometry).data > 500).astype(np.float32), geometry, Modality.LABEL)
    write_volume(labels, tmp_path / "labels.nii")
    with pytest.raises(InputError, match="label map"):
        reconstruct(tmp_path / "labels.nii", None, ReconstructOptions(model=model))
    write_volume(Volume(scan(geometry).data - 1000, geometry, Modality.CT), tmp_path / "ct.nii")
    reconstruct(tmp_path / "ct.nii", None, ReconstructOptions(model=model))  # one's own model, one's own choice
    monkeypatch.setattr("medidiff.models.FOLDER", Path(model).parent)
    with pytest.raises(InputError, match="this is CT"):
        reconstruct(tmp_path / "ct.nii", None, ReconstructOptions(model="tiny"))


def test_the_folder_one_stands_in_has_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "exam.1"
    folder.mkdir()
    monkeypatch.chdir(folder)
    assert default_output(Path()) == tmp_path / "exam.1_medidiff.nii.gz"
    assert default_output(Path("scan.nrrd")) == Path("scan_medidiff.nrrd")
    assert default_output(Path("a/scan.nii")) == Path("a/scan_medidiff.nii.gz")


def test_it_runs_without_monai_and_refuses_without_torch(model: str, tmp_path: Path) -> None:
    write_volume(scan(CASES["axial"].geometry), tmp_path / "scan.nii")
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from medidiff.errors import MedidiffError\n"
        "from medidiff.reconstruct import ReconstructOptions, reconstruct\n"
        f"here, model = Path({str(tmp_path)!r}), {model!r}\n"
        "wrong = [('nothing.nii', 'o.nii', model), ('scan.nii', 'o.jpg', model), ('scan.nii', 'o.nii', 'no-such')]\n"
        "for source, target, name in wrong:\n"
        "    try:\n"
        "        reconstruct(here / source, here / target, ReconstructOptions(model=name))\n"
        "    except MedidiffError:\n"
        "        assert 'torch' not in sys.modules\n"
        "    else:\n"
        "        raise SystemExit(f'{source} to {target} was accepted')\n"
        "reconstruct(here / 'scan.nii', here / 'o.nii', ReconstructOptions(model=model))\n"
        "assert 'torch' in sys.modules and 'monai' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=120)


def test_a_sidecar_of_the_scan_is_not_overwritten(model: str, tmp_path: Path) -> None:
    write_volume(scan(CASES["axial"].geometry), tmp_path / "bids.nii")
    sidecar = tmp_path / "bids.json"
    sidecar.write_text('{"EchoTime": 0.1}')
    with pytest.raises(OutputError, match="no record of medidiff"):
        reconstruct(tmp_path / "bids.nii", tmp_path / "bids.nrrd", ReconstructOptions(model=model))
    assert sidecar.read_text() == '{"EchoTime": 0.1}'
    for _ in range(2):  # a record of ours may be replaced
        reconstruct(tmp_path / "bids.nii", tmp_path / "b.nii", ReconstructOptions(fast=True))


def test_another_name_of_the_input_is_refused_before_the_work(model: str, tmp_path: Path) -> None:
    write_volume(scan(CASES["axial"].geometry), tmp_path / "a.nii")
    (tmp_path / "hard.nii").hardlink_to(tmp_path / "a.nii")
    planned: list[object] = []
    with pytest.raises(OutputError, match="it is the input"):
        reconstruct(tmp_path / "a.nii", tmp_path / "hard.nii", ReconstructOptions(model=model), on_plan=planned.append)
    assert not planned


@pytest.mark.parametrize("name", [".", "", ".."])
def test_an_output_without_a_name_is_refused(name: str, tmp_path: Path) -> None:
    write_volume(scan(CASES["axial"].geometry), tmp_path / "a.nii")
    with pytest.raises(OutputError, match="name a file"):
        reconstruct(tmp_path / "a.nii", Path(name), ReconstructOptions(fast=True))


@pytest.mark.parametrize("place", [{"preview": Path("p.jpgx")}, {"report": Path("r.pdf")}])
def test_a_picture_is_not_written_under_a_foreign_name(place: dict[str, Path], tmp_path: Path) -> None:
    write_volume(scan(CASES["axial"].geometry), tmp_path / "a.nii")
    with pytest.raises(OutputError, match="must end in"):
        reconstruct(tmp_path / "a.nii", tmp_path / "b.nii", ReconstructOptions(fast=True, **place))


def test_a_model_that_gives_nonsense_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights that are finite in the file and overflow in use."""
    from medidiff.diffusion.checkpoint import save_model
    from medidiff.diffusion.network import build_network

    network = {"kind": "residual_unet", "channels": [8, 8], "blocks": 1, "split": [2, 2, 2]}
    weights = {f"network.{name}": torch.full_like(w, 6e4) for name, w in build_network(**network).state_dict().items()}
    save_model(tmp_path / "wild.safetensors", network, weights, {})
    write_volume(scan(CASES["axial"].geometry), tmp_path / "a.nii")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match="not finite"):
        reconstruct(Path("a.nii"), Path("b.nii"), ReconstructOptions(model="wild.safetensors"))
    assert not Path("b.nii").exists()
