"""Stored numbers: bits, signs, scalings, encodings and vendors' ways."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless

from medidiff.io.dicom import Layout, PixelFormat, Reason, find_series, index, load, read_series
from medidiff.io.dicom import pixels as pixels_of
from medidiff.io.dicom.pixels import codestream_size, decoder_hint, mask_bits
from medidiff.volume import Modality
from tests.io.dicom_series import TEST_FILES, Array, phantom, set_pixels, write_series


def stored_of(folder: Path) -> Array:
    """The one volume's values in stored order (k, rows, columns)."""
    return read_series(folder).data[0].transpose(2, 1, 0)


SAME_IMAGE = [
    "MR_small.dcm",
    "MR_small_RLE.dcm",
    "MR_small_bigendian.dcm",
    "MR_small_expb.dcm",
    "MR_small_implicit.dcm",
    "MR_small_jp2klossless.dcm",
    "MR_small_jpeg_ls_lossless.dcm",
]


@pytest.mark.parametrize("name", SAME_IMAGE)
def test_one_image_in_every_encoding(name: str) -> None:
    expected = pydicom.dcmread(TEST_FILES / "MR_small.dcm").pixel_array
    volume = read_series(TEST_FILES / name)
    np.testing.assert_array_equal(volume.data[0, :, :, 0].T, expected)
    assert volume.data.dtype == np.float32


def test_ct_is_in_hounsfield_units() -> None:
    dataset = pydicom.dcmread(TEST_FILES / "CT_small.dcm")
    volume = read_series(TEST_FILES / "CT_small.dcm")
    assert volume.modality is Modality.CT
    np.testing.assert_array_equal(volume.data[0, :, :, 0].T, dataset.pixel_array + float(dataset.RescaleIntercept))


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, RLELossless])
def test_rewritten_series(syntax: pydicom.uid.UID, tmp_path: Path) -> None:
    stored = phantom(4)

    def encode(dataset: Dataset, k: int) -> None:
        del k
        if syntax == RLELossless:
            dataset.compress(syntax)
        else:
            dataset.file_meta.TransferSyntaxUID = syntax

    write_series(tmp_path, stored, change=encode)
    np.testing.assert_array_equal(stored_of(tmp_path), stored)


@given(st.integers(1, 16), st.data())
def test_only_stored_bits_count(stored_bits: int, data: st.DataObject) -> None:
    """Against integer arithmetic: junk above and below the stored bits changes nothing."""
    high = data.draw(st.integers(stored_bits - 1, 15))
    signed = data.draw(st.booleans())
    low, top = (-(1 << (stored_bits - 1)), 1 << (stored_bits - 1)) if signed else (0, 1 << stored_bits)
    value = data.draw(st.integers(low, top - 1))
    shift = high + 1 - stored_bits
    window = ((1 << stored_bits) - 1) << shift
    word = ((value << shift) & window) | (data.draw(st.integers(0, 65535)) & ~window & 0xFFFF)
    pixels = PixelFormat(1, 1, 1, 16, stored_bits, high, signed, False, "", "")
    assert int(mask_bits(np.array([word], dtype="<u2"), pixels)[0]) == value


def test_signed_and_unsigned_slices_in_one_series(tmp_path: Path) -> None:
    stored = phantom(4).astype(np.int64)

    def mix(dataset: Dataset, k: int) -> None:
        if k % 2:
            set_pixels(dataset, (stored[k] - 1000).astype(np.int16))
            dataset.RescaleSlope, dataset.RescaleIntercept = 1, 1000

    write_series(tmp_path, stored.astype(np.uint16), change=mix)
    np.testing.assert_array_equal(stored_of(tmp_path), stored)


def test_each_slice_has_its_own_slope(tmp_path: Path) -> None:
    """PET and Philips scale slice by slice."""
    stored = phantom(5)

    def scale(dataset: Dataset, k: int) -> None:
        dataset.RescaleSlope, dataset.RescaleIntercept = f"{1.5 + 0.25 * k}", f"{-k}"

    write_series(tmp_path, stored, change=scale)
    k = np.arange(5)[:, None, None]
    np.testing.assert_array_equal(stored_of(tmp_path), (stored * (1.5 + 0.25 * k) - k).astype(np.float32))


