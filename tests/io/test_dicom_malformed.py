"""Bad input: every file ends in a volume or in one typed reason, and the rest of the heap goes on."""

from __future__ import annotations

import subprocess
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid

from medidiff.errors import DicomSeriesError
from medidiff.io.dicom import ReadPolicy, Reason, SeriesRefused, find_series, load, read_series, reference_of
from medidiff.volume import Volume
from tests.io.dicom_series import TEST_FILES, phantom, set_pixels, write_series

# For each folder beside the checkout: slices of each volume, and reasons.
SHARED: dict[str, tuple[list[int], dict[Reason, int]]] = {
    "truncated_pixels": ([], {Reason.TRUNCATED: 1}),
    "truncated_header": ([], {Reason.TRUNCATED: 1}),
    "not_dicom": ([], {Reason.NOT_DICOM: 2, Reason.EMPTY_FILE: 1}),
    "missing_Rows": ([], {Reason.MISSING_ATTRIBUTE: 1, Reason.MISSING_SLICES: 3}),
    "missing_ImagePositionPatient": ([], {Reason.MISSING_ATTRIBUTE: 1, Reason.MISSING_SLICES: 3}),
    "missing_PixelSpacing": ([], {Reason.MISSING_ATTRIBUTE: 1, Reason.MISSING_SLICES: 3}),
    "missing_ImageOrientationPatient": ([], {Reason.MISSING_ATTRIBUTE: 1, Reason.MISSING_SLICES: 3}),
    "missing_PixelData": ([], {Reason.MISSING_ATTRIBUTE: 1, Reason.MISSING_SLICES: 3}),
    "missing_transfer_syntax": ([1], {}),
    "inconsistent_orientation": ([], {Reason.MIXED_ORIENTATION: 1, Reason.MISSING_SLICES: 3}),
    "mixed_series": ([4, 4], {}),
    "duplicate_slices_identical": ([4], {Reason.DUPLICATE: 4}),
    "duplicate_position_new_uid": ([], {Reason.CONFLICTING_POSITIONS: 5}),
    "missing_middle_slice": ([], {Reason.ARCHIVE: 1}),
    "zero_spacing": ([], {Reason.INVALID_ATTRIBUTE: 4}),
    "slope_zero": ([], {Reason.BAD_SCALING: 4}),
    "length_mismatch": ([3], {Reason.LENGTH_MISMATCH: 1}),
    "huge_claim": ([3], {Reason.OVER_BUDGET: 1}),
    "zip_slip": ([], {Reason.ARCHIVE: 1}),
    "no_preamble": ([1], {}),
    "with_sr_and_dicomdir": ([4], {Reason.NOT_AN_IMAGE: 1, Reason.DIRECTORY_RECORD: 1}),
}


@pytest.mark.parametrize("name", SHARED)
def test_answer_key(name: str, shared: Path) -> None:
    slices, reasons = SHARED[name]
    report = find_series(shared / "dicom" / "malformed" / name)
    assert report.reasons() == Counter(reasons)
    assert [load(plan).data.shape[-1] for plan in report.series] == slices


def test_no_malformed_folder_goes_untested(shared: Path) -> None:
    assert {path.name for path in (shared / "dicom" / "malformed").iterdir() if path.is_dir()} == set(SHARED)


def test_missing_middle_slice_is_named(shared: Path, tmp_path: Path) -> None:
    (archive,) = (shared / "dicom" / "malformed" / "missing_middle_slice").glob("*.zip")
    with zipfile.ZipFile(archive) as members:
        members.extractall(tmp_path)
    with pytest.raises(SeriesRefused, match="1 of 9 slices missing") as caught:
        read_series(tmp_path)
    assert caught.value.reason is Reason.MISSING_SLICES


def test_a_volume_says_what_its_series_lost(shared: Path) -> None:
    (plan,) = find_series(shared / "dicom" / "malformed" / "huge_claim").series
    assert plan.notes == ("of this series, 1 left out: over the memory budget",)


def refusal(folder: Path) -> SeriesRefused:
    with pytest.raises(DicomSeriesError) as caught:
        read_series(folder)
    assert isinstance(caught.value, SeriesRefused)
    return caught.value


