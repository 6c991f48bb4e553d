"""Who is in a cohort, and what is read of them."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medidiff.data.cohort import Cohort, Person, centred_grid, load_people, onto, people, split_sha256
from medidiff.data.manifest import ManifestRecord
from medidiff.errors import ConfigError, InputError
from medidiff.geometry import Geometry
from medidiff.io import write_volume
from medidiff.volume import Modality, Volume

SHAPE = (40, 56, 40)


def scan(
    folder: Path, name: str, shape: tuple[int, int, int] = (9, 11, 10), seed: int = 0, spacing: float = 1.0
) -> Path:
    """A small image with bright foreground, on disk."""
    data = np.random.default_rng(seed).uniform(0, 100, (1, *shape)).astype(np.float32)
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    write_volume(Volume(data, Geometry(np.diag([spacing] * 3 + [1.0]), shape)), path)
    return path


def label(folder: Path, name: str, shape: tuple[int, int, int] = (9, 11, 10)) -> Path:
    data = np.zeros((1, *shape), dtype=np.uint8)
    data[0, 0:3, 4:7, 3:6] = 2  # at the border, where padding would repeat it
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    write_volume(Volume(data, Geometry(np.eye(4), shape), Modality.LABEL), path)
    return path


def test_first_and_last_of_the_hippocampus_people_never_share_anybody(shared: Path) -> None:
    folder = shared / "data" / "msd-hippocampus"
    training = people(Cohort(images=folder / "images", labels=folder / "labels", first=160))
    held_out = people(Cohort(images=folder / "images", labels=folder / "labels", last=40))
    assert (len(training), len(held_out)) == (160, 40)
    assert {p.image for p in training}.isdisjoint(p.image for p in held_out)
    assert [p.index for p in training + held_out] == list(range(200))
    assert split_sha256(training) != split_sha256(held_out)


def test_real_people_keep_every_labelled_voxel_and_say_what_is_padding(shared: Path) -> None:
    folder = shared / "data" / "msd-hippocampus"
    persons = people(Cohort(images=folder / "images", labels=folder / "labels", first=8))
    found = load_people(persons, SHAPE)
    assert found.images.shape == (8, 1, *SHAPE)
    assert found.labels is not None
    assert found.geometry.spacing == (1.0, 1.0, 1.0)
    for place, person in enumerate(persons):
        import nibabel

        original = np.asarray(nibabel.load(person.label).dataobj)
        assert (
            np.bincount(original.ravel().astype(int))[1:].tolist()
            == np.bincount(found.labels[place].ravel())[1:].tolist()
        )
        assert found.inside[place].sum() == np.prod(np.minimum(original.shape, SHAPE))
    bright = np.quantile(found.images[found.inside], 0.99)
    assert 0.7 < bright < 1.3
    assert np.array_equal(found[2:4].images, found.images[2:4])
    assert [person.index for person in found[[5, 1]].persons] == [5, 1]


@given(have=st.tuples(*[st.integers(2, 9)] * 3), want=st.tuples(*[st.integers(2, 9)] * 3))
def test_centring_keeps_the_middle_and_undoes_itself(have: tuple[int, ...], want: tuple[int, ...]) -> None:
    data = np.arange(1, 1 + np.prod(have)).reshape(have)
    there = onto(data, want, constant=True)
    assert there.shape == want
    kept = there[there > 0]
    assert kept.size == np.prod(np.minimum(have, want))
    if all(a <= b for a, b in zip(have, want, strict=True)):
        assert np.array_equal(onto(there, have), data)


def test_padding_repeats_the_border_of_an_image_and_never_of_a_label_map(tmp_path: Path) -> None:
    person = Person(0, scan(tmp_path, "a.nii.gz"), label(tmp_path, "b.nii.gz"))
    found = load_people([person], (13, 11, 10))
    assert found.labels is not None
    assert np.array_equal(found.images[0, 0, 0], found.images[0, 0, 2])
    assert not found.inside[0, 0, :2].any()
    assert found.inside[0, 0, 2:11].all()
    assert found.labels.sum() == 2 * 27


def test_a_stored_orientation_changes_no_voxel_of_the_result(tmp_path: Path) -> None:
    path = scan(tmp_path, "a.nii.gz")
    from medidiff.io import read_volume

    volume = read_volume(path)
    turned = Volume(
        np.ascontiguousarray(volume.data[:, ::-1].transpose(0, 2, 1, 3)),
        Geometry(np.array([[0, -1, 0, 8], [1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]]), (11, 9, 10)),
    )
    write_volume(turned, tmp_path / "b.nii.gz")
    both = load_people([Person(0, path), Person(1, tmp_path / "b.nii.gz")], (9, 11, 10))
    assert np.array_equal(both.images[0], both.images[1])


def test_the_grid_is_centred_on_world_zero() -> None:
    grid = centred_grid((5, 6, 7), (1.0, 2.0, 0.5))
    middle = grid.to_world(np.array([[2.0, 2.5, 3.0]]))
    assert np.allclose(middle, 0)


def test_the_digest_of_a_split_knows_contents_and_not_names_or_order(tmp_path: Path) -> None:
    one, two = scan(tmp_path, "a.nii.gz", seed=1), scan(tmp_path, "b.nii.gz", seed=2)
    renamed = tmp_path / "z.nii.gz"
    renamed.write_bytes(one.read_bytes())
    assert split_sha256([Person(0, one), Person(1, two)]) == split_sha256([Person(7, two), Person(3, renamed)])
    assert split_sha256([Person(0, one)]) != split_sha256([Person(0, two)])


def test_a_dataset_gives_the_usable_images_of_its_split_one_a_subject(tmp_path: Path) -> None:
    def record(name: str, subject: str, **other: object) -> ManifestRecord:
        base = {
            "id": name,
            "path": f"{name}.nii.gz",
            "subject": subject,
            "session": "1",
            "modality": "MR",
            "suffix": "T1w",
            "split": "train",
            "usable": True,
            "reasons": (),
            "sha256": "",
            "voxels_sha256": "",
            "shape": (9, 11, 10),
            "frames": 1,
            "spacing": (1.0, 1.0, 1.0),
            "slice_thickness": None,
            "orientation": "RAS",
        }
        return ManifestRecord(**{**base, **other})  # type: ignore[arg-type]

    records = [
        record("a", "s1"),
        record("b", "s1"),
        record("c", "s2", usable=False),
        record("d", "s3", split="test"),
        record("e", "s4", suffix="bold"),
        record("f", "s5"),
        record("g", "s6", modality="LABEL"),
    ]
    (tmp_path / "manifest.jsonl").write_text("".join(json.dumps(asdict(r)) + "\n" for r in records))
    found = people(Cohort(dataset=tmp_path, split="train", suffix="T1w"))
    assert [person.image.name for person in found] == ["a.nii.gz", "f.nii.gz"]


@pytest.mark.parametrize(
    ("arrange", "words"),
    [
        ("several frames", "2 frames"),
        ("other spacing", "others have"),
        ("other grid", "another grid"),
        ("fractions", "no whole numbers"),
        ("text", "cannot be read"),
        ("cut off", "cannot be read"),
        ("gone", "cannot be read"),
    ],
)
def test_people_who_do_not_fit_are_told_by_number_and_not_by_name(tmp_path: Path, arrange: str, words: str) -> None:
    first = Person(0, scan(tmp_path, "a.nii.gz"), label(tmp_path, "la.nii.gz"))
    image, its = scan(tmp_path, "Muster_Erika.nii.gz", seed=3), label(tmp_path, "Muster_Erika_label.nii.gz")
    grid = Geometry(np.eye(4), (9, 11, 10))
    if arrange == "several frames":
        write_volume(Volume(np.random.default_rng(0).random((2, 9, 11, 10), dtype=np.float32), grid), image)
    elif arrange == "other spacing":
        image = scan(tmp_path, "Muster_Erika.nii.gz", spacing=2.0)
    elif arrange == "other grid":
        its = label(tmp_path, "Muster_Erika_label.nii.gz", (9, 11, 12))
    elif arrange == "text":
        image.write_text("Erika Muster, 3 May 1970")
    elif arrange == "cut off":
        image.write_bytes(image.read_bytes()[:-200])
    elif arrange == "gone":
        image.unlink()
    else:
        write_volume(Volume(np.full((1, 9, 11, 10), 0.5, dtype=np.float32), grid), its)
    with pytest.raises(InputError, match=words) as caught:
        load_people([first, Person(1, image, its)], (9, 11, 10))
    assert "person 1" in str(caught.value)
    assert "Muster" not in str(caught.value)


@pytest.mark.parametrize("given", [{}, {"images": "a", "dataset": "b"}, {"images": "a", "first": 1, "last": 2}])
def test_a_cohort_that_says_too_little_or_too_much_is_refused(given: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="give"):
        Cohort.model_validate(given)


def test_too_few_people_or_no_label_map_is_told(tmp_path: Path) -> None:
    scan(tmp_path / "images", "a.nii.gz")
    (tmp_path / "labels").mkdir()
    with pytest.raises(ConfigError, match="1 images were found"):
        people(Cohort(images=tmp_path / "images", first=2))
    with pytest.raises(ConfigError, match="1 of 1 images have no label map"):
        people(Cohort(images=tmp_path / "images", labels=tmp_path / "labels"))