def test_philips_scale_slope_makes_images_comparable(tmp_path: Path) -> None:
    """The same signal under two display scalings: the numbers agree."""
    signal = phantom(2)[:1].repeat(2, axis=0)

    def philips(dataset: Dataset, k: int) -> None:
        dataset.Manufacturer = "Philips Medical Systems"
        dataset.RescaleSlope, dataset.RescaleIntercept = ("2.5", "0") if k else ("4", "0")
        block = dataset.private_block(0x2005, "Philips MR Imaging DD 001", create=True)
        block.add_new(0x0E, "FL", 0.5)

    write_series(tmp_path, signal, change=philips)
    values = stored_of(tmp_path)
    np.testing.assert_array_equal(values, signal / 0.5)


def test_monochrome1_is_turned_over_where_values_have_no_unit(tmp_path: Path) -> None:
    def invert(dataset: Dataset, k: int) -> None:
        del k
        dataset.PhotometricInterpretation = "MONOCHROME1"
        dataset.BitsStored, dataset.HighBit = 12, 11

    stored = phantom(3)
    write_series(tmp_path / "mr", stored, change=invert)
    np.testing.assert_array_equal(stored_of(tmp_path / "mr"), 4095 - stored.astype(int))
    assert "MONOCHROME1" in find_series(tmp_path / "mr").series[0].notes[0]
    write_series(tmp_path / "ct", stored, base="CT_small.dcm", change=invert)
    np.testing.assert_array_equal(stored_of(tmp_path / "ct"), stored.astype(int) - 1024)


def test_float_pixels(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(3, 10, 8)).astype(np.float32)

    def use_float(dataset: Dataset, k: int) -> None:
        del dataset.PixelData
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 32, 32, 31
        dataset.FloatPixelData = values[k].tobytes()

    write_series(tmp_path, phantom(3), change=use_float)
    np.testing.assert_array_equal(stored_of(tmp_path), values)


def test_eight_and_thirty_two_bits(tmp_path: Path) -> None:
    for bits in (8, 32):
        stored = np.random.default_rng(bits).integers(0, 200, (3, 9, 7)).astype(f"u{bits // 8}")

        def resize(dataset: Dataset, k: int, stored: Array = stored, bits: int = bits) -> None:
            dataset.BitsAllocated = dataset.BitsStored = bits
            dataset.HighBit = bits - 1
            content = stored[k].tobytes()
            dataset.PixelData = content + b"\0" * (len(content) % 2)

        write_series(tmp_path / str(bits), stored.astype(np.uint16), change=resize)
        np.testing.assert_array_equal(stored_of(tmp_path / str(bits)), stored)


def test_single_bit_pixels(tmp_path: Path) -> None:
    mask = np.random.default_rng(1).integers(0, 2, (3, 16, 8)).astype(np.uint8)

    def pack(dataset: Dataset, k: int) -> None:
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 1, 1, 0
        dataset.PixelData = np.packbits(mask[k].ravel(), bitorder="little").tobytes()

    write_series(tmp_path, mask.astype(np.uint16), change=pack)
    np.testing.assert_array_equal(stored_of(tmp_path), mask)


def siemens_mosaic(dataset: Dataset, tiles: Array) -> None:
    """Lay tiles into a mosaic, described by private elements only, as an export without CSA header does."""
    count, rows, columns = tiles.shape
    side = int(np.ceil(np.sqrt(count)))
    sheet = np.zeros((side * rows, side * columns), dtype=np.uint16)
    for number, tile in enumerate(tiles):
        down, across = divmod(number, side)
        sheet[down * rows : (down + 1) * rows, across * columns : (across + 1) * columns] = tile
    set_pixels(dataset, sheet)
    dataset.Manufacturer = "SIEMENS"
    dataset.private_block(0x0019, "SIEMENS MR HEADER", create=True).add_new(0x0A, "US", count)


def test_mosaic_without_csa_header(tmp_path: Path) -> None:
    tiles = phantom(7)
    half = np.array([(3 - 1) / 2 * 8 * 1.25, (3 - 1) / 2 * 10 * 1.5, 0.0])  # the sheet's corner, seen from a tile's

    def lay(dataset: Dataset, k: int) -> None:
        del k
        siemens_mosaic(dataset, tiles)

    write_series(tmp_path, phantom(1), origin=np.array([1.0, 2.0, 3.0]) - half, change=lay)
    (plan,) = find_series(tmp_path).series
    assert plan.kind is Layout.MOSAIC
    assert any("image axes" in note for note in plan.notes)
    volume = load(plan)
    np.testing.assert_array_equal(volume.data[0].transpose(2, 1, 0), tiles)
    np.testing.assert_allclose(volume.geometry.origin, (-1.0, -2.0, 3.0))
    assert volume.geometry.spacing == pytest.approx((1.25, 1.5, 3.0))