@pytest.mark.parametrize(
    ("keyword", "value", "reason"),
    [
        ("PixelSpacing", b"nan\\1.0 ", Reason.INVALID_ATTRIBUTE),
        ("PixelSpacing", b"0.5,5\\1 ", Reason.INVALID_ATTRIBUTE),
        ("PixelSpacing", b"-1\\1", Reason.INVALID_ATTRIBUTE),
        ("PixelSpacing", b"1 ", Reason.INVALID_ATTRIBUTE),
        ("PixelSpacing", b"    ", Reason.MISSING_ATTRIBUTE),
        ("ImagePositionPatient", b"1\\2\\inf ", Reason.INVALID_ATTRIBUTE),
        ("ImagePositionPatient", b"1\\2\\3e300 ", Reason.INVALID_ATTRIBUTE),
        ("ImagePositionPatient", b"1\\2\\", Reason.INVALID_ATTRIBUTE),
        ("ImageOrientationPatient", b"0\\0\\0\\0\\0\\0 ", Reason.INVALID_ATTRIBUTE),
        ("ImageOrientationPatient", b"1\\0\\0\\1\\0\\0 ", Reason.SKEWED_PLANE),
        ("RescaleSlope", b"one ", Reason.BAD_SCALING),
        ("RescaleSlope", b"0.0 ", Reason.BAD_SCALING),
        ("RescaleIntercept", b"1e400 ", Reason.BAD_SCALING),
    ],
)
def test_values_that_are_no_numbers(keyword: str, value: bytes, reason: Reason, tmp_path: Path) -> None:
    def spoil(dataset: Dataset, k: int) -> None:
        del k
        tag = pydicom.datadict.tag_for_keyword(keyword)
        assert tag is not None
        little = pydicom.dataelem.RawDataElement(pydicom.tag.Tag(tag), "DS", len(value), value, 0, False, True)
        dataset._dict[little.tag] = little  # the only way to write what pydicom itself would refuse

    write_series(tmp_path, phantom(3), change=spoil)
    found = refusal(tmp_path)
    assert found.reason is reason


def test_padded_values_are_read(tmp_path: Path) -> None:
    def pad(dataset: Dataset, k: int) -> None:
        value = f" {-3.0 * k} \\ 2.5\\ 1e1 \0".encode()
        tag = pydicom.tag.Tag("ImagePositionPatient")
        dataset._dict[tag] = pydicom.dataelem.RawDataElement(tag, "DS", len(value), value, 0, False, True)

    directions = ((0.0, 1.0, 0.0), (0.0, 0.0, -1.0))
    write_series(tmp_path, phantom(3), change=pad, directions=directions)
    assert read_series(tmp_path).geometry.spacing[2] == pytest.approx(3.0)


def one_file(folder: Path, content: bytes, name: str = "x.dcm") -> SeriesRefused:
    folder.mkdir(exist_ok=True)
    (folder / name).write_bytes(content)
    return refusal(folder)


def test_cut_anywhere_it_is_never_a_volume(tmp_path: Path) -> None:
    content = (TEST_FILES / "CT_small.dcm").read_bytes()
    end = content.index(b"\xe0\x7f\x10\x00OW") + 12 + 128 * 128 * 2
    for length in [0, 1, 131, 132, 140, 300, 900, 2000, end - 32768, end - 12, end - 1]:
        assert one_file(tmp_path, content[:length]).reason in {
            Reason.EMPTY_FILE,
            Reason.NOT_DICOM,
            Reason.TRUNCATED,
            Reason.MISSING_ATTRIBUTE,
            Reason.DAMAGED,
            Reason.NOT_AN_IMAGE,
        }, length


def test_compressed_data_cut_short(tmp_path: Path) -> None:
    for name in ("MR_small_RLE.dcm", "MR_small_jp2klossless.dcm", "MR_small_jpeg_ls_lossless.dcm"):
        content = (TEST_FILES / name).read_bytes()
        found = one_file(tmp_path, content[: content.index(b"\xe0\x7f\x10\x00O") + 12 + 60])
        assert found.reason in {Reason.UNDECODABLE, Reason.TRUNCATED, Reason.LENGTH_MISMATCH}, name


