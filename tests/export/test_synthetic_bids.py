"""BIDS of a synthetic set: valid for the official validator, and every image with its sidecar."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest

from medidiff.export.bids_synthetic import write_bids
from medidiff.synthetic import SyntheticSet, SyntheticSetWriter
from medidiff.volume import Modality, Volume
from tests.synthetic.sets import PLAN, crops


@pytest.fixture(scope="module")
def written(pristine: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bids") / "bids"
    write_bids(SyntheticSet.open(pristine), folder)
    return folder


def errors(folder: Path) -> list[str]:
    beside = str(Path(sys.executable).parent)
    program = shutil.which("bids-validator-deno", path=beside) or shutil.which("bids-validator-deno")
    if program is None:
        pytest.skip("bids-validator-deno is not installed")
    command = [program, str(folder), "--format", "json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    issues = json.loads(done.stdout)["issues"]["issues"]
    return [f"{issue['code']} {issue.get('location')}" for issue in issues if issue.get("severity") == "error"]


def test_the_official_validator_has_no_error(written: Path, tmp_path: Path) -> None:
    assert errors(written) == []
    spoilt = Path(shutil.copytree(written, tmp_path / "spoilt"))
    (spoilt / "sub-s000" / "anat" / "sub-s000_desc-synthetic_T1w.json").unlink()
    assert [line.split()[0] for line in errors(spoilt)] == ["SIDECAR_KEY_REQUIRED"]


def test_every_image_has_a_sidecar_that_says_what_it_is(written: Path, pristine: Path) -> None:
    images = sorted(written.rglob("*.nii.gz"))
    assert len(images) == 20
    for image in images:
        facts = json.loads(image.with_name(image.name.replace(".nii.gz", ".json")).read_text())
        assert facts["SyntheticData"] is True
        assert facts["GeneratedBy"][0]["Description"].startswith("Synthesizing Equipment: samples")
        assert facts["Condition"] == {"class": "crop"}, "an exact age does not leave"
        assert "_desc-synthetic_" in image.name
    description = json.loads((written / "dataset_description.json").read_text())
    assert description["DatasetType"] == "derivative"
    assert description["GeneratedBy"][0]["Name"] == "medidiff"
    first = written / "sub-s000" / "anat" / "sub-s000_desc-synthetic_T1w.nii.gz"
    assert first.read_bytes() == (pristine / "images" / "s000.nii.gz").read_bytes()


def test_participants_are_sampled_and_said_to_be(written: Path) -> None:
    header, *rows = [line.split("\t") for line in (written / "participants.tsv").read_text().splitlines()]
    assert header == ["participant_id", "synthetic", "age_band", "sex", "site"]
    assert rows[0] == ["sub-s000", "yes", "30-39", "female", "n/a"]
    assert rows[9] == ["sub-s009", "yes", "n/a", "male", "n/a"]


def test_label_values_are_named(written: Path) -> None:
    table = [line.split("\t") for line in (written / "desc-synthetic_dseg.tsv").read_text().splitlines()]
    assert table == [["index", "name"], ["0", "background"], ["1", "grey matter"], ["2", "white matter"]]
    label = nibabel.load(written / "sub-s000" / "anat" / "sub-s000_desc-synthetic_dseg.nii.gz")
    assert set(np.unique(np.asarray(label.dataobj))) == {0, 1, 2}


def test_what_bids_has_no_place_for_is_valid_too(tmp_path: Path, mni: Volume) -> None:
    writer = SyntheticSetWriter(tmp_path / "set", PLAN.model_copy(update={"labels": ()}))
    ((image, _),) = crops(mni, 1)
    writer.add("a", 0, Volume(image.data, image.geometry, Modality.CT), suffix="ct")
    writer.add("b", 1, image, suffix="unheard")
    writer.add("c", 2, image, suffix="T1w")
    write_bids(writer.finish(), tmp_path / "bids")
    assert (tmp_path / "bids" / "sub-a" / "ct" / "sub-a_desc-synthetic_ct.nii.gz").is_file()
    assert (tmp_path / "bids" / "sub-b" / "other" / "sub-b_desc-synthetic_unheard.nii.gz").is_file()
    assert errors(tmp_path / "bids") == []
