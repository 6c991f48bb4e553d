"""Drawn text is found and blanked; slices without text are left alone; without OCR nothing risky passes."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image, ImageDraw, ImageFont
from pydicom.dataset import Dataset

from medidiff.privacy import ocr
from medidiff.privacy.deidentify import deidentify_dataset
from medidiff.privacy.keys import PrivacyKey
from medidiff.privacy.pixels import clean_frames
from medidiff.privacy.policy import CannotClean, DeidentifyPolicy
from medidiff.privacy.textlike import find_text_lines, stands_alone
from tests.privacy.planting import packaged

KEY = PrivacyKey(bytes(range(32)))
needs_ocr = pytest.mark.skipif(not ocr.available(), reason="tesseract is not installed")
US_CLASS = "1.2.840.10008.5.1.4.1.1.6.1"
SC_CLASS = "1.2.840.10008.5.1.4.1.1.7"
FONTS = ("DejaVuSans.ttf", "DejaVuSansMono.ttf", "DejaVuSerif-Bold.ttf")


def font(name: str, size: int) -> ImageFont.FreeTypeFont:
    import matplotlib as mpl

    return ImageFont.truetype(str(Path(mpl.get_data_path()) / "fonts" / "ttf" / name), size)


def slice_of(rows: int, columns: int, seed: int = 0) -> Dataset:
    """A real CT slice (pydicom's own), enlarged to the size of a clinical image, with a little noise."""
    ds = packaged("CT_small.dcm")
    small = ds.pixel_array.astype(np.float32)
    grown = np.asarray(Image.fromarray(small).resize((columns, rows), Image.Resampling.BICUBIC))
    noise = np.random.default_rng(seed).normal(0, 4, grown.shape)
    ds.Rows, ds.Columns = rows, columns
    ds.PixelData = np.clip(grown + noise, -1000, 2500).astype(np.int16).tobytes()
    return ds


def draw(
    ds: Dataset, text: str, place: tuple[int, int], face: ImageFont.FreeTypeFont, level: float, smooth: bool
) -> np.ndarray:
    """Burn text in; returns where its ink is."""
    picture = Image.new("L", (ds.Columns, ds.Rows), 0)
    pen = ImageDraw.Draw(picture)
    pen.fontmode = "L" if smooth else "1"
    pen.text(place, text, fill=255, font=face)
    ink = np.asarray(picture) / 255.0
    pixels = np.frombuffer(ds.PixelData, dtype=np.int16).reshape(ds.Rows, ds.Columns)
    value = pixels.min() + level * (float(pixels.max()) - pixels.min())
    ds.PixelData = np.round(pixels * (1 - ink) + value * ink).astype(np.int16).tobytes()
    return ink > 0.5


@needs_ocr
@pytest.mark.parametrize("seed", range(6))
def test_text_in_a_slice_is_blanked_and_the_rest_is_not(seed: int) -> None:
    draws = random.Random(seed)
    ds = slice_of(512, 512, seed)
    text = draws.choice(["KOWALCZYK, Agnieszka", "Oyelaran Babatunde", "Mercy West Hospital"])
    face = font(FONTS[seed % 3], draws.choice([14, 18, 24]))
    place = (draws.randrange(10, 180), draws.randrange(10, 480))
    ink = draw(ds, text, place, face, draws.choice([1.0, 0.9]), smooth=seed % 2 == 0)
    before = ds.pixel_array

    result = deidentify_dataset(ds, DeidentifyPolicy(), KEY)

    after = result.dataset.pixel_array
    assert result.pixels == "blanked"
    assert (after[ink] == before.min()).mean() > 0.97
    near = np.zeros(ink.shape, dtype=bool)
    rows, columns = np.nonzero(ink)
    near[max(0, rows.min() - 6) : rows.max() + 16, max(0, columns.min() - 80) : columns.max() + 80] = True
    np.testing.assert_array_equal(after[~near], before[~near])


@needs_ocr
def test_vertical_text_on_a_scout_is_blanked() -> None:
    ds = slice_of(512, 512)
    ds.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    picture = Image.new("L", (300, 30), 0)
    ImageDraw.Draw(picture).text((2, 2), "KOWALCZYK Agnieszka", fill=255, font=font(FONTS[0], 22))
    ink = np.zeros((512, 512), dtype=bool)
    turned = np.rot90(np.asarray(picture)) > 127
    ink[100 : 100 + turned.shape[0], 20 : 20 + turned.shape[1]] = turned
    pixels = ds.pixel_array.copy()
    pixels[ink] = pixels.max()
    ds.PixelData = pixels.tobytes()

    after = deidentify_dataset(ds, DeidentifyPolicy(), KEY).dataset.pixel_array

    assert (after[ink] == pixels.min()).mean() > 0.95


@needs_ocr
def test_colour_ultrasound_screen_loses_text_of_every_colour() -> None:
    ds = packaged("CT_small.dcm")
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = US_CLASS
    ds.Modality = "US"
    picture = Image.new("RGB", (640, 480), (0, 0, 0))
    pen = ImageDraw.Draw(picture)
    for row, colour in ((20, (255, 255, 255)), (60, (255, 60, 0)), (100, (40, 90, 255)), (140, (0, 200, 0))):
        pen.text((30, row), "Oyelaran Babatunde", fill=colour, font=font(FONTS[0], 20))
    ds.Rows, ds.Columns, ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PlanarConfiguration = (
        480,
        640,
        3,
        "RGB",
        0,
    )
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 8, 8, 7, 0
    ds.PixelData = picture.tobytes()

    result = deidentify_dataset(ds, DeidentifyPolicy(), KEY)

    assert result.dataset.BurnedInAnnotation == "NO"
    assert (result.dataset.pixel_array.max(axis=-1) > 64).sum() < 20


@needs_ocr
def test_a_page_of_text_is_set_apart() -> None:
    ds = packaged("CT_small.dcm")
    ds.SOPClassUID, ds.ImageType = SC_CLASS, ["DERIVED", "SECONDARY", "DOSE_INFO"]
    with pytest.raises(CannotClean, match="text-page"):
        deidentify_dataset(ds, DeidentifyPolicy(), KEY)


@pytest.mark.parametrize("kind", ["US", "SC", "LOCALIZER", "said", "captured"])
def test_without_ocr_nothing_risky_passes(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    ds = packaged("CT_small.dcm")
    if kind in ("US", "SC"):
        ds.SOPClassUID = US_CLASS if kind == "US" else SC_CLASS
    elif kind == "LOCALIZER":
        ds.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    elif kind == "said":
        ds.BurnedInAnnotation = "YES"
    else:
        ds.ConversionType = "WSD"
    with pytest.raises(CannotClean, match="text-unverified"):
        deidentify_dataset(ds, DeidentifyPolicy(), KEY)


def test_without_ocr_a_plain_slice_passes_and_one_with_text_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    ds = slice_of(512, 512)
    plain = deidentify_dataset(ds, DeidentifyPolicy(), KEY)
    np.testing.assert_array_equal(plain.dataset.pixel_array, ds.pixel_array)
    draw(ds, "KOWALCZYK, Agnieszka", (40, 60), font(FONTS[0], 18), 1.0, smooth=False)
    with pytest.raises(CannotClean, match="text-suspected"):
        deidentify_dataset(ds, DeidentifyPolicy(), KEY)


def test_text_lines_are_found_without_reading_and_anatomy_is_not_text() -> None:
    ds = slice_of(512, 512)
    assert find_text_lines(ds.pixel_array) == []
    ink = draw(ds, "Mercy West Hospital", (60, 300), font(FONTS[1], 16), 1.0, smooth=False)
    best = find_text_lines(ds.pixel_array)[0]
    rows, columns = np.nonzero(ink)
    assert best.row0 <= rows.min() + 3
    assert best.row1 >= rows.max() - 4
    assert best.column1 - best.column0 > 0.3 * (columns.max() - columns.min())


def noise_slice(seed: int, *, kind: str = "white") -> Dataset:
    """A slice that is noise and nothing else: scrubbed pixels, or air."""
    draws = np.random.default_rng(seed)
    values = draws.integers(10, 266, (256, 256)) if kind == "white" else np.hypot(*draws.normal(0, 6, (2, 256, 256)))
    ds = packaged("CT_small.dcm")
    ds.Rows, ds.Columns, ds.PixelData = 256, 256, values.astype(np.int16).tobytes()
    return ds


@needs_ocr
@pytest.mark.parametrize(
    ("text", "place", "size", "level"),
    [
        ("VORTIGERN ANNA 03.02.1931", (6, 4), 12, 0.995),
        ("VORTIGERN ANNA", (70, 128), 11, 1.2),
        ("VORTIGERN ANNA 03.02.1931", (6, 4), 11, 0.4),
    ],
)
def test_legible_text_in_noise_never_passes(text: str, place: tuple[int, int], size: int, level: float) -> None:
    ds = noise_slice(3)
    draw(ds, text, place, ImageFont.load_default(size), level, smooth=False)
    with pytest.raises(CannotClean, match="text-suspected"):
        deidentify_dataset(ds, DeidentifyPolicy(), KEY)


@needs_ocr
@pytest.mark.parametrize("kind", ["white", "air"])
def test_noise_is_passed_but_not_called_free_of_text(kind: str) -> None:
    ds = noise_slice(4, kind=kind)
    result = deidentify_dataset(ds, DeidentifyPolicy(), KEY)
    assert result.pixels == "not-verified"
    assert "BurnedInAnnotation" not in result.dataset
    codes = {item.CodeValue for item in result.dataset.DeidentificationMethodCodeSequence}
    assert "113101" not in codes  # Clean Pixel Data Option
    np.testing.assert_array_equal(result.dataset.pixel_array, ds.pixel_array)


@needs_ocr
@pytest.mark.parametrize("text", ["Anna", "Eva"])
def test_a_short_name_alone_on_plain_ground_is_blanked(text: str) -> None:
    ds = slice_of(256, 256)
    pixels = ds.pixel_array.copy()
    pixels[:40] = pixels.min()  # air above the patient
    ds.PixelData = pixels.tobytes()
    ink = draw(ds, text, (8, 8), ImageFont.load_default(12), 0.6, smooth=False)
    result = deidentify_dataset(ds, DeidentifyPolicy(), KEY)
    after = result.dataset.pixel_array
    assert result.pixels == "blanked"
    assert (after[ink] == pixels.min()).all()
    np.testing.assert_array_equal(after[48:], pixels[48:])


def test_an_antialiased_line_on_plain_ground_stands_alone() -> None:
    picture = np.random.default_rng(1).normal(20, 1, (256, 256)).round()
    canvas = Image.new("L", (200, 34), 0)
    ImageDraw.Draw(canvas).text((4, 3), "BRZEZICKA", fill=255, font=font(FONTS[0], 20))
    ink = np.asarray(canvas) / 255.0
    picture[4:38, 4:204] += np.round(ink * 900)

    assert any(stands_alone(line, picture) for line in find_text_lines(picture, min_parts=3))
    assert not any(stands_alone(line, picture) and line.score >= 0.8 for line in find_text_lines(picture, min_parts=3))


def test_a_row_of_brains_is_no_line_of_text(shared: Path) -> None:
    if not ocr.available():
        pytest.skip("tesseract is not installed")
    mosaic = pydicom.dcmread(next((shared / "dicom" / "phi" / "siemens_mosaic_csa").glob("*.dcm")))
    frames = mosaic.pixel_array[None, ..., None].copy()

    # folds of the top row read as a short word, and six brains side by side have one height
    assert clean_frames(frames, mosaic, frozenset()) == ("clean", [])
    assert np.array_equal(frames[0, ..., 0], mosaic.pixel_array)


@needs_ocr
@pytest.mark.parametrize(
    "name",
    [
        "bits12/dicom/12bitUnsigned_0x0F0F.dcm",  # six brains of six tiles read as 800006
        "enhanced_ct/dicom/eCT_Supplemental.dcm",  # furrows of a masked brain are as thin and as flat as letters
    ],
)
def test_anatomy_that_reads_or_looks_like_characters_stays(shared: Path, name: str) -> None:
    source = pydicom.dcmread(shared / "dicom" / name)
    before = source.pixel_array.reshape(-1, source.Rows, source.Columns, 1)
    frames = before.copy()

    clean_frames(frames, source, frozenset())

    assert (frames != before).mean() < 0.001


@needs_ocr
@pytest.mark.slow
def test_real_series_without_text_are_not_changed(shared: Path, tmp_path: Path) -> None:
    """False positives over real MR and CT: a few slices of each series."""
    import zipfile

    changed, seen = [], 0
    for case in (
        "ct_brain",
        "ct_gantry_tilt",
        "siemens_t1_3d",
        "ge_t1_3d",
        "mixed_orientation",
        "philips_scaled",
        "bits12",
    ):
        archive = shared / "dicom" / case / "dicom.zip"
        if archive.exists():
            zipfile.ZipFile(archive).extractall(tmp_path / case)
        folder = tmp_path / case if archive.exists() else shared / "dicom" / case / "dicom"
        for path in sorted(path for path in folder.rglob("*") if path.is_file())[::9][:5]:
            ds = pydicom.dcmread(path, force=True)
            if "PixelData" not in ds:
                continue
            seen += 1
            try:
                changed += [case] if deidentify_dataset(ds, DeidentifyPolicy(), KEY).boxes else []
            except CannotClean as error:
                changed.append(f"{case} {error.reason}")
    assert seen >= 10
    assert changed == []
