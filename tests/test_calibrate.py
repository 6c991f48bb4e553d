"""The use case calibrate: people in, intervals that hold on others, and a refusal where there are too few."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medidiff.calibrate import (
    CalibrateOptions,
    CalibrateResult,
    calibrate,
    check_people,
    fine_scan,
    restored,
    slice_operator,
    split_people,
)
from medidiff.cli import main
from medidiff.diffusion.checkpoint import load_model
from medidiff.errors import ConfigError, InputError
from medidiff.geometry import Geometry
from medidiff.io import write_volume
from medidiff.reconstruct import ReconstructOptions, reconstruct
from medidiff.uncertainty import load_calibration
from medidiff.volume import Modality, Volume
from tests.tiny_model import write_tiny_model

SIDE = 20
PEOPLE = 20


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model") / "tiny.safetensors")


@pytest.fixture(scope="module")
def people(mni: Volume, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Crops from all over a real head, each with noise of its own: as different as people are."""
    folder, rng = tmp_path_factory.mktemp("people"), np.random.default_rng(0)
    paths = []
    for number in range(PEOPLE + 20):
        start = rng.integers((50, 50, 50), (120, 150, 120))
        box = tuple(slice(s, s + SIDE) for s in start)
        data = mni.data[(slice(None), *box)] * rng.uniform(0.5, 2) + rng.normal(0, 5, (1, SIDE, SIDE, SIDE))
        volume = Volume(np.maximum(data, 0).astype(np.float32), Geometry(np.eye(4), (SIDE, SIDE, SIDE)), Modality.MR)
        paths.append(folder / f"sub-{number:02d}_T1w.nii.gz")
        write_volume(volume, paths[-1])
    return paths


@pytest.fixture(scope="module")
def options(model: Path) -> CalibrateOptions:
    return CalibrateOptions(model=str(model), factors=(4.0,), profiles=("box",), level=0.2, region="whole")


@pytest.fixture(scope="module")
def made(people: list[Path], options: CalibrateOptions, tmp_path_factory: pytest.TempPathFactory) -> CalibrateResult:
    return calibrate(people[:PEOPLE], tmp_path_factory.mktemp("made") / "tiny.calibration.json", options)


def test_others_are_covered_as_promised(
    made: CalibrateResult, people: list[Path], options: CalibrateOptions, model: Path
) -> None:
    """A random network is wrong everywhere; its intervals hold all the same."""
    network, covered, widths = load_model(model)[0], [], []
    for number, path in enumerate(people[PEOPLE:]):
        operator = slice_operator((SIDE, SIDE, SIDE), number % 3, "box", 4.0)
        one = restored(network, fine_scan(path), operator, options)
        width = made.calibration.half_width(one.seen, operator.profile)
        covered.append(float((np.abs(one.error) <= width).mean()))
        widths.append(float(width.mean()))
    assert np.mean(covered) == pytest.approx(0.8 + 0.2 / 17, abs=0.05)
    (report,) = made.reports
    assert np.mean(widths) == pytest.approx(report.half_width, rel=0.3)
    assert report.covered[0] <= 1 - report.stratum.missed <= report.covered[1]
    assert report.half_width < 1.2 * report.constant


def test_the_file_says_what_it_was_made_from(made: CalibrateResult, options: CalibrateOptions) -> None:
    found = load_calibration(made.output)
    assert found == made.calibration
    assert (found.scale_people, found.people) == (4, 16)
    assert (found.modality, found.region, found.level, found.spacing_mm) == ("MR", "whole", 0.2, 1.0)
    assert "sub-" not in made.output.read_text()


def test_spread_of_samples_can_be_a_clue(people: list[Path], options: CalibrateOptions, tmp_path: Path) -> None:
    chosen = CalibrateOptions(
        model=options.model,
        factors=(5.0,),
        profiles=("gaussian",),
        level=0.3,
        region="whole",
        samples=2,
        steps=2,
        axis=0,
    )
    found = calibrate(people[:6], tmp_path / "c.json", chosen).calibration
    assert (found.samples, found.steps) == (2, 2)
    assert "spread" in found.strata[0].scale.weights


