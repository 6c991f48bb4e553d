"""``medidiff edit`` as a user meets it: the region changes, nothing else does, and the result says what it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from numpy.typing import NDArray

from medidiff.cli import main
from medidiff.edit import EditOptions, edit
from medidiff.errors import CheckpointError, ConfigError, GeometryError, InputError, OutputError, TargetError
from medidiff.generation.edit import seam
from medidiff.geometry import Geometry
from medidiff.io import read_volume, write_volume
from medidiff.synthetic.marks import nifti_description, nifti_is_edited, nifti_is_marked
from medidiff.volume import Modality, Volume
from tests.tiny_generator import SHAPE, label_map, write_tiny_generator
from tests.tiny_model import write_tiny_model

Array = NDArray[Any]

# Not RAS, and not where anybody would expect it.
AFFINE = np.array([[0, -1.0, 0, 30], [-1.0, 0, 0, 40], [0, 0, 1.0, -20], [0, 0, 0, 1]])


@pytest.fixture(scope="session")
def restorer(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_tiny_model(tmp_path_factory.mktemp("model") / "tiny.safetensors"))


@pytest.fixture(scope="session")
def generator(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_tiny_generator(tmp_path_factory.mktemp("model") / "tiny-generator.safetensors"))


def write_scan(path: Path, shape: tuple[int, int, int], affine: Array = AFFINE, **header: Any) -> Path:
    data = np.random.default_rng(0).integers(10, 900, shape).astype(np.int16)
    image: Any = nibabel.Nifti1Image(data, affine)
    for name, value in {"descrip": b"as acquired", "intent_name": b"kept", **header}.items():
        image.header[name] = value
    nibabel.save(image, path)
    return path


def write_mask(path: Path, region: Array, affine: Array = AFFINE) -> Path:
    nibabel.save(nibabel.Nifti1Image(region.astype(np.uint8), affine), path)
    return path


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    return write_scan(tmp_path / "scan.nii.gz", (22, 20, 24))


@pytest.fixture
def region() -> Array:
    inside = np.zeros((22, 20, 24), bool)
    inside[8:13, 6:12, 9:15] = True
    return inside


@pytest.fixture
def mask(tmp_path: Path, region: Array) -> Path:
    return write_mask(tmp_path / "mask.nii.gz", region)


def stored(path: Path) -> Array:
    return np.asarray(nibabel.load(path).dataobj.get_unscaled())


@pytest.mark.parametrize("strength", [1.0, 0.4])
def test_only_the_region_changes(
    scan: Path, mask: Path, region: Array, restorer: str, tmp_path: Path, strength: float
) -> None:
    out = tmp_path / "out.nii.gz"
    result = edit(scan, out, EditOptions(mask=mask, model=restorer, strength=strength, steps=2, seed=0))
    before, after = stored(scan), stored(out)
    assert after.dtype == before.dtype
    assert np.array_equal(after[~region], before[~region])
    assert (after[region] != before[region]).mean() > 0.9
    was, now = nibabel.load(scan).header, nibabel.load(out).header
    changed = [name for name in was if not np.array_equal(was[name], now[name], equal_nan=was[name].dtype.kind == "f")]
    assert changed == ["descrip"]
    assert nifti_is_edited(out.read_bytes())
    assert not nifti_is_marked(out.read_bytes()), "an edited scan of a person may not go out as synthetic data"
    record = json.loads((tmp_path / "out.json").read_text())
    assert record["SyntheticData"] == "in part"
    assert record["regenerated_voxels"] == region.sum() == result.record["regenerated_voxels"]
    assert record["seed"] == 0
    assert record["border_before"] == pytest.approx(seam(before, region), abs=1e-3)
    assert "scan" not in record["model"]["name"]


def test_the_same_seed_gives_the_same_bytes_and_samples_differ(
    scan: Path, mask: Path, restorer: str, tmp_path: Path
) -> None:
    once = edit(scan, tmp_path / "a.nii", EditOptions(mask=mask, model=restorer, steps=2, seed=3))
    again = edit(scan, tmp_path / "b.nii", EditOptions(mask=mask, model=restorer, steps=2, seed=3, samples=2))
    assert [path.name for path in again.outputs] == ["b_sample-01.nii", "b_sample-02.nii"]
    assert once.outputs[0].read_bytes() == again.outputs[0].read_bytes() != again.outputs[1].read_bytes()
    drawn = edit(scan, tmp_path / "c.nii", EditOptions(mask=mask, model=restorer, steps=2))
    repeated = edit(
        scan, tmp_path / "d.nii", EditOptions(mask=mask, model=restorer, steps=2, seed=drawn.record["seed"])
    )
    assert drawn.outputs[0].read_bytes() == repeated.outputs[0].read_bytes()


@pytest.mark.parametrize("suffix", ["mgz", "nrrd"])
def test_other_formats_keep_their_values(
    suffix: str, mask: Path, region: Array, scan: Path, restorer: str, tmp_path: Path
) -> None:
    volume = read_volume(scan)
    write_volume(volume, tmp_path / f"scan.{suffix}")
    edit(tmp_path / f"scan.{suffix}", tmp_path / "out.nii", EditOptions(mask=mask, model=restorer, steps=2))
    after = read_volume(tmp_path / "out.nii")
    assert after.geometry.distance(volume.geometry) < 1e-3
    assert np.array_equal(after.data[0][~region], volume.data[0][~region])
    assert not np.array_equal(after.data[0][region], volume.data[0][region])
    assert nifti_is_edited((tmp_path / "out.nii").read_bytes())


def test_a_synthetic_image_stays_synthetic(mask: Path, restorer: str, tmp_path: Path) -> None:
    source = write_scan(tmp_path / "syn.nii.gz", (22, 20, 24), descrip=nifti_description("0").encode())
    edit(source, tmp_path / "out.nii.gz", EditOptions(mask=mask, model=restorer, steps=2))
    assert nifti_is_marked((tmp_path / "out.nii.gz").read_bytes())
    assert json.loads((tmp_path / "out.json").read_text())["SyntheticData"] is True


# --- with a generator of small volumes ------------------------------------------------------------------------------

SPACING = np.diag([1.0, 1.5, 2.0, 1.0])


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Larger than the generator's grid along two axes, smaller along the third."""
    return write_scan(tmp_path / "small.nii.gz", (SHAPE[0] + 8, SHAPE[1] + 5, SHAPE[2] - 2), SPACING)