def csa_header(**elements: list[float]) -> bytes:
    """A Siemens CSA2 header with the given elements, as nibabel documents the format."""
    content = b"SV10\4\3\2\1" + struct.pack("<II", len(elements), 77)
    for name, values in elements.items():
        content += struct.pack("<64si4siii", name.encode(), len(values), b"FD", 4, len(values), 77)
        for value in values:
            text = f"{value:.8f}".encode() + b"\0"
            content += struct.pack("<4i", len(text), len(text), 77, len(text)) + text + bytes(-len(text) % 4)
    return content


@pytest.mark.parametrize("against", [False, True])
def test_slice_times_follow_the_slices(against: bool, tmp_path: Path) -> None:
    """Times are listed by tile; where tiles run against the normal, k runs against the tiles."""
    tiles = phantom(5)
    times = [0.0, 100.0, 200.0, 300.0, 400.0]
    csa = csa_header(SliceNormalVector=[0.0, 0.0, -1.0 if against else 1.0], MosaicRefAcqTimes=times)

    def lay(dataset: Dataset, k: int) -> None:
        del k
        siemens_mosaic(dataset, tiles)
        dataset.private_block(0x0029, "SIEMENS CSA HEADER", create=True).add_new(0x10, "OB", csa)

    write_series(tmp_path, phantom(1), change=lay)
    (plan,) = find_series(tmp_path).series
    first = load(plan).data[0, :, :, 0].T
    np.testing.assert_array_equal(first, tiles[4 if against else 0])
    assert plan.facts.slice_timing[0] == pytest.approx(0.4 if against else 0.0)


def test_mosaic_whose_tiles_do_not_fit(tmp_path: Path) -> None:
    def lay(dataset: Dataset, k: int) -> None:
        del k
        siemens_mosaic(dataset, phantom(7))
        dataset[0x0019, 0x100A].value = 17

    write_series(tmp_path, phantom(1), change=lay)
    assert find_series(tmp_path).reasons() == {Reason.INVALID_ATTRIBUTE: 1}


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("examples_rgb_color.dcm", Reason.COLOUR),
        ("examples_palette.dcm", Reason.COLOUR),
        ("JPEG-lossy.dcm", Reason.SECONDARY_CAPTURE),
        ("liver_1frame.dcm", Reason.NOT_A_SCAN),
        ("rtdose.dcm", Reason.NOT_A_SCAN),
        ("rtplan.dcm", Reason.NOT_AN_IMAGE),
        ("test-SR.dcm", Reason.NOT_AN_IMAGE),
        ("waveform_ecg.dcm", Reason.NOT_AN_IMAGE),
        ("dicomdirtests/DICOMDIR", Reason.DIRECTORY_RECORD),
        ("MR_truncated.dcm", Reason.TRUNCATED),
        ("zipMR.gz", Reason.ARCHIVE),
        ("README.txt", Reason.NOT_DICOM),
    ],
)
def test_what_is_no_scan_is_set_apart(name: str, reason: Reason) -> None:
    report = find_series(TEST_FILES / name)
    assert not report.series
    assert report.reasons() == {reason: 1}


@pytest.mark.parametrize("name", ["MR_small_jp2klossless.dcm", "MR_small_jpeg_ls_lossless.dcm", "JPGExtended.dcm"])
def test_codestream_size_is_that_of_the_image(name: str) -> None:
    dataset = pydicom.dcmread(TEST_FILES / name)
    frame = next(pydicom.encaps.generate_frames(dataset.PixelData, number_of_frames=1))
    assert codestream_size(frame) == (dataset.Rows, dataset.Columns)


def test_processes_find_what_one_process_finds(tmp_path: Path) -> None:
    for number in range(3):
        write_series(tmp_path / str(number), phantom(5, seed=number))
    (tmp_path / "1" / "note.txt").write_text("a note")
    alone, together = list(index(tmp_path, workers=1)), list(index(tmp_path, workers=2))
    assert len(alone) == 16
    assert together == alone


def test_a_missing_decoder_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    lossless, rle = "1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.5"
    monkeypatch.setattr(pixels_of, "find_spec", lambda name: None)
    assert "medidiff[jpeg-gpl]" in decoder_hint(lossless)
    assert not decoder_hint(rle)
    monkeypatch.setattr(pixels_of, "find_spec", lambda name: name)
    assert not decoder_hint(lossless)