def thick(path: Path, spacing: float = 1.0) -> Path:
    """Slices of four voxels of a real head's crop, in a file."""
    fine = fine_scan(path)
    data = fine.data.reshape(1, SIDE, SIDE, SIDE // 4, 4).mean(-1)
    affine = np.diag([spacing, spacing, 4 * spacing, 1.0])
    target = path.parent / f"thick-{spacing:g}.nii.gz"
    write_volume(Volume(data, Geometry(affine, data.shape[1:]), Modality.MR), target)
    return target


def test_reconstruct_finds_the_calibration_beside_its_model(
    made: CalibrateResult, model: Path, people: list[Path], tmp_path: Path
) -> None:
    beside = model.with_name("tiny.calibration.json")
    beside.write_bytes(made.output.read_bytes())
    try:
        result = reconstruct(
            thick(people[-1]),
            tmp_path / "out.nii.gz",
            ReconstructOptions(
                model=str(model), interval=True, provenance=True, preview=tmp_path / "p.png", report=tmp_path / "r.html"
            ),
        )
    finally:
        beside.unlink()
    says = result.record["interval"]
    assert says["calibrated"]
    assert says["says"].startswith("calibrated: 80% of voxels in expectation over volumes like the 16 people")
    width = fine_scan(tmp_path / "out_interval.nii.gz")
    assert width.geometry == result.volumes["restored"].geometry
    assert width.data.mean() == pytest.approx(says["mean_half_width"], rel=1e-4)
    # What is written covers the truth: physical units, the right axis, the right grid.
    error = np.abs(fine_scan(people[-1]).data - result.volumes["restored"].data)
    assert 0.6 < (error <= width.data).mean() < 0.99
    assert "calibrated: 80%" in (tmp_path / "r.html").read_text()
    shares = result.record["provenance"]
    assert 0 < shares["share"] < 1
    assert 0 < shares["learned_share"] < 1
    rest = fine_scan(tmp_path / "out_from-prior.nii.gz").data.reshape(1, SIDE, SIDE, -1, 4).mean(-1)
    assert np.abs(rest).max() < 1e-3 * result.volumes["restored"].data.max()


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"model_sha256": "b" * 64}, "made for weights bbbbbbbbbbbb"),
        ({"modality": "CT"}, "made for CT, this is MR"),
        ({"spacing_mm": 3.0}, "made for voxels of 3 mm"),
        ({"samples": 0, "strata": "gaussian"}, "this is box x4"),
    ],
    ids=["weights", "modality", "spacing", "profile"],
)
def test_a_calibration_that_does_not_fit_promises_nothing(
    change: dict[str, Any], match: str, made: CalibrateResult, model: Path, people: list[Path], tmp_path: Path
) -> None:
    found = json.loads(made.output.read_text())
    if "strata" in change:
        found["strata"][0]["profile"] = "gaussian"
    found |= {key: value for key, value in change.items() if key != "strata"}
    (tmp_path / "c.json").write_text(json.dumps(found))
    (tmp_path / "out_interval.nii").touch()  # of an earlier result
    options = ReconstructOptions(model=str(model), calibration=tmp_path / "c.json", report=tmp_path / "r.html")
    result = reconstruct(thick(people[0]), tmp_path / "out.nii", options)
    assert result.record["interval"]["calibrated"] is False
    assert result.record["interval"]["says"].startswith("not calibrated: ")
    assert match in result.record["interval"]["says"]
    assert not (tmp_path / "out_interval.nii").exists()
    assert "not calibrated" in (tmp_path / "r.html").read_text()
    assert (tmp_path / "out.nii").exists()


def test_without_a_calibration_nothing_is_promised(model: Path, people: list[Path], tmp_path: Path) -> None:
    options = ReconstructOptions(model=str(model), interval=True)
    says = reconstruct(thick(people[0]), tmp_path / "out.nii", options).record["interval"]["says"]
    assert says == "not calibrated: no calibration lies beside the model; see calibrate"


