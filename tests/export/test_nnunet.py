"""nnU-Net's rules for a raw dataset, written out and checked with SimpleITK and nibabel, as nnU-Net reads files.

Source of the rules: nnU-Net v2 documentation, dataset_format.md, and what its integrity check is said to look at: file
names, ``numTraining``, consecutive labels, equal shape, spacing, origin and direction, values that are finite.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest

from medidiff.errors import ConfigError
from medidiff.export.nnunet import write_nnunet
from medidiff.synthetic import LabelClass, SyntheticSet, SyntheticSetWriter
from medidiff.volume import Modality, Volume
from tests.synthetic.sets import PEOPLE, PLAN, crops, write_set


def broken_rules(folder: Path) -> list[str]:
    """Every rule that a dataset breaks."""
    about = json.loads((folder / "dataset.json").read_text())
    ending, channels = about["file_ending"], about["channel_names"]
    images = sorted(path.name for path in (folder / "imagesTr").iterdir())
    labels = sorted(path.name for path in (folder / "labelsTr").iterdir())
    cases = sorted({re.sub(rf"_\d{{4}}{re.escape(ending)}$", "", name) for name in images})
    values = sorted(about["labels"].values())
    rules = {
        "name of the folder": re.fullmatch(r"Dataset\d{3}_[A-Za-z0-9_-]+", folder.name) is not None,
        "labels not consecutive": values == list(range(len(values))) and about["labels"].get("background") == 0,
        "channels": sorted(channels) == [str(number) for number in range(len(channels))],
        "numTraining": len(cases) == about["numTraining"] and len(images) == len(cases) * len(channels),
        "a label map for every case": labels == [f"{case}{ending}" for case in cases],
    }
    broken = [rule for rule, kept in rules.items() if not kept]
    if rules["a label map for every case"]:
        for case in cases:
            broken += broken_rules_of_case(folder, case, ending, set(values))
    return broken


def broken_rules_of_case(folder: Path, case: str, ending: str, values: set[int]) -> list[str]:
    sitk = pytest.importorskip("SimpleITK", reason="SimpleITK is not installed")
    image = sitk.ReadImage(str(folder / "imagesTr" / f"{case}_0000{ending}"))
    label = sitk.ReadImage(str(folder / "labelsTr" / f"{case}{ending}"))
    rules = {
        "shape": image.GetSize() == label.GetSize(),
        "spacing": np.allclose(image.GetSpacing(), label.GetSpacing()),
        "origin": np.allclose(image.GetOrigin(), label.GetOrigin()),
        "direction": np.allclose(image.GetDirection(), label.GetDirection()),
        "not finite": bool(np.isfinite(sitk.GetArrayFromImage(image)).all()),
        "unknown label": set(np.unique(sitk.GetArrayFromImage(label))) <= values,
    }
    return [f"{case}: {rule}" for rule, kept in rules.items() if not kept]


@pytest.fixture
def dataset(pristine: Path, tmp_path: Path) -> Path:
    write_nnunet(SyntheticSet.open(pristine), tmp_path / "nnunet", 42)
    (folder,) = (tmp_path / "nnunet").iterdir()
    return folder


def test_the_rules_are_kept(dataset: Path) -> None:
    assert dataset.name == "Dataset042_CropFixture"
    assert broken_rules(dataset) == []
    about = json.loads((dataset / "dataset.json").read_text())
    assert about["synthetic"] is True
    assert about["labels"] == {"background": 0, "grey matter": 1, "white matter": 2}
    assert about["channel_names"] == {"0": "T1w"}


def rename(folder: Path) -> None:
    (folder / "labelsTr" / "s001.nii.gz").rename(folder / "labelsTr" / "s001_0000.nii.gz")


def shift(folder: Path) -> None:
    path = folder / "labelsTr" / "s001.nii.gz"
    label = nibabel.load(path)
    moved = label.affine.copy()
    moved[0, 3] += 1
    nibabel.Nifti1Image(np.asarray(label.dataobj), moved).to_filename(path)


def recount(folder: Path) -> None:
    about = json.loads((folder / "dataset.json").read_text())
    (folder / "dataset.json").write_text(json.dumps(about | {"numTraining": 9, "labels": {"background": 0, "x": 2}}))


@pytest.mark.parametrize(
    ("spoil", "rules"),
    [
        (rename, ["a label map for every case"]),
        (shift, ["s001: origin"]),
        (recount, ["labels not consecutive", "numTraining", *(f"s{n:03d}: unknown label" for n in range(10))]),
    ],
)
def test_the_rules_see_what_is_wrong(spoil: Callable[[Path], None], rules: list[str], dataset: Path) -> None:
    spoil(dataset)
    assert broken_rules(dataset) == rules


def test_what_nnunet_could_not_train_on_is_refused(tmp_path: Path, mni: Volume) -> None:
    bare = write_set(tmp_path / "bare", mni, PLAN.model_copy(update={"labels": ()}))
    with pytest.raises(ConfigError, match="label map for every item"):
        write_nnunet(bare, tmp_path / "a")
    gap = tuple(LabelClass(value=value, name=f"c{value}") for value in (1, 2, 5))
    with pytest.raises(ConfigError, match=r"without gaps, the set has \[1, 2, 5\]"):
        write_nnunet(write_set(tmp_path / "gap", mni, PLAN.model_copy(update={"labels": gap})), tmp_path / "b")
    writer = SyntheticSetWriter(tmp_path / "mixed", PLAN)
    for number, (image, label) in enumerate(crops(mni, 2)):
        writer.add(f"s{number}", number, image, label, suffix=("T1w", "T2w")[number], metadata=PEOPLE[number])
    with pytest.raises(ConfigError, match="one contrast"):
        write_nnunet(writer.finish(), tmp_path / "c")
    assert not any((tmp_path / name).exists() for name in "abc")


def test_ct_is_called_ct_so_that_nnunet_normalises_it_as_such(tmp_path: Path, mni: Volume) -> None:
    writer = SyntheticSetWriter(tmp_path / "set", PLAN)
    ((image, label),) = crops(mni, 1)
    writer.add("a", 0, Volume(image.data * 10 - 1000, image.geometry, Modality.CT), label, suffix="ct")
    write_nnunet(writer.finish(), tmp_path / "nnunet")
    about = json.loads((tmp_path / "nnunet" / "Dataset900_CropFixture" / "dataset.json").read_text())
    assert about["channel_names"] == {"0": "CT"}
