"""Few characters, faint words in noise, and text in volume files: found; real slices: left alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from medidiff.geometry import Geometry
from medidiff.ingestion.candidate import SetApart
from medidiff.ingestion.planes import without_text
from medidiff.io import read_volume
from medidiff.privacy.glyphs import find_glyphs
from medidiff.privacy.noise import has_marks
from medidiff.volume import Modality, Volume
from tests.privacy.test_pixels import FONTS, font, needs_ocr


def burned(picture: np.ndarray, text: str, place: tuple[int, int], size: int, value: float) -> np.ndarray:
    """Text drawn with hard edges; returns where its ink is."""
    canvas = Image.new("L", picture.shape[::-1], 0)
    pen = ImageDraw.Draw(canvas)
    pen.fontmode = "1"
    pen.text(place, text, fill=255, font=font(FONTS[0], size))
    ink = np.asarray(canvas) > 127
    picture[ink] = value
    return ink


@pytest.fixture(scope="module")
def anatomy(shared: Path) -> np.ndarray:
    """A real slice with anatomy all over its middle, whole numbers."""
    volume = read_volume(shared / "data" / "head-t1-dcm-qa-uih" / "uih-b_T1w_1mm.nii.gz").reoriented()
    return np.rint(volume.data[0][:, :, 120].T)


@pytest.mark.parametrize("text", ["AK", "67", "EVA"])
def test_two_characters_are_found_in_anatomy(anatomy: np.ndarray, text: str) -> None:
    assert find_glyphs(anatomy) == []
    picture = anatomy.copy()
    ink = burned(picture, text, (60, 100), 18, float(picture.max()))
    covered = np.zeros(ink.shape, dtype=bool)
    for row0, row1, column0, column1 in find_glyphs(picture):
        covered[row0:row1, column0:column1] = True
    assert (covered & ink).sum() > 0.9 * ink.sum()
    assert covered.mean() < 0.05


def test_one_character_is_found_on_plain_ground() -> None:
    picture = np.random.default_rng(0).normal(100, 2, (128, 128)).round()
    ink = burned(picture, "R", (20, 30), 20, 300)
    (box,) = find_glyphs(picture)
    rows, columns = np.nonzero(ink)
    assert box[0] <= rows.min() <= rows.max() < box[1]
    assert box[2] <= columns.min() <= columns.max() < box[3]


def test_few_grey_values_are_not_strokes() -> None:
    noise = np.random.default_rng(1).integers(0, 5, (120, 120)).astype(float)
    assert find_glyphs(noise) == []


def test_faint_words_in_noise_leave_marks_and_noise_does_not() -> None:
    draws = np.random.default_rng(2)
    for _ in range(3):
        air = np.hypot(*draws.normal(0, 6, (2, 256, 256))).round()
        assert not has_marks(air)
        shift = np.zeros(air.shape)
        burned(shift, "VORTIGERN ANNA", (40, 90), 14, 3.0 * float(air.std()))
        assert has_marks(air + shift)


@needs_ocr
def test_text_in_a_slice_of_a_volume_file_is_blanked(anatomy: np.ndarray) -> None:
    slices = np.stack([anatomy] * 3, axis=-1)
    slices[:40] = slices.min()  # air
    page = slices[..., 1].copy()
    ink = burned(page, "QUILLFEATHER, Rosamund", (8, 10), 14, float(slices.max()))
    slices[..., 1] = page
    affine = np.diag([-1.0, -1, 5, 1])  # as DICOM's axes lie
    volume = Volume(slices.transpose(1, 0, 2)[None].copy(), Geometry(affine, (anatomy.shape[1], anatomy.shape[0], 3)))
    clean, outcomes = without_text(volume, frozenset())
    assert outcomes == {"blanked": 1, "clean": 2}
    assert (clean.data[0, :, :, 1].T[ink] == slices.min()).mean() > 0.97
    np.testing.assert_array_equal(clean.data[..., [0, 2]], volume.data[..., [0, 2]])


def test_text_in_a_volume_that_nobody_can_read_sets_it_apart(
    anatomy: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    page = anatomy.copy()
    page[:40] = 0
    burned(page, "QUILLFEATHER, Rosamund", (8, 10), 14, float(page.max()))
    volume = Volume(np.stack([page.T] * 2, axis=-1)[None], Geometry(np.diag([-1.0, -1, 5, 1]), (*page.T.shape, 2)))
    with pytest.raises(SetApart, match="text-suspected"):
        without_text(volume, frozenset())


def test_label_maps_are_not_searched() -> None:
    volume = Volume(np.ones((1, 32, 32, 4)), Geometry(np.eye(4), (32, 32, 4)), Modality.LABEL)
    assert without_text(volume, frozenset()) == (volume, {"not-checked": 1})