def test_claims_are_checked_before_memory_is_taken(tmp_path: Path) -> None:
    content = bytearray((TEST_FILES / "MR_small_RLE.dcm").read_bytes())
    for tag in (b"\x28\x00\x10\x00US\x02\x00", b"\x28\x00\x11\x00US\x02\x00"):
        at = content.index(tag) + 8
        content[at : at + 2] = b"\xff\x7f"
    (tmp_path / "x.dcm").write_bytes(content)
    with pytest.raises(SeriesRefused) as caught:
        read_series(tmp_path, policy=ReadPolicy(budget=1 << 30))
    assert caught.value.reason is Reason.OVER_BUDGET


def test_claims_that_no_encoder_fulfils(tmp_path: Path) -> None:
    """A gigabyte in five kilobytes, though the budget would allow it."""
    content = bytearray((TEST_FILES / "MR_small_RLE.dcm").read_bytes())
    for tag in (b"\x28\x00\x10\x00US\x02\x00", b"\x28\x00\x11\x00US\x02\x00"):
        at = content.index(tag) + 8
        content[at : at + 2] = b"\x00\x10"
    found = one_file(tmp_path, bytes(content))
    assert found.reason is Reason.LENGTH_MISMATCH
    assert "32.0 MiB" in found.text


def test_a_codestream_larger_than_its_header(tmp_path: Path) -> None:
    """A decoder allocates what the codestream says, whatever the header says."""
    content = bytearray((TEST_FILES / "MR_small_jp2klossless.dcm").read_bytes())
    at = content.index(b"\xff\x4f\xff\x51") + 8
    content[at : at + 8] = b"\x00\x01\x00\x00" * 2
    found = one_file(tmp_path, bytes(content))
    assert found.reason is Reason.LENGTH_MISMATCH
    assert "65536 x 65536" in found.text


def test_rows_and_columns_that_are_wrong_by_one(tmp_path: Path) -> None:
    """A column less than stored would shear the picture; so leftover bytes are not taken for padding."""

    def narrow(dataset: Dataset, k: int) -> None:
        del k
        dataset.Columns -= 1

    write_series(tmp_path, phantom(3, rows=5, columns=9), change=narrow)
    assert refusal(tmp_path).reason is Reason.LENGTH_MISMATCH


def test_deflated_bomb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """100 MB of zeros in 100 kB; the limit is lowered so that the test does not need a gigabyte."""
    import zlib

    monkeypatch.setattr("medidiff.io.dicom.source.LONGEST_INFLATED", 1 << 20)
    content = (TEST_FILES / "image_dfl.dcm").read_bytes()
    start = 144 + int.from_bytes(content[140:144], "little")
    deflater = zlib.compressobj(9, wbits=-15)
    bomb = deflater.compress(bytes(100 << 20)) + deflater.flush()
    assert one_file(tmp_path, content[:start] + bomb).reason is Reason.OVER_BUDGET


@pytest.mark.parametrize("element", [bytes(8), b"\x08\x00\x05\x00CS\x00\x00", b"\x08\x00\x05\x00\x00\x00\x00\x00"])
def test_elements_without_end(element: bytes, tmp_path: Path) -> None:
    """A disk that returned zeros, or the same element again and again: pydicom would go on for hours."""
    content = (TEST_FILES / "MR_small.dcm").read_bytes()
    meta = 144 + int.from_bytes(content[140:144], "little")
    assert one_file(tmp_path, content[:meta] + element * 100_000).reason is Reason.DAMAGED


def test_nesting_without_end(tmp_path: Path) -> None:
    """Ten thousand sequences inside each other, all of undefined length and none closed."""
    content = (TEST_FILES / "MR_small.dcm").read_bytes()
    at = content.index(b"\x18\x00\x50\x00DS")
    nest = b"\x08\x00\x40\x11SQ\x00\x00\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff" * 10_000
    assert one_file(tmp_path, content[:at] + nest + content[at:]).reason in {Reason.DAMAGED, Reason.TRUNCATED}