def small_region(small: Path) -> Array:
    inside = np.zeros(nibabel.load(small).shape, bool)
    inside[12:18, 10:15, 3:7] = True
    return inside


def test_a_generator_changes_a_region_of_a_larger_scan(small: Path, generator: str, tmp_path: Path) -> None:
    region = small_region(small)
    mask = write_mask(tmp_path / "m.nii", region, SPACING)
    options = EditOptions(mask=mask, model=generator, steps=3, seed=0, conditions={"age": 50.0, "sex": "male"})
    edit(small, tmp_path / "out.nii.gz", options)
    before, after = stored(small), stored(tmp_path / "out.nii.gz")
    assert np.array_equal(after[~region], before[~region])
    assert (after[region] != before[region]).mean() > 0.9


def test_a_label_map_decides_what_is_drawn(small: Path, generator: str, tmp_path: Path) -> None:
    region = small_region(small)
    mask = write_mask(tmp_path / "m.nii", region, SPACING)
    drawn = []
    for seed in (0, 1):
        labels = tmp_path / f"labels{seed}.nii"
        write_mask(labels, label_map(seed, region.shape), SPACING)
        out = tmp_path / f"out{seed}.nii.gz"
        edit(small, out, EditOptions(mask=mask, labels=labels, model=generator, steps=3, seed=0))
        assert np.array_equal(stored(out)[~region], stored(small)[~region])
        drawn.append(stored(out)[region])
    assert not np.array_equal(*drawn)


def test_a_whole_scan_is_varied_without_a_mask(small: Path, generator: str, restorer: str, tmp_path: Path) -> None:
    own = write_scan(tmp_path / "own.nii", (SHAPE[0], SHAPE[1] - 1, SHAPE[2]), SPACING)
    for name, model in (("a", generator), ("b", restorer)):
        result = edit(own, tmp_path / f"{name}.nii", EditOptions(model=model, strength=0.3, steps=2))
        assert result.record["regenerated_share"] == 1
        assert not np.array_equal(stored(tmp_path / f"{name}.nii"), stored(own))
        assert result.record["border_after"] == [None]
    with pytest.raises(InputError, match="voxels long along axis 0, the model works on 16"):
        edit(small, tmp_path / "c.nii", EditOptions(model=generator, strength=0.3, steps=2))


# --- what cannot be done -------------------------------------------------------------------------------------------


def test_masks_that_make_no_sense_are_refused(scan: Path, region: Array, restorer: str, tmp_path: Path) -> None:
    def attempt(mask: Path) -> None:
        edit(scan, tmp_path / "out.nii", EditOptions(mask=mask, model=restorer, steps=2))

    moved = AFFINE + np.array([[0, 0, 0, 0.5]] + [[0, 0, 0, 0]] * 3)
    with pytest.raises(GeometryError, match=r"lies 0\.5 mm from the scan"):
        attempt(write_mask(tmp_path / "moved.nii", region, moved))
    with pytest.raises(GeometryError, match="resample it to the scan"):
        attempt(write_mask(tmp_path / "other.nii", region[:-1]))
    with pytest.raises(InputError, match="marks no voxel"):
        attempt(write_mask(tmp_path / "empty.nii", np.zeros_like(region)))
    with pytest.raises(InputError, match="two values"):
        attempt(write_mask(tmp_path / "many.nii", region * 1 + (np.arange(24) > 11)))
    with pytest.raises(InputError, match="there is no file"):
        attempt(tmp_path / "nowhere.nii")
    assert not list(tmp_path.glob("out*"))


