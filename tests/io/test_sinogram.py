"""Projections in Data Exchange files: what is read, assumed, found from the data, and refused."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medidiff.errors import BudgetError, InputError
from medidiff.io.sinogram import (
    is_sinogram,
    line_integrals,
    noise_level,
    probe_sinogram,
    read_sinogram,
    rotation_centre,
)
from tests.sinograms import BEAM, BINS, DARK, ROWS, VIEWS, measured, write_sinogram

h5py = pytest.importorskip("h5py", reason="medidiff[kspace] is not installed")


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """A Data Exchange file; what is None is left out."""
    return partial(write_sinogram, tmp_path / "scan.h5")


def test_line_integrals_axis_and_angles_come_back(write: Callable[..., Path]) -> None:
    found = read_sinogram(write(centre=1.75))
    expected, degrees = measured(1.75)
    np.testing.assert_allclose(found.data, expected.transpose(0, 2, 1), atol=2e-5)
    np.testing.assert_allclose(found.info.angles, degrees)
    assert found.centre == pytest.approx(1.75, abs=0.2)
    assert found.info.pixel_mm is None
    assert any("per voxel" in text for text in found.info.warnings)
    assert any("mirror image" in text for text in found.info.warnings)


@pytest.mark.parametrize("arc", [120.0, 180.0, 360.0])
@pytest.mark.parametrize("centre", [-4.4, 0.0, 3.3])
def test_the_axis_is_found(centre: float, arc: float) -> None:
    integrals, degrees = measured(centre, arc)
    found, doubts = rotation_centre(integrals, np.deg2rad(degrees))
    assert found == pytest.approx(centre, abs=0.25)
    assert not doubts


def test_an_object_beyond_the_detector_is_found_by_mirrored_views_and_doubted() -> None:
    integrals, degrees = measured(2.0, 360.0, 90)
    # A part of the detector was read out: its middle is 4 bins to the left of the whole one's.
    found, doubts = rotation_centre(integrals[:, :, 8:32], np.deg2rad(degrees))
    assert found == pytest.approx(2.0 + 4.0, abs=0.3)
    assert len(doubts) == 1


def test_the_noise_is_found() -> None:
    integrals, _ = measured(0.0)
    rng = np.random.default_rng(0)
    for std in (0.05, 0.2):
        assert noise_level(integrals + rng.normal(0, std, integrals.shape)) == pytest.approx(std, rel=0.25)


def test_the_tooth_has_its_axis_where_tomopy_puts_it(shared: Path) -> None:
    found = read_sinogram(shared / "data" / "sinogram-tomopy" / "tooth.h5")
    assert found.data.shape == (181, 640, 2)
    # TomoPy's documentation: rotation centre 296 (bin number) of this file.
    assert found.centre + (640 - 1) / 2 == pytest.approx(296, abs=1)
    assert 0.003 < found.noise_std < 0.02
    assert not found.warnings


def test_what_the_file_leaves_open_is_assumed_and_said(write: Callable[..., Path]) -> None:
    info = probe_sinogram(write(theta=None, data_white=None, data_dark=None))
    assert info.angles == pytest.approx(np.arange(VIEWS) * 180 / VIEWS)
    assert (info.flats, info.darks) == (0, 0)
    for words in ("does not say its angles", "beam alone", "without the beam"):
        assert any(words in text for text in info.warnings)


def test_angles_in_radians_and_the_size_of_a_bin_are_understood(write: Callable[..., Path]) -> None:
    path = write(theta=None)
    with h5py.File(path, "a") as file:
        file["exchange/theta"] = np.linspace(0, 3, VIEWS)
        file["exchange/theta"].attrs["units"] = "radians"
        file["measurement/instrument/detector/pixel_size_x"] = 6.5
        file["measurement/instrument/detector/pixel_size_x"].attrs["units"] = "um"
    info = probe_sinogram(path)
    assert info.angles[-1] == pytest.approx(np.rad2deg(3))
    assert info.pixel_mm == pytest.approx(0.0065)


def test_a_dead_pixel_is_the_darkest_ray_and_is_told(write: Callable[..., Path]) -> None:
    integrals, _ = measured(0.0)
    counts = (DARK + (BEAM - DARK) * np.exp(-integrals)).astype(np.float32)
    counts[3, 1, 20] = DARK - 5
    found = read_sinogram(write(data=counts))
    assert np.isfinite(found.data).all()
    assert found.data[3, 20, 1] == pytest.approx(found.data.max())
    assert any("no light" in text for text in found.warnings)


def test_other_hdf5_is_no_sinogram(tmp_path: Path, write: Callable[..., Path]) -> None:
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["kspace"] = np.zeros((2, 3))
    (tmp_path / "text.h5").write_text("exchange/data")
    assert is_sinogram(write())
    assert not is_sinogram(tmp_path / "other.h5")
    assert not is_sinogram(tmp_path / "text.h5")
    assert not is_sinogram(tmp_path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data": np.zeros((VIEWS, BINS))}, "views, rows, bins"),
        ({"data": np.zeros((VIEWS, ROWS, BINS), complex)}, "real counts"),
        ({"data": np.zeros((2, ROWS, BINS))}, "views of at least"),
        ({"data": np.full((VIEWS, ROWS, BINS), np.nan)}, "not finite"),
        ({"data_white": np.zeros((3, ROWS, BINS + 1))}, "does not fit"),
        ({"data_white": np.full((3, ROWS, BINS), DARK)}, "no brighter"),
        ({"data_white": np.full((3, ROWS, BINS), np.inf)}, "not finite"),
        ({"data": np.zeros((VIEWS, ROWS, BINS))}, "no ray came through"),
        ({"theta": np.zeros(VIEWS)}, "impossible"),
        ({"theta": np.arange(VIEWS - 1.0)}, "one for each view"),
        ({"theta": np.full(VIEWS, np.nan)}, "impossible"),
    ],
)
def test_what_cannot_be_is_refused(write: Callable[..., Path], changes: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        read_sinogram(write(**changes))


def test_a_promise_of_more_than_the_file_holds_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "lies.h5", "w") as file:
        file.create_dataset("exchange/data", (20_000, 4000, 8000), np.float32, chunks=(1, 100, 100))
    with pytest.raises(InputError, match="promises"):
        probe_sinogram(tmp_path / "lies.h5")


def test_a_result_beyond_the_budget_is_refused(write: Callable[..., Path]) -> None:
    with pytest.raises(BudgetError):
        read_sinogram(write(), budget=10_000)


def test_a_link_to_another_file_is_not_followed(tmp_path: Path, write: Callable[..., Path]) -> None:
    path = write(data_white=None)
    with h5py.File(path, "a") as file:
        file["exchange/data_white"] = h5py.ExternalLink("/etc/passwd", "x")
    with pytest.raises(InputError, match="link"):
        probe_sinogram(path)


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.9])
def test_a_cut_file_is_one_typed_error(write: Callable[..., Path], keep: float) -> None:
    path = write()
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])
    with pytest.raises(InputError):
        read_sinogram(path)


def test_without_a_beam_picture_the_brightest_is_the_beam() -> None:
    counts = np.full((5, 2, 9), 1000.0, np.float32)
    counts[:, :, 4] = 500
    integrals, warnings = line_integrals(counts, None, None, Path("x"))
    assert integrals[0, 0, 0] == pytest.approx(0, abs=1e-6)
    assert integrals[0, 0, 4] == pytest.approx(np.log(2), abs=1e-5)
    assert not warnings
