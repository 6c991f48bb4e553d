"""DICOM to DICOM: every image of a head loses its face, no image its brain, and what nobody can judge is set apart."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from pydicom.uid import generate_uid

from medidiff.io.dicom import find_series, index, load
from medidiff.io.dicom.geometry import plane_geometry
from medidiff.privacy.brain import find_brain
from medidiff.privacy.deidentify_tree import DeidentifyReport, deidentify_tree
from medidiff.privacy.dicom_faces import FaceOrder, order_faces, remove_face
from medidiff.privacy.facecut import cut_before
from medidiff.privacy.keys import PrivacyKey
from medidiff.privacy.policy import DeidentifyPolicy
from medidiff.volume import Modality
from tests.privacy.heads import load_head, write_series
from tests.privacy.test_nifti_sidecar_faces import phantom

KEY = PrivacyKey(bytes(range(32)))
FACES_ONLY = DeidentifyPolicy(clean_pixels=False)
SCOUT = ("ORIGINAL", "PRIMARY", "LOCALIZER")


def clean_of(target: Path) -> dict[str, pydicom.Dataset]:
    """Clean objects by their instance UID."""
    objects = [pydicom.dcmread(path) for path in target.rglob("*.dcm")]
    return {str(ds.SOPInstanceUID): ds for ds in objects}


def pairs(source: Path, target: Path) -> list[tuple[pydicom.Dataset, pydicom.Dataset]]:
    clean = clean_of(target)
    before = [pydicom.dcmread(path) for path in sorted(source.rglob("*.dcm"))]
    return [(ds, clean[KEY.uid(ds.SOPInstanceUID)]) for ds in before]


@pytest.fixture(scope="module")
def study(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, DeidentifyReport]:
    """A real head: a series, a thin slab from the side and two scouts of one frame of reference; clean."""
    pytest.importorskip("deepbet")
    data, affine = load_head(shared / "data" / "head-t1-dcm-qa-uih" / "uih-b_T1w_1mm.nii.gz")
    data, affine = data[::4, ::3, ::3], affine @ np.diag([4.0, 3, 3, 1])
    source = tmp_path_factory.mktemp("study") / "source"
    uids = {"study": generate_uid(entropy_srcs=["s"]), "frame": generate_uid(entropy_srcs=["f"])}
    write_series(source / "whole", data, affine, axis=0, number=1, slope=2.5, intercept=-3.0, **uids)
    write_series(source / "slab", data, affine, axis=0, number=2, keep=slice(18, 22), **uids)
    write_series(source / "side", data, affine, axis=0, number=3, keep=slice(20, 21), image_type=SCOUT, **uids)
    write_series(source / "above", data, affine, axis=2, number=4, keep=slice(20, 21), image_type=SCOUT, **uids)
    target = source.parent / "target"
    return source, target, deidentify_tree(source, target, FACES_ONLY, KEY)


def test_every_series_of_a_head_loses_its_face_and_says_so(study: tuple[Path, Path, DeidentifyReport]) -> None:
    source, target, report = study
    assert report.set_apart == ()
    assert report.faces == {"removed": len(report.written)}
    changed: dict[int, int] = {}
    for before, after in pairs(source, target):
        assert after.pixel_array.dtype == before.pixel_array.dtype
        assert after.RecognizableVisualFeatures == "NO"
        assert "113102" in {item.CodeValue for item in after.DeidentificationMethodCodeSequence}
        assert (after.RescaleSlope, after.RescaleIntercept) == (before.RescaleSlope, before.RescaleIntercept)
        difference = int((before.pixel_array != after.pixel_array).sum())
        changed[before.SeriesNumber] = changed.get(before.SeriesNumber, 0) + difference
        if before.SeriesNumber == 1:  # no signal, in stored values: (0 + 3) / 2.5
            assert set(np.unique(after.pixel_array[before.pixel_array != after.pixel_array])) <= {1}
    assert all(count > 1000 for count in changed.values()), changed


def test_the_brain_is_untouched_and_the_skin_of_the_face_is_gone(study: tuple[Path, Path, DeidentifyReport]) -> None:
    source, target, _ = study
    before = load(find_series(source / "whole", workers=1).series[0]).reoriented()
    plan = next(plan for plan in find_series(target, workers=1).series if plan.series_number == 1)
    after = load(plan).reoriented()
    np.testing.assert_allclose(after.geometry.affine, before.geometry.affine, atol=1e-6)
    brain = find_brain(before).mask
    gone = (after.data != before.data)[0]
    assert not (gone & brain).any()
    lost = before.geometry.to_world(np.argwhere(gone & (before.data[0] > 0.15 * before.data[0][brain].mean())))
    up = before.geometry.to_world(np.argwhere(brain))[:, 2]
    assert lost.shape[0] * np.prod(before.geometry.spacing) / 1000 > 200  # ml of tissue
    assert lost[:, 2].max() < np.percentile(up, 75)  # the crown of the head stays


@pytest.mark.skipif(shutil.which("dcm2niix") is None, reason="dcm2niix is not installed")
def test_dcm2niix_reads_the_same_volume(study: tuple[Path, Path, DeidentifyReport], tmp_path: Path) -> None:
    source, target, _ = study
    series = KEY.uid(str(pydicom.dcmread(next((source / "whole").iterdir())).SeriesInstanceUID))
    folder = tmp_path / "one"
    folder.mkdir()
    for path in target.rglob("*.dcm"):
        if str(pydicom.dcmread(path, stop_before_pixels=True).SeriesInstanceUID) == series:
            shutil.copy(path, folder)
    subprocess.run(["dcm2niix", "-f", "out", "-o", str(tmp_path), str(folder)], check=True, capture_output=True)
    image = nibabel.as_closest_canonical(nibabel.load(tmp_path / "out.nii"))
    ours = load(find_series(folder, workers=1).series[0]).reoriented()
    np.testing.assert_allclose(image.affine, ours.geometry.affine, atol=1e-3)
    np.testing.assert_array_equal(np.asarray(image.dataobj, dtype=np.float32), ours.data[0])


def test_a_later_run_does_nothing_and_one_with_more_images_does_the_study_anew(
    study: tuple[Path, Path, DeidentifyReport], tmp_path: Path
) -> None:
    source, target, first = study
    again = deidentify_tree(source, target, FACES_ONLY, KEY)
    assert (again.written, len(again.unchanged)) == ((), len(first.written))
    assert again.faces == first.faces
    part, whole = tmp_path / "part", tmp_path / "whole"
    shutil.copytree(source / "side", part / "side")
    one = deidentify_tree(part, whole, FACES_ONLY, KEY)  # a lone scout: its own brain decides
    assert one.faces == {"removed": 1}
    shutil.copytree(source / "whole", part / "whole")
    two = deidentify_tree(part, whole, FACES_ONLY, KEY)
    assert two.set_apart == ()
    mine, fresh = clean_of(whole), clean_of(target)
    for uid, ds in mine.items():
        assert ds.PixelData == fresh[uid].PixelData


def test_keep_face_leaves_voxels_and_marks_them(study: tuple[Path, Path, DeidentifyReport], tmp_path: Path) -> None:
    source = study[0] / "slab"
    keep = DeidentifyPolicy(clean_pixels=False, clean_faces=False)
    report = deidentify_tree(source, tmp_path / "kept", keep, KEY)
    assert report.faces == {"kept": len(report.written)}
    for before, after in pairs(source, tmp_path / "kept"):
        np.testing.assert_array_equal(before.pixel_array, after.pixel_array)
        assert after.RecognizableVisualFeatures == "YES"
        assert "113102" not in {item.CodeValue for item in after.DeidentificationMethodCodeSequence}
    # what was kept by choice does not stay when the choice is another
    deidentify_tree(source, tmp_path / "kept", FACES_ONLY, KEY)
    assert {ds.RecognizableVisualFeatures for ds in clean_of(tmp_path / "kept").values()} == {"NO"}


def test_a_head_without_a_brain_is_set_apart_and_what_was_there_goes(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    from scipy import ndimage

    blob = (ndimage.gaussian_filter(rng.standard_normal((24, 24, 24)), 1.5) * 2000).astype(np.int16)
    affine = np.diag([8.0, 8, 8, 1])
    uids = {"study": "1.2.3", "frame": "1.2.4"}
    write_series(tmp_path / "in", blob, affine, axis=2, number=1, modality="CT", **uids)
    other = DeidentifyPolicy(clean_pixels=False, body_part="other")
    assert len(deidentify_tree(tmp_path / "in", tmp_path / "out", other, KEY).written) == 24
    report = deidentify_tree(tmp_path / "in", tmp_path / "out", FACES_ONLY, KEY)
    assert report.reasons == {"face-unverified": 24}
    assert list((tmp_path / "out").rglob("*.dcm")) == []


def test_ct_is_filled_with_air_in_stored_values(tmp_path: Path) -> None:
    volume, brain = phantom(Modality.CT)
    stored = np.rint((volume.data[0] + 1024) / 2).astype(np.int16)[::2, ::2, ::2]
    affine = volume.geometry.affine @ np.diag([2.0, 2, 2, 1])
    uids = {"study": "1.2.3", "frame": "1.2.4", "modality": "CT", "slope": 2.0, "intercept": -1024.0}
    write_series(tmp_path / "in", stored, affine, axis=1, number=1, **uids)
    report = deidentify_tree(tmp_path / "in", tmp_path / "out", FACES_ONLY, KEY)
    assert report.faces == {"removed": 55}
    after = load(find_series(tmp_path / "out", workers=1).series[0])
    before = load(find_series(tmp_path / "in", workers=1).series[0])
    gone = after.data != before.data
    assert gone.sum() > 2000
    assert set(np.unique(after.data[gone])) == {-1000.0}
    inside = before.geometry.to_index(volume.geometry.to_world(np.argwhere(brain)[::7]))
    where = tuple(np.rint(inside).astype(int).T)
    np.testing.assert_array_equal(after.data[0][where], before.data[0][where])


@pytest.mark.parametrize("case", ["siemens_mosaic", "enhanced_mr_t1_3d", "uih_grid"])
def test_tiles_and_frames_are_cut_where_they_lie(shared: Path, case: str) -> None:
    """Against the voxels of our reader, which knows where every tile and frame lies: real sheets, a made-up cut."""
    import tempfile
    import zipfile

    with tempfile.TemporaryDirectory() as work:
        archive = shared / "dicom" / case / "dicom.zip"
        if archive.exists():
            zipfile.ZipFile(archive).extractall(work)
        root = Path(work) if archive.exists() else shared / "dicom" / case / "dicom"
        path = next(path for path in sorted(root.rglob("*")) if path.is_file() and path.suffix != ".txt")
        header = next(iter(index([path], workers=1)))
        plan = find_series([path], workers=1).series[0]
        before = load(plan.split()[0])
        middle = np.zeros(before.geometry.shape, dtype=bool)
        centre = tuple(n // 2 for n in middle.shape)
        middle[centre] = True
        cut = cut_before(middle, before.geometry, 10.0)
        ds = pydicom.dcmread(path)
        ds.PixelData = np.ascontiguousarray(ds.pixel_array).tobytes()
        ds.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2.1"
        order = FaceOrder("removed", "", dict.fromkeys(range(len(header.planes)), cut), header)
        assert remove_face(ds, order) > 100
        again = Path(work) / "again" / "clean.dcm"
        again.parent.mkdir()
        ds.save_as(again)
        after = load(find_series([again], workers=1).series[0].split()[0])
    face = cut.covers(before.geometry)
    np.testing.assert_array_equal(after.data[0][~face], before.data[0][~face])
    assert np.abs(after.data[0][face]).max() < 1e-3 * np.abs(before.data[0]).max()
    assert not face[centre]


def test_plane_geometry_is_the_readers(study: tuple[Path, Path, DeidentifyReport]) -> None:
    plan = find_series(study[0] / "whole", workers=1).series[0]
    for k, slot in enumerate(plan.frames[0].slots):
        one = plane_geometry(slot.plane, slot.header.rows, slot.header.columns)
        np.testing.assert_allclose(one.to_world([3, 5, 0]), plan.geometry.to_world([3, 5, k]), atol=1e-3)


def test_two_machines_share_no_frame_of_reference(study: tuple[Path, Path, DeidentifyReport], tmp_path: Path) -> None:
    """Anonymisers stamp one frame of reference on everything: a cut from MR says nothing about a CT."""
    source = tmp_path / "both"
    shutil.copytree(study[0] / "whole", source / "mr")
    first = pydicom.dcmread(next((source / "mr").iterdir()))
    uids = {"study": first.StudyInstanceUID, "frame": first.FrameOfReferenceUID, "modality": "CT"}
    scout = np.full((40, 1, 40), 100, np.int16) + np.arange(40, dtype=np.int16)[:, None, None]
    affine = np.array([[0, 5.0, 0, 0], [6, 0, 0, -100], [0, 0, 6, -150], [0, 0, 0, 1]])
    paths = write_series(source / "ct", scout, affine, axis=1, number=9, image_type=SCOUT, **uids)
    orders = order_faces(sorted(path for path in source.rglob("*.dcm")))
    assert orders[str(paths[0])].done == "kept"