def test_scans_that_cannot_be_edited_are_refused(mask: Path, restorer: str, tmp_path: Path) -> None:
    def attempt(volume: Volume) -> None:
        write_volume(volume, tmp_path / "v.nii")
        edit(tmp_path / "v.nii", tmp_path / "out.nii", EditOptions(mask=mask, model=restorer, steps=2))

    grid = Geometry(AFFINE, (22, 20, 24))
    data = np.random.default_rng(0).uniform(0, 100, (1, 22, 20, 24)).astype(np.float32)
    with pytest.raises(InputError, match="2 frames"):
        attempt(Volume(np.concatenate([data, data]), grid))
    with pytest.raises(InputError, match="label map"):
        attempt(Volume(data.round(), grid, Modality.LABEL))
    with pytest.raises(InputError, match="constant"):
        attempt(Volume(np.ones_like(data), grid))
    data[0, 0, 0, 0] = np.nan
    with pytest.raises(InputError, match="NaN"):
        attempt(Volume(data, grid))


def test_wishes_that_the_model_cannot_grant_are_refused(
    scan: Path, mask: Path, small: Path, restorer: str, generator: str, tmp_path: Path
) -> None:
    out = tmp_path / "out.nii"
    with pytest.raises(ConfigError, match="knows no label maps"):
        edit(scan, out, EditOptions(mask=mask, labels=mask, model=restorer))
    with pytest.raises(ConfigError, match="for generators"):
        edit(scan, out, EditOptions(mask=mask, model=restorer, conditions={"age": 3.0}))
    with pytest.raises(GeometryError, match=r"voxels of 1 x 1 x 1 mm, the generator learned 1 x 1\.5 x 2 mm"):
        edit(scan, out, EditOptions(mask=mask, model=generator))
    own = write_mask(tmp_path / "m.nii", small_region(small), SPACING)
    with pytest.raises(ConfigError, match="no condition weight"):
        edit(small, out, EditOptions(mask=own, model=generator, conditions={"weight": 3.0}))
    strange = write_mask(tmp_path / "l.nii", 7 * small_region(small), SPACING)
    with pytest.raises(InputError, match="label values without a class: 7"):
        edit(small, out, EditOptions(mask=own, labels=strange, model=generator))
    with pytest.raises(CheckpointError, match="no model"):
        edit(scan, out, EditOptions(mask=mask, model="nothing"))
    assert not out.exists()


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"strength": 0.0}, "--strength"),
        ({"strength": float("nan")}, "--strength"),
        ({"samples": 0}, "--samples"),
        ({"steps": 1}, "--steps"),
        ({"seed": -1}, "--seed"),
        ({"mask": None}, "--mask"),
    ],
)
def test_options_are_checked_before_anything_is_read(wrong: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        EditOptions(**({"mask": Path("m.nii")} | wrong))


def test_nothing_is_overwritten_that_is_not_ours(scan: Path, mask: Path, restorer: str, tmp_path: Path) -> None:
    options = EditOptions(mask=mask, model=restorer, steps=2)
    for target in (scan, mask):
        with pytest.raises(TargetError, match="is the input"):
            edit(scan, target, options)
    with pytest.raises(OutputError, match="own sidecar"):
        edit(scan, tmp_path / "scan.nii", options)
    with pytest.raises(OutputError, match=r"must end in .nii"):
        edit(scan, tmp_path / "out.mgz", options)
    with pytest.raises(OutputError, match="no folder"):
        edit(scan, tmp_path / "none" / "out.nii", options)


def test_the_command_line(
    scan: Path, mask: Path, restorer: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["edit", str(scan), "--mask", str(mask), "-o", str(tmp_path / "out.nii"), "--model", restorer]
    with pytest.raises(SystemExit) as left:
        main([*words, "--steps", "2", "--seed", "7"])
    assert left.value.code == 0
    said = capsys.readouterr().out
    assert "180 voxels" in said
    assert "untouched" in said
    for extra, code in ((["--condition", "age"], 2), (["--strength", "3"], 2), (["--mask", str(scan)], 3)):
        with pytest.raises(SystemExit) as left:
            main([*words, *extra])
        assert left.value.code == code
