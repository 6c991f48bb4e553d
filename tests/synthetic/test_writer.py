"""A synthetic set grows item by item, survives being killed, and has the same bytes for the same seed."""

from __future__ import annotations

import hashlib
from datetime import timedelta
from pathlib import Path

import nibabel
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from medidiff.errors import ConfigError, GeometryError, InputError, OutputError
from medidiff.geometry import Geometry
from medidiff.synthetic import SyntheticSet, SyntheticSetWriter
from medidiff.synthetic.writer import MR_LEVELS, _whole_numbers
from medidiff.volume import Modality, Volume
from tests.synthetic.sets import PEOPLE, PLAN, crops, write_set


def tree(folder: Path) -> dict[str, str]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_the_same_seeds_give_the_same_bytes_whenever_they_are_made(tmp_path: Path, mni: Volume) -> None:
    first = write_set(tmp_path / "first", mni)
    second = write_set(tmp_path / "second", mni)
    assert tree(tmp_path / "first") == tree(tmp_path / "second")
    assert first.sha256 == second.sha256
    assert first.faults() == []
    later = write_set(tmp_path / "later", mni, PLAN.model_copy(update={"seed": 8}))
    assert later.sha256 != first.sha256


def test_a_run_that_was_killed_between_any_two_files_ends_in_the_same_set(tmp_path: Path, mni: Volume) -> None:
    whole = write_set(tmp_path / "whole", mni)
    files = sorted(tree(tmp_path / "whole"))
    for number, left in enumerate(["images/s004.json", "images/s004.nii.gz", "labels/s004.nii.gz"]):
        folder = tmp_path / f"killed{number}"
        writer = SyntheticSetWriter(folder, PLAN)
        pieces = crops(mni, len(PEOPLE))
        for index in range(5):
            add(writer, index, pieces)
        # What a kill leaves: an item without some of its files, and a temporary one.
        (folder / left).unlink()
        (folder / "images" / ".medidiff-tmp-999999999-0123abcd-s004.nii.gz").write_bytes(b"half")
        again = SyntheticSetWriter(folder, PLAN.model_copy(update={"created": PLAN.created + timedelta(days=1)}))
        done = [index for index in range(len(PEOPLE)) if again.done(f"s{index:03d}", index)]
        assert done == [0, 1, 2, 3]
        with pytest.raises(InputError, match="4 of 5 items are whole"):
            again.finish()
        for index in range(4, len(PEOPLE)):
            add(again, index, pieces)
        assert again.finish().sha256 == whole.sha256
        assert sorted(tree(folder)) == files


def add(writer: SyntheticSetWriter, index: int, pieces: list[tuple[Volume, Volume]]) -> None:
    image, label = pieces[index]
    condition = {"age": 34.5, "class": "crop"}
    writer.add(f"s{index:03d}", index, image, label, suffix="T1w", condition=condition, metadata=PEOPLE[index])


def test_an_item_of_another_seed_or_that_was_altered_is_made_again(tmp_path: Path, mni: Volume) -> None:
    writer = SyntheticSetWriter(tmp_path / "set", PLAN)
    pieces = crops(mni, 1)
    add(writer, 0, pieces)
    assert writer.done("s000", 0)
    assert not writer.done("s000", 1)
    assert not writer.done("s001", 0)
    path = tmp_path / "set" / "images" / "s000.nii.gz"
    path.write_bytes(path.read_bytes()[:-1])
    assert not writer.done("s000", 0)
    with pytest.raises(InputError, match="0 of 1 items are whole"):
        writer.finish()
    add(writer, 0, pieces)
    assert writer.finish().record.items == 1


def test_a_finished_set_is_closed_and_an_unfinished_one_is_none(tmp_path: Path, mni: Volume) -> None:
    folder = tmp_path / "set"
    writer = SyntheticSetWriter(folder, PLAN)
    with pytest.raises(InputError, match="0 of 0 items"):
        writer.finish()
    add(writer, 0, crops(mni, 1))
    with pytest.raises(InputError, match="not finished"):
        SyntheticSet.open(folder)
    finished = writer.finish()
    assert writer.finish().sha256 == finished.sha256
    assert not (folder / "plan.json").exists()
    with pytest.raises(OutputError, match="is finished"):
        add(SyntheticSetWriter(folder, PLAN), 0, crops(mni, 1))
    with pytest.raises(InputError, match="no synthetic set"):
        SyntheticSet.open(tmp_path)