def test_a_sample_may_be_the_result(model: Path, people: list[Path], tmp_path: Path) -> None:
    source, seeded = thick(people[0]), {"model": str(model), "seed": 3, "steps": 2}
    one = reconstruct(source, tmp_path / "a.nii", ReconstructOptions(**seeded, mode="sample"))
    assert sorted(path.name for path in tmp_path.glob("*.nii")) == ["a.nii"]
    assert one.record["estimate"] == "one posterior sample, 2 network evaluations"
    assert one.record["seed"] == 3
    other = reconstruct(source, tmp_path / "b.nii", ReconstructOptions(**seeded, samples=2))
    first = fine_scan(tmp_path / "b_sample-01.nii").data
    np.testing.assert_array_equal(fine_scan(tmp_path / "a.nii").data, first)
    assert not np.array_equal(first, other.volumes["restored"].data)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"mode": "median"}, "mean or sample"),
        ({"mode": "sample", "interval": True}, "lies around the mean"),
        ({"fast": True, "interval": True}, "no network"),
        ({"fast": True, "mode": "sample"}, "no network"),
    ],
)
def test_options_that_contradict_each_other(options: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        ReconstructOptions(**options)


def test_noisy_data_fix_nothing_exactly(model: Path, people: list[Path], tmp_path: Path) -> None:
    options = ReconstructOptions(model=str(model), denoise=True, noise_std=5.0, provenance=True)
    with pytest.raises(ConfigError, match="measurements that bind, such as thick slices or holes, not denoise"):
        reconstruct(people[0], tmp_path / "out.nii", options)
    assert not list(tmp_path.iterdir())


def test_in_a_hole_everything_comes_from_the_prior(model: Path, people: list[Path], tmp_path: Path) -> None:
    fine = fine_scan(people[0])
    hole = np.zeros_like(fine.data)
    hole[:, 8:12, 8:12, 8:12] = 1
    write_volume(Volume(hole, fine.geometry, Modality.LABEL), tmp_path / "mask.nii")
    options = ReconstructOptions(model=str(model), inpaint=tmp_path / "mask.nii", provenance=True)
    result = reconstruct(people[0], tmp_path / "out.nii", options)
    rest, mean = result.volumes["from_prior"].data, result.volumes["restored"].data
    np.testing.assert_allclose(rest, np.where(hole > 0, mean, 0), atol=1e-4 * mean.max())


def test_too_few_people_are_told_how_many_it_takes(people: list[Path], model: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="need 9 people for the multiplier and 2 for the scale, got 10: spread, not"):
        calibrate(people[:10], tmp_path / "c.json", CalibrateOptions(model=str(model)))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("count", [11, 12, 25, 64, 100])
def test_nobody_teaches_the_scale_and_its_multiplier(count: int) -> None:
    people = [Path(str(number)) for number in range(count)]
    taught, counted = split_people(people, 0.1)
    assert not set(taught) & set(counted)
    assert sorted([*taught, *counted], key=lambda p: int(p.name)) == people
    assert len(taught) == max(2, count // 5)


def _same_bytes(paths: list[Path], folder: Path) -> list[Path]:
    (folder / "copy.nii.gz").write_bytes(paths[0].read_bytes())
    return [*paths[:3], folder / "copy.nii.gz"]


def _same_subject(paths: list[Path], folder: Path) -> list[Path]:
    (folder / "sub-01_ses-2_T1w.nii.gz").write_bytes(paths[5].read_bytes())
    return [*paths[:3], folder / "sub-01_ses-2_T1w.nii.gz"]


@pytest.mark.parametrize(("twice", "match"), [(_same_bytes, "scans 1 and 4"), (_same_subject, "scans 2 and 4")])
def test_one_person_counts_once(
    twice: Callable[[list[Path], Path], list[Path]], match: str, people: list[Path], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=match) as caught:
        check_people(twice(people, tmp_path))
    assert "sub-" not in str(caught.value)


def test_a_thick_scan_is_no_truth(people: list[Path], options: CalibrateOptions, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="voxels of equal sides, got 1 frames of 1 x 1 x 4 mm"):
        calibrate([*people[:11], thick(people[0])], tmp_path / "c.json", options)
    with pytest.raises(InputError, match="fewer than 4 slices at x8"):
        slice_operator((20, 20, 20), 2, "box", 8.0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"factors": ()}, {"factors": (1.0,)}, {"factors": (4.0, 4.0)}, {"profiles": ("bell",)}, {"profiles": ()},
        {"level": 0.0}, {"level": 1.0}, {"samples": 1}, {"steps": 0}, {"axis": 3},
    ],
    ids=str,
)  # fmt: skip
def test_options_that_make_no_sense(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        CalibrateOptions(**wrong)


def test_the_command_says_what_it_found(
    people: list[Path], model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["calibrate", *map(str, people[:8]), "-o", str(tmp_path / "c.json"), "--model", str(model)]
    chosen = ["--factor", "4", "--profile", "box", "--level", "0.2", "--region", "whole", "--about", "crops"]
    with pytest.raises(SystemExit) as done:
        main([*arguments, *chosen, "--axis", "S"])
    printed = capsys.readouterr().out
    assert done.value.code == 0, printed
    assert "box x4" in printed
    assert "80% of voxels in expectation over volumes like the 6 people" in " ".join(printed.split())
    with pytest.raises(SystemExit) as done:
        main([*arguments, "--profile", "bell"])
    assert done.value.code == 2
