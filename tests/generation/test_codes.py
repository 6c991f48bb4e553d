"""Label maps to channels and back: exact, on real maps and on any map."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from medidiff.data.cohort import Cohort, load_people, people
from medidiff.errors import InputError
from medidiff.generation.codes import LabelCodec, signed_distance
from tests.tiny_generator import SPEC

CODEC = LabelCodec((1, 2), 4.0, (-3.7, -3.6), (1.05, 1.0))


def test_real_label_maps_come_back_voxel_for_voxel(shared: Path) -> None:
    folder = shared / "data" / "msd-hippocampus"
    found = load_people(people(Cohort(images=folder / "images", labels=folder / "labels", first=12)), (40, 56, 40))
    assert found.labels is not None
    assert set(np.unique(found.labels)) == {0, 1, 2}
    for labels in found.labels[:, 0]:
        np.testing.assert_array_equal(CODEC.decode(CODEC.encode(labels)), labels)


@given(arrays.arrays(np.uint8, (4, 5, 3), elements=st.integers(0, 3)))
def test_any_label_map_comes_back(labels: np.ndarray) -> None:
    codec = LabelCodec((1, 2, 3), 2.5, (0.3, -2.0, -1.0), (2.0, 0.5, 1.0))
    np.testing.assert_array_equal(codec.decode(codec.encode(labels)), labels)


def test_a_distance_is_measured_from_the_face_between_two_voxels() -> None:
    mask = np.zeros((9, 3, 3), dtype=bool)
    mask[4:] = True
    assert signed_distance(mask, 2.0)[:, 1, 1].tolist() == [-2.0, -2.0, -1.5, -0.5, 0.5, 1.5, 2.0, 2.0, 2.0]


@pytest.mark.parametrize(("fill", "expected"), [(False, -3.0), (True, 3.0)])
def test_a_class_that_is_nowhere_or_everywhere_has_the_clipped_distance(fill: bool, expected: float) -> None:
    assert np.unique(signed_distance(np.full((3, 4, 5), fill), 3.0)).tolist() == [expected]


def test_where_two_classes_claim_a_voxel_the_deeper_one_has_it() -> None:
    channels = np.full((2, 1, 1, 3), -9.0)
    channels[:, 0, 0, 0] = (6.0, 5.0)
    channels[:, 0, 0, 1] = (5.0, 6.5)
    assert CODEC.decode(channels).ravel().tolist() == [1, 2, 0]


def test_a_value_without_a_class_is_refused() -> None:
    with pytest.raises(InputError, match="without a class: 7"):
        CODEC.encode(np.full((2, 2, 2), 7, dtype=np.uint8))


def test_the_codec_of_a_generator_has_its_classes() -> None:
    codec = LabelCodec.of(SPEC)
    assert (codec.values, codec.clip, codec.means) == ((1, 2), SPEC.clip_voxels, (-3.0, -3.1))