def test_one_bad_file_does_not_stop_the_heap(tmp_path: Path) -> None:
    write_series(tmp_path / "good", phantom(4))
    (tmp_path / "a.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"\x02\x00\x10\x00UI\x04\x001.2\0" + bytes(600))
    (tmp_path / "b").write_text("a note")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    report = find_series(tmp_path)
    assert len(report.series) == 1
    assert report.reasons() == Counter({Reason.DAMAGED: 1, Reason.NOT_DICOM: 1, Reason.UNREADABLE: 1})


def test_names_that_lead_nowhere(tmp_path: Path) -> None:
    """Circular and broken links, a link to a folder, and names that no file can have."""
    write_series(tmp_path / "heap" / "series", phantom(3))
    for name, target in {"circle": "circle", "broken": "nowhere", "up": ".."}.items():
        (tmp_path / "heap" / name).symlink_to(target)
    report = find_series(tmp_path / "heap")
    assert len(report.series) == 1
    assert report.reasons() == Counter({Reason.UNREADABLE: 3})
    for name in ("x" * 5000, "a\0b", str(tmp_path / "heap" / "circle")):
        assert find_series(name).reasons() == Counter({Reason.UNREADABLE: 1})


def test_a_named_pipe_is_not_waited_for(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "pipe")
    assert find_series([tmp_path / "pipe"]).reasons() == Counter({Reason.UNREADABLE: 1})
    assert find_series(tmp_path).reasons() == Counter({Reason.UNREADABLE: 1})


def test_a_file_changed_after_planning(tmp_path: Path) -> None:
    paths = write_series(tmp_path, phantom(3))
    (plan,) = find_series(tmp_path).series
    paths[1].write_bytes(paths[1].read_bytes()[:-300])
    with pytest.raises(SeriesRefused) as caught:
        load(plan)
    assert caught.value.reason is Reason.TRUNCATED
    assert caught.value.path == str(paths[1])
    paths[1].unlink()
    with pytest.raises(SeriesRefused) as caught:
        load(plan)
    assert caught.value.reason is Reason.UNREADABLE


def test_messages_hold_no_identifier(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder
) -> None:
    """Neither names of files, nor values that pydicom finds invalid and would like to quote."""

    def name(dataset: Dataset, k: int) -> None:
        dataset.PatientName = "Quill^Rosa"
        if k == 1:
            value = b"Quill^Rosa"
            for keyword, vr in (("ImagePositionPatient", "DS"), ("SOPClassUID", "UI"), ("InstanceNumber", "IS")):
                tag = pydicom.tag.Tag(keyword)
                dataset._dict[tag] = pydicom.dataelem.RawDataElement(tag, vr, len(value), value, 0, False, True)

    caplog.set_level("DEBUG")
    paths = write_series(tmp_path, phantom(4), change=name, prefix="Quill_Rosa")
    report = find_series(tmp_path)
    found = refusal(tmp_path)
    said = [str(found), report.describe(), caplog.text, *map(str, report.set_aside), *(str(w.message) for w in recwarn)]
    assert len(report.set_aside) == 4
    assert not any("Quill" in text or "Rosa" in text for text in said)
    assert any(reference_of(paths[1]) in str(item) for item in report.set_aside)


def test_pydicom_does_not_quote_values(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder
) -> None:
    """A name where a UID should be: pydicom warns and logs, and both quote it."""
    content = (TEST_FILES / "MR_small.dcm").read_bytes()
    syntax = b"\x02\x00\x10\x00UI\x14\x001.2.840.10008.1.2.1\0"
    assert syntax in content
    (tmp_path / "x.dcm").write_bytes(content.replace(syntax, syntax[:8] + b"Quill^Rosa^^^^^^^^^^"))
    caplog.set_level("DEBUG")
    with pytest.warns(UserWarning, match="Quill"):
        pydicom.dcmread(tmp_path / "x.dcm", force=True)
    assert "Quill" in caplog.text
    recwarn.clear()
    caplog.clear()
    find_series(tmp_path)
    assert not any("Quill" in str(warning.message) for warning in recwarn)
    assert "Quill" not in caplog.text


def test_same_identity_other_pixels_is_no_duplicate(tmp_path: Path) -> None:
    paths = write_series(tmp_path, phantom(4))
    twin = pydicom.dcmread(paths[2])
    set_pixels(twin, phantom(1, seed=5)[0])
    twin.save_as(tmp_path / "twin.dcm")
    assert refusal(tmp_path).reason is Reason.CONFLICTING_POSITIONS


def test_equal_image_under_a_new_identity_is_a_duplicate(tmp_path: Path) -> None:
    paths = write_series(tmp_path, phantom(4))
    twin = pydicom.dcmread(paths[2])
    twin.SOPInstanceUID = twin.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    twin.save_as(tmp_path / "twin.dcm")
    report = find_series(tmp_path)
    assert report.reasons() == Counter({Reason.DUPLICATE: 1})
    assert load(report.series[0]).data.shape == (1, 8, 10, 4)


def test_read_series_lists_what_is_there(tmp_path: Path) -> None:
    write_series(tmp_path / "a", phantom(3))
    write_series(tmp_path / "b", phantom(4))
    found = refusal(tmp_path)
    assert found.reason is Reason.SEVERAL_VOLUMES
    assert "8 x 10 x 3 voxels" in found.text
    assert "8 x 10 x 4 voxels" in found.text
    assert refusal(tmp_path / "nowhere").reason is Reason.UNREADABLE
    (tmp_path / "empty").mkdir()
    assert refusal(tmp_path / "empty").reason is Reason.NOTHING_FOUND


def test_the_error_survives_a_process_boundary() -> None:
    import pickle

    error = SeriesRefused(Reason.TRUNCATED, "text", path="p")
    again = pickle.loads(pickle.dumps(error))
    assert (again.reason, again.text, again.path, str(again)) == (error.reason, "text", "p", str(error))


def test_a_series_without_uid(tmp_path: Path) -> None:
    """Files of one folder are taken for a series, with a note; a single one among others belongs to nothing."""

    def strip(dataset: Dataset, k: int) -> None:
        del k
        del dataset.SeriesInstanceUID

    paths = write_series(tmp_path / "all", phantom(4), change=strip)
    (plan,) = find_series(tmp_path / "all").series
    assert any("SeriesInstanceUID" in note for note in plan.notes)
    assert plan.geometry.shape == (8, 10, 4)
    for path in paths[1:]:
        path.unlink()
    write_series(tmp_path / "all", phantom(4), prefix="whole")
    report = find_series(tmp_path / "all")
    assert len(report.series) == 1
    assert report.reasons() == Counter({Reason.MISSING_ATTRIBUTE: 1})


@pytest.mark.parametrize("locations", [True, False])
def test_all_slices_at_one_position(locations: bool, tmp_path: Path) -> None:
    """An export that wrote one position into every file: no stack, and no series of time points either."""

    def locate(dataset: Dataset, k: int) -> None:
        dataset.SliceLocation = 3.0 * k
        dataset.AcquisitionTime = f"1200{k:02d}"
        dataset.AcquisitionNumber = 1
        if not locations:
            del dataset.SliceLocation
            del dataset.AcquisitionTime

    write_series(tmp_path, phantom(5), positions=[[0.0, 0.0, 0.0]] * 5, change=locate)
    assert find_series(tmp_path).reasons() == Counter({Reason.CONFLICTING_POSITIONS: 5})


@pytest.mark.parametrize("slope", ["1e30", "-1e-30"])
def test_scalings_that_overflow(slope: str, tmp_path: Path) -> None:
    def scale(dataset: Dataset, k: int) -> None:
        del k
        dataset.RescaleSlope, dataset.RescaleIntercept = slope, "0"

    write_series(tmp_path, phantom(3), change=scale)
    assert refusal(tmp_path).reason is Reason.BAD_SCALING


def test_folders_deeper_than_the_stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_series(tmp_path / "series", phantom(3))
    with monkeypatch.context() as context:
        context.chdir(tmp_path)
        for _ in range(1100):  # a path this long can only be made piece by piece
            Path("d").mkdir()
            context.chdir("d")
    try:
        assert len(find_series(tmp_path).series) == 1
    finally:
        subprocess.run(["rm", "-rf", str(tmp_path / "d")], check=True)  # Python's own removal is recursive


def test_values_are_finite(tmp_path: Path) -> None:
    write_series(tmp_path, phantom(3))
    volume: Volume = read_series(tmp_path)
    assert np.isfinite(volume.data).all()
