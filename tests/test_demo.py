"""The demo: a packaged brain thick-sliced, restored from its file, and scored against the truth."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from medidiff.cli import main
from medidiff.demo import CAUTION, DemoResult, run_demo, score_rows, sliceable, spline_only, template_path, thick_sliced
from medidiff.errors import CheckpointError, InputError, OutputError
from medidiff.geometry import Geometry
from medidiff.metrics import head_mask, psnr, robust_range
from medidiff.reconstruct import ReconstructOptions
from medidiff.volume import Volume
from tests.tiny_model import write_tiny_model


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> DemoResult:
    folder = tmp_path_factory.mktemp("demo")
    model = write_tiny_model(folder / "tiny.safetensors")
    return run_demo(folder / "out", ReconstructOptions(model=str(model)))


def test_it_writes_what_it_promises(demo: DemoResult) -> None:
    written = {path.name for path in demo.folder.iterdir()}
    expected = {
        "thick.nii.gz",
        "reconstruction.nii.gz",
        "reconstruction.json",
        "preview.png",
        "report.html",
        "report.json",
    }
    assert written == expected
    assert {path.name for path in demo.files.values()} <= written
    assert (demo.folder / "preview.png").read_bytes().startswith(b"\x89PNG")


def test_the_thick_scan_is_the_head_averaged_in_place(demo: DemoResult, mni: Volume) -> None:
    thick, truth = sitk.ReadImage(str(demo.folder / "thick.nii.gz")), mni.data[0]
    averaged = truth[:, :, :188].reshape(197, 233, 47, 4).mean(-1)
    np.testing.assert_allclose(sitk.GetArrayFromImage(thick).T, averaged, atol=1e-3)
    # The centre of a slice lies between its second and third voxel; SimpleITK speaks LPS.
    between = mni.geometry.to_world(np.array([11, 20, 4 * 7 + 1.5])) * (-1, -1, 1)
    np.testing.assert_allclose(thick.TransformIndexToPhysicalPoint((11, 20, 7)), between, atol=1e-4)


def test_the_restored_head_lies_on_the_truth(demo: DemoResult, mni: Volume) -> None:
    restored = sitk.ReadImage(str(demo.folder / "reconstruction.nii.gz"))
    assert restored.GetSize() == (197, 233, 188)
    index = (90, 100, 60)
    expected = mni.geometry.to_world(np.array(index)) * (-1, -1, 1)
    np.testing.assert_allclose(restored.TransformIndexToPhysicalPoint(index), expected, atol=1e-4)


def test_scores_are_of_the_files_that_lie_there(demo: DemoResult, mni: Volume) -> None:
    report = json.loads((demo.folder / "report.json").read_text())
    assert [row["method"] for row in report["scores"]] == ["cubic", "cubic + projection", "medidiff"]
    truth = mni.data[0][:, :, :188]
    mask = head_mask(truth)
    restored = sitk.GetArrayFromImage(sitk.ReadImage(str(demo.folder / "reconstruction.nii.gz"))).T
    again = psnr(restored, truth, data_range=robust_range(truth, mask), mask=mask)
    assert report["scores"][2]["PSNR (dB)"] == pytest.approx(again, abs=0.01)
    assert report["scores"][1]["PSNR (dB)"] > report["scores"][0]["PSNR (dB)"], "projection never harms"
    assert report["simulated"] is True
    assert report["data_consistency_nrmse"] < 0.01


def test_it_says_that_the_template_is_too_smooth_to_score_on(demo: DemoResult) -> None:
    assert "too easy to score on" in CAUTION
    assert CAUTION in (demo.folder / "report.html").read_text()
    assert json.loads((demo.folder / "report.json").read_text())["caution"] == CAUTION


def test_the_template_is_the_one_that_nilearn_speaks_of(mni_path: Path) -> None:
    assert template_path() == mni_path


def test_cubic_is_exact_on_what_a_cubic_can_hold() -> None:
    k = np.arange(32.0)
    data = np.broadcast_to(5 + 2 * k + 0.1 * k**2, (8, 8, 32)).astype(np.float32)[None]
    volume = Volume(np.ascontiguousarray(data), Geometry(np.eye(4), (8, 8, 32)))
    thick, operator = thick_sliced(volume)
    fine = spline_only(thick, operator)
    # The mean of a parabola over a slice is its centre's value and a constant, which interpolation cannot know.
    inner = (fine.data - volume.data)[0, :, :, 4:-4]
    np.testing.assert_allclose(inner, 0.1 * (4**2 - 1) / 12, atol=1e-3)
    assert fine.geometry.distance(volume.geometry) < 1e-9


def test_estimates_elsewhere_are_not_scored(mni: Volume) -> None:
    part = sliceable(Volume(mni.data[:, 60:100, 60:100, 60:100], mni.geometry.cropped((60, 60, 60), (40, 40, 40))))
    moved = Volume(part.data, part.geometry.cropped((1, 0, 0), part.geometry.shape))
    with pytest.raises(InputError, match="does not lie where the truth lies"):
        score_rows(part, {"moved": moved})


def test_nothing_is_written_where_nothing_can_be(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no-such"):
        run_demo(tmp_path / "out", ReconstructOptions(model="no-such"))
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    model = str(write_tiny_model(tmp_path / "tiny.safetensors"))
    with pytest.raises(OutputError, match="cannot make the folder"):
        run_demo(tmp_path / "file" / "out", ReconstructOptions(model=model))


def test_the_command_prints_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = write_tiny_model(tmp_path / "tiny.safetensors")
    with pytest.raises(SystemExit) as left:
        main(["demo", "-o", str(tmp_path / "out"), "--model", str(model), "--device", "cpu"])
    out, err = capsys.readouterr()
    assert (left.value.code, err) == (0, "")
    rows = [line.split() for line in out.splitlines() if line.strip().startswith(("cubic", "medidiff"))]
    assert len(rows) == 3
    assert all(0 < float(cell) < 100 for row in rows for cell in row[-3:])
    assert CAUTION in out