def test_another_plan_does_not_mix_with_what_is_there(tmp_path: Path, mni: Volume) -> None:
    folder = tmp_path / "set"
    SyntheticSetWriter(folder, PLAN)
    with pytest.raises(ConfigError, match="a set with another seed is there"):
        SyntheticSetWriter(folder, PLAN.model_copy(update={"seed": 8, "config_sha256": "00" * 32}))
    (tmp_path / "busy").mkdir()
    (tmp_path / "busy" / "thesis.txt").write_text("mine")
    with pytest.raises(OutputError, match="not empty"):
        SyntheticSetWriter(tmp_path / "busy", PLAN)
    (folder / "plan.json").write_text("{")
    with pytest.raises(ConfigError, match="damaged"):
        SyntheticSetWriter(folder, PLAN)


def test_what_is_no_image_is_refused(tmp_path: Path, mni: Volume) -> None:
    writer = SyntheticSetWriter(tmp_path / "set", PLAN)
    ((image, label),) = crops(mni, 1)

    def put(changed: Volume = image, labels: Volume | None = label, name: str = "a", suffix: str = "T1w") -> None:
        writer.add(name, 0, changed, labels, suffix=suffix)

    with pytest.raises(InputError, match="two voxels or more"):
        put(Volume(image.data[..., :1], image.geometry.cropped((0, 0, 0), (12, 10, 1))))
    broken = image.data.copy()
    broken[0, 0, 0, 0] = np.nan
    with pytest.raises(InputError, match="not finite"):
        put(Volume(broken, image.geometry))
    with pytest.raises(InputError, match="constant"):
        put(Volume(np.ones_like(image.data), image.geometry))
    with pytest.raises(InputError, match="MR or CT"):
        put(Volume(image.data, image.geometry, Modality.LABEL))
    with pytest.raises(InputError, match=r"without a class in the plan: \[3.0\]"):
        put(labels=Volume(label.data + (label.data == 2), image.geometry, Modality.LABEL))
    moved = Geometry(np.diag([1.0, 1, 1.5, 1]), image.geometry.shape)
    with pytest.raises(GeometryError, match="image's grid"):
        put(labels=Volume(label.data, moved, Modality.LABEL))
    for name in ("../a", "a b", "", "a" * 17):
        with pytest.raises(InputError, match="id"):
            put(name=name)
    assert list((tmp_path / "set" / "images").iterdir()) == []


@given(
    arrays.arrays(
        np.float64, (1, 2, 3, 2), elements=st.floats(-1e6, 1e6, allow_subnormal=False).map(lambda x: round(x, 6))
    )
)
def test_mr_is_stored_as_whole_numbers_from_which_the_values_come_back(data: np.ndarray) -> None:
    if data.min() == data.max():
        data[0, 0, 0, 0] += 1
    volume = Volume(data, Geometry(np.eye(4), (2, 3, 2)), Modality.MR)
    stored, intensity = _whole_numbers(volume)
    back = stored.data * intensity.slope + intensity.intercept
    np.testing.assert_allclose(back, data, atol=intensity.slope * 0.5000001)
    assert stored.data.min() >= 0
    whole = np.array_equal(data, np.rint(data)) and data.min() >= 0 and data.max() <= 32767
    assert (intensity.slope, intensity.intercept) == (1, 0) if whole else stored.data.max() == MR_LEVELS


def test_ct_is_stored_in_whole_hounsfield_units() -> None:
    data = np.array([-1024.4, -1000.6, 40.5, 3071.2, 99999.0, 0.0, 0.4, -0.6]).reshape(1, 2, 2, 2)
    stored, intensity = _whole_numbers(Volume(data, Geometry(np.eye(4), (2, 2, 2)), Modality.CT))
    assert stored.data.ravel().tolist() == [-1024, -1001, 40, 3071, 32767, 0, 0, -1]
    assert (intensity.slope, intensity.intercept) == (1, 0)


def test_a_second_reader_sees_mark_place_and_values(pristine: Path) -> None:
    synthetic = SyntheticSet.open(pristine)
    item = synthetic.items[3]
    image = nibabel.load(pristine / item.image.path)
    assert bytes(image.header["descrip"].item()).startswith(b"SYNTHETIC")
    np.testing.assert_allclose(image.affine, item.grid.geometry.affine)
    assert image.get_data_dtype() == np.int16
    np.testing.assert_array_equal(np.asarray(image.dataobj), synthetic.image(item).data[0])
    label = nibabel.load(pristine / item.label.path)
    assert label.get_data_dtype() == np.uint8
    assert set(np.unique(np.asarray(label.dataobj))) == {0, 1, 2}
