"""Scans change their axes without a value leaving its place."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from medidiff.errors import GeometryError
from medidiff.geometry import Geometry
from medidiff.volume import Modality, Volume


def every_orientation() -> list[Volume]:
    """A small scan with all values different, in each of the 48 orientations, slightly tilted, with two frames."""
    angle = np.deg2rad(12)
    tilt = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    volumes = []
    for order in itertools.permutations(range(3)):
        for signs in itertools.product((1.0, -1.0), repeat=3):
            matrix = np.zeros((3, 3))
            matrix[list(order), range(3)] = np.array(signs) * (0.8, 1.1, 4.0)
            affine = np.eye(4)
            affine[:3, :3] = tilt @ matrix
            affine[:3, 3] = (5.0, -40.0, 12.0)
            data = np.arange(2 * 3 * 4 * 5, dtype=np.float32).reshape(2, 3, 4, 5)
            volumes.append(Volume(data, Geometry(affine, (3, 4, 5)), Modality.CT))
    return volumes


EVERY = every_orientation()


@pytest.mark.parametrize("volume", EVERY, ids=lambda v: v.geometry.orientation)
def test_reoriented_keeps_every_value_in_its_place(volume: Volume) -> None:
    reoriented = volume.reoriented()
    assert reoriented.geometry.orientation == "RAS"
    assert reoriented.modality is Modality.CT
    for index in itertools.product(*(range(n) for n in reoriented.geometry.shape)):
        old = volume.geometry.to_index(reoriented.geometry.to_world(np.array(index)))
        np.testing.assert_allclose(old, np.rint(old), atol=1e-9)
        i, j, k = np.rint(old).astype(int)
        assert np.array_equal(reoriented.data[(slice(None), *index)], volume.data[:, i, j, k])


@pytest.mark.parametrize("volume", EVERY, ids=lambda v: v.geometry.orientation)
def test_like_undoes_reoriented(volume: Volume) -> None:
    back = volume.reoriented().like(volume.geometry)
    assert np.array_equal(back.data, volume.data)
    assert back.geometry == volume.geometry
    assert back.data.flags.c_contiguous


def test_like_refuses_a_grid_of_another_shape() -> None:
    with pytest.raises(GeometryError, match="cannot lay"):
        EVERY[0].reoriented().like(Geometry(np.eye(4), (5, 5, 5)))


def test_data_must_fit_the_grid() -> None:
    with pytest.raises(GeometryError, match=r"\(c, i, j, k\)"):
        Volume(np.zeros((3, 4, 5), np.float32), Geometry(np.eye(4), (3, 4, 5)))
    with pytest.raises(GeometryError, match=r"\(3, 4, 6\)"):
        Volume(np.zeros((1, 3, 4, 5), np.float32), Geometry(np.eye(4), (3, 4, 6)))


def test_a_real_head_survives_the_way_there_and_back(mni: Volume) -> None:
    sagittal = Geometry(mni.geometry.affine @ np.array([[0, 0, -1, 196], [1, 0, 0, 0], [0, -1, 0, 188], [0, 0, 0, 1]]),
                        (233, 189, 197))  # fmt: skip
    assert sagittal.orientation == "AIL"
    laid = mni.like(sagittal)
    assert laid.data.shape == (1, 233, 189, 197)
    assert laid.reoriented().geometry.distance(mni.geometry) < 1e-9
    assert np.array_equal(laid.reoriented().data, mni.data)
