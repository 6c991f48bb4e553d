"""DICOM of a synthetic set: marked, in the right place for three readers, and nothing for dciodvfy to complain of."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pydicom
import pytest

from medidiff.errors import GeometryError
from medidiff.export.dicom import is_marked, uid, write_dicom
from medidiff.geometry import Geometry
from medidiff.io import read_volume
from medidiff.synthetic import SyntheticSet, SyntheticSetWriter
from medidiff.volume import Modality, Volume
from tests.synthetic.sets import PLAN, crops, grids

pytest.importorskip("highdicom", reason="highdicom, which writes segmentations, is not installed")


@pytest.fixture(scope="module")
def synthetic(pristine: Path) -> SyntheticSet:
    whole = SyntheticSet.open(pristine)
    return SyntheticSet(whole.folder, whole.record, whole.items[:2], whole.sha256)


@pytest.fixture(scope="module")
def written(synthetic: SyntheticSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dicom")
    write_dicom(synthetic, folder / "dicom")
    return folder / "dicom"


def one_item(folder: Path, image: Volume, label: Volume | None, suffix: str = "T1w") -> SyntheticSet:
    plan = PLAN if label is not None else PLAN.model_copy(update={"labels": ()})
    writer = SyntheticSetWriter(folder, plan)
    writer.add("a", 0, image, label, suffix=suffix)
    return writer.finish()


def as_ras(folder: Path) -> tuple[np.ndarray, Geometry]:
    """A series by SimpleITK, whose world is LPS, in the axes of the file."""
    sitk = pytest.importorskip("SimpleITK", reason="SimpleITK is not installed")
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    image = reader.Execute()
    lps = np.eye(4)
    lps[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    lps[:3, 3] = image.GetOrigin()
    data = sitk.GetArrayFromImage(image).transpose(2, 1, 0)
    return data, Geometry(np.diag([-1.0, -1, 1, 1]) @ lps, data.shape)


def assert_same_place(data: np.ndarray, geometry: Geometry, wanted: Volume) -> None:
    """Equal values at equal places, whichever way the axes run."""
    found = Volume(np.asarray(data, dtype=np.float32)[None], geometry).reoriented()
    expected = wanted.reoriented()
    assert found.geometry.distance(expected.geometry) < 1e-3
    np.testing.assert_array_equal(found.data, expected.data)


@pytest.mark.parametrize("name", grids())
def test_voxels_lie_where_they_lay_for_every_reader(name: str, tmp_path: Path, mni: Volume) -> None:
    ((image, label),) = crops(mni, 1, grids()[name])
    synthetic = one_item(tmp_path / "set", image, label)
    write_dicom(synthetic, tmp_path / "dicom")
    wanted = synthetic.image(synthetic.items[0])
    series = tmp_path / "dicom" / "a" / "image"
    ours = read_volume(series)
    assert_same_place(ours.data[0], ours.geometry, wanted)
    assert_same_place(*as_ras(series), wanted)
    assert_same_place(*segments(tmp_path / "dicom" / "a" / "segmentation.dcm"), label)


def segments(path: Path) -> tuple[np.ndarray, Geometry]:
    """A segmentation as a label map, frame by frame from its own positions, by pydicom alone."""
    dataset = pydicom.dcmread(path)
    shared = dataset.SharedFunctionalGroupsSequence[0]
    measures = shared.PixelMeasuresSequence[0]
    row, column = np.reshape(shared.PlaneOrientationSequence[0].ImageOrientationPatient, (2, 3)).astype(float)
    places: dict[tuple[float, ...], np.ndarray] = {}
    for frame, group in zip(dataset.pixel_array, dataset.PerFrameFunctionalGroupsSequence, strict=True):
        position = tuple(float(value) for value in group.PlanePositionSequence[0].ImagePositionPatient)
        number = group.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        places.setdefault(position, np.zeros(frame.shape, dtype=int))[frame > 0] = number
    order = sorted(places, key=lambda position: float(np.dot(position, np.cross(row, column))))
    lps = np.eye(4)
    lps[:3, 0] = row * float(measures.PixelSpacing[1])
    lps[:3, 1] = column * float(measures.PixelSpacing[0])
    lps[:3, 2] = (np.array(order[-1]) - order[0]) / (len(order) - 1)
    lps[:3, 3] = order[0]
    data = np.stack([places[position].T for position in order], axis=-1)
    return data, Geometry(np.diag([-1.0, -1, 1, 1]) @ lps, data.shape)


def test_ct_comes_back_in_hounsfield_units(tmp_path: Path, mni: Volume) -> None:
    ((image, _),) = crops(mni, 1)
    for name, low in (("air", -1000.0), ("below air", -2000.0)):
        data = np.interp(image.data, (image.data.min(), image.data.max()), (low, 1500.0))
        synthetic = one_item(tmp_path / name, Volume(data, image.geometry, Modality.CT), None, suffix="ct")
        write_dicom(synthetic, tmp_path / name / "dicom")
        back = read_volume(tmp_path / name / "dicom" / "a" / "image")
        assert back.modality is Modality.CT
        np.testing.assert_array_equal(back.data, np.rint(data).astype(np.float32))
        first = pydicom.dcmread(next((tmp_path / name / "dicom").rglob("*.dcm")))
        assert (first.SOPClassUID.name, first.RescaleType) == ("CT Image Storage", "HU")


def test_every_object_is_marked_in_the_standard_s_two_ways(written: Path) -> None:
    files = sorted(written.rglob("*.dcm"))
    assert len(files) == 2 * (8 + 1)
    for path in files:
        dataset = pydicom.dcmread(path)
        assert is_marked(dataset)
        assert dataset[0x0008, 0x001C].value == "YES"
        (equipment,) = dataset.ContributingEquipmentSequence
        (purpose,) = equipment.PurposeOfReferenceCodeSequence
        assert (purpose.CodeValue, purpose.CodingSchemeDesignator) == ("109100", "DCM")
        assert purpose.CodeMeaning == "Synthesizing Equipment"
        assert dataset.PatientID.startswith("SYNTHETIC-")
        del dataset.SyntheticData
        assert not is_marked(dataset)
        dataset.SyntheticData = "YES"
        purpose.CodeValue = "109101"
        assert not is_marked(dataset)


def test_the_code_is_that_of_context_group_7005() -> None:
    from pydicom.sr.codedict import codes

    code = codes.cid7005.SynthesizingEquipment
    assert (code.value, code.scheme_designator, code.meaning) == ("109100", "DCM", "Synthesizing Equipment")


def test_uids_are_one_object_s_own_and_follow_from_the_set(
    written: Path, synthetic: SyntheticSet, tmp_path: Path
) -> None:
    datasets = [pydicom.dcmread(path) for path in sorted(written.rglob("*.dcm"))]
    instances = [dataset.SOPInstanceUID for dataset in datasets]
    assert len(set(instances)) == len(instances)
    assert all(dataset.file_meta.MediaStorageSOPInstanceUID == dataset.SOPInstanceUID for dataset in datasets)
    assert all(re.fullmatch(r"2\.25\.[1-9][0-9]{1,38}", value) for value in instances)
    assert len({dataset.SeriesInstanceUID for dataset in datasets}) == 4
    assert len({dataset.StudyInstanceUID for dataset in datasets}) == 2
    write_dicom(synthetic, tmp_path / "again")
    for path in sorted(written.rglob("*.dcm")):
        assert path.read_bytes() == (tmp_path / "again" / path.relative_to(written)).read_bytes()
    other = SyntheticSet(synthetic.folder, synthetic.record, synthetic.items, "00" * 32)
    assert uid(other, "a", 1) != uid(synthetic, "a", 1) != uid(synthetic, "a", 2)


def test_no_exact_age_and_no_clock_gets_into_a_file(written: Path) -> None:
    for path in written.rglob("*.dcm"):
        dataset = pydicom.dcmread(path)
        assert "PatientAge" not in dataset
        assert dataset.PatientComments == "Sampled age band: 30-39 years; nobody's."
        assert dataset.PatientSex == "F"
        dates = {str(element.value) for element in dataset.iterall() if element.VR == "DA" and element.value}
        assert dates == {"20260304"}


def test_the_segmentation_refers_to_its_images_and_names_its_classes(written: Path) -> None:
    dataset = pydicom.dcmread(written / "s000" / "segmentation.dcm")
    images = {pydicom.dcmread(path).SOPInstanceUID for path in (written / "s000" / "image").iterdir()}
    (series,) = dataset.ReferencedSeriesSequence
    assert {entry.ReferencedSOPInstanceUID for entry in series.ReferencedInstanceSequence} == images
    assert [segment.SegmentLabel for segment in dataset.SegmentSequence] == ["grey matter", "white matter"]
    kinds = [segment.SegmentedPropertyTypeCodeSequence[0].CodeValue for segment in dataset.SegmentSequence]
    assert kinds == ["389080008", "85756007"]


def test_dciodvfy_complains_of_nothing_but_the_mark(written: Path, tmp_path: Path, mni: Volume) -> None:
    program = shutil.which("dciodvfy")
    if program is None:
        pytest.skip("dciodvfy (Debian: dicom3tools) is not installed")
    ((image, _),) = crops(mni, 1)
    ct = one_item(tmp_path / "set", Volume(image.data * 10 - 1000, image.geometry, Modality.CT), None, suffix="ct")
    write_dicom(ct, tmp_path / "ct")
    item = written / "s000"
    for path in (item / "image" / "0001.dcm", item / "segmentation.dcm", tmp_path / "ct" / "a" / "image" / "0008.dcm"):
        assert complaints(program, path) == []
    broken = pydicom.dcmread(item / "image" / "0001.dcm")
    del broken.ScanningSequence
    broken.save_as(tmp_path / "broken.dcm")
    assert any("ScanningSequence" in line for line in complaints(program, tmp_path / "broken.dcm"))


# It knows no (0008,001C), which came into the standard later, and says so in four lines; the last follows from them.
OUTDATED = re.compile(
    r"0x0008,0x001c|attributes not present in standard DICOM IOD - this is a Standard Extended SOP Class"
)


def complaints(program: str, path: Path) -> list[str]:
    """What dciodvfy has against a file; it exits with 0 whatever it finds."""
    done = subprocess.run([program, str(path)], capture_output=True, text=True, check=False, timeout=60)
    lines = (done.stderr + done.stdout).splitlines()
    assert any(line.strip() in ("MRImage", "CTImage", "Segmentation") for line in lines), "it did not know the object"
    return [
        line
        for line in lines
        if re.match(r"\s*(Error|Warning)|.* - (Error|Warning)", line) and not OUTDATED.search(line)
    ]


def test_names_beyond_ascii_are_written_as_they_are(tmp_path: Path, mni: Volume) -> None:
    ((image, label),) = crops(mni, 1)
    flat = image.geometry.cropped((0, 0, 0), (12, 10, 2))
    generator = PLAN.generator.model_copy(update={"name": "modèle\\№ 7 " + "x" * 80})
    writer = SyntheticSetWriter(tmp_path / "set", PLAN.model_copy(update={"generator": generator}))
    image, label = Volume(image.data[..., :2], flat), Volume(label.data[..., :2], flat, Modality.LABEL)
    writer.add("a", 0, image, label, suffix="T1w")
    synthetic = writer.finish()
    write_dicom(synthetic, tmp_path / "dicom")
    for path in (tmp_path / "dicom" / "a" / "image" / "0001.dcm", tmp_path / "dicom" / "a" / "segmentation.dcm"):
        dataset = pydicom.dcmread(path)
        assert dataset.ManufacturerModelName == "modèle/№ 7 " + "x" * 50
        assert is_marked(dataset)
        if shutil.which("dciodvfy"):
            assert complaints("dciodvfy", path) == []


def test_a_sheared_grid_is_refused(tmp_path: Path, mni: Volume) -> None:
    affine = np.eye(4)
    affine[0, 2] = 0.2
    ((image, label),) = crops(mni, 1, Geometry(affine, (12, 10, 8)))
    synthetic = one_item(tmp_path / "set", image, label)
    with pytest.raises(GeometryError, match="right angles"):
        write_dicom(synthetic, tmp_path / "dicom")
    assert not (tmp_path / "dicom").exists()
