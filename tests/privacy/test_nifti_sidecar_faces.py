"""Headers without words, sidecars without strangers, heads without faces and with untouched brains."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest

from medidiff.geometry import Geometry
from medidiff.io import read_volume, write_volume
from medidiff.privacy.audit import audit_phi
from medidiff.privacy.faces import deface
from medidiff.privacy.keys import PrivacyKey
from medidiff.privacy.policy import CannotClean
from medidiff.privacy.sidecar import clean_sidecar
from medidiff.volume import Modality, Volume

KEY = PrivacyKey(bytes(range(32)))


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
def test_a_nifti_read_and_written_loses_words_and_keeps_voxels_and_place(kind: type, tmp_path: Path) -> None:
    affine = np.array([[0, -1.1, 0, 5], [0.9, 0, 0, -7], [0, 0, 2, 3], [0, 0, 0, 1.0]])
    image = kind(np.arange(60, dtype=np.int16).reshape(3, 4, 5), affine)
    image.header["descrip"], image.header["aux_file"], image.header["intent_name"] = (
        b"Quillfeather",
        b"Quillfeather",
        b"Quillfeather",
    )
    if kind is nibabel.Nifti1Image:
        image.header["db_name"], image.header["data_type"] = b"Quillfeather", b"Quillf"
    image.header.set_slope_inter(2.0, -1.0)
    for code in ("comment", "afni"):
        image.header.extensions.append(nibabel.nifti1.Nifti1Extension(code, b"Quillfeather"))
    source, target = tmp_path / "source", tmp_path / "clean"
    for folder in (source, target):
        folder.mkdir()
    nibabel.save(image, source / "scan.nii.gz")
    assert not audit_phi(source, ["Quillfeather", "Quillf"], pixels=False).clean

    write_volume(read_volume(source / "scan.nii.gz"), target / "scan.nii.gz")

    before, after = (nibabel.load(folder / "scan.nii.gz") for folder in (source, target))
    np.testing.assert_array_equal(np.asarray(after.dataobj), np.asarray(before.dataobj))
    np.testing.assert_allclose(after.affine, affine, atol=1e-5)
    assert audit_phi(target, ["Quillfeather", "Quillf"], pixels=False).clean


def test_sidecar_keeps_physics_and_drops_the_rest() -> None:
    clean = clean_sidecar(
        {
            "EchoTime": 0.003, "SliceTiming": [0.0, 0.5], "Manufacturer": "Siemens", "InstitutionName": "Saint Osyth",
            "SeriesDescription": "T1 Quillfeather", "PatientName": "Quillfeather^Rosamund",
            "RepetitionTime": "Rosamund",
            "AcquisitionTime": "09:31:41.50", "ImageType": ["ORIGINAL", "ROSAMUND", "M"], "EchoNumber": 4471903447,
            "PhaseEncodingDirection": "j-", "global": {"const": {"PatientName": "Rosamund"}},
            "DeviceSerialNumber": "55",
            "ImageComments": "T1", "FlipAngle": [float("nan")], "NonlinearGradientCorrection": True,
        },
        KEY, "id 1",
    )  # fmt: skip
    assert clean.pop("AcquisitionTime") not in ("09:31:41.50", None)
    assert clean == {
        "EchoTime": 0.003, "SliceTiming": [0.0, 0.5], "Manufacturer": "Siemens", "SeriesDescription": "T1",
        "ImageType": ["ORIGINAL", "OTHER", "M"], "PhaseEncodingDirection": "j-", "NonlinearGradientCorrection": True,
    }  # fmt: skip


def phantom(modality: Modality) -> tuple[Volume, np.ndarray]:
    """A head of simple parts, axes P, S, R as scanners store sagittal scans: skull, brain, and a nose before it."""
    affine = np.array([[0, 0, 2.0, -90], [-2.0, 0, 0, 110], [0, 2.0, 0, -110], [0, 0, 0, 1]])
    geometry = Geometry(affine, (110, 110, 90))
    x, y, z = np.moveaxis(geometry.to_world(np.moveaxis(np.indices(geometry.shape), 0, -1)), -1, 0)
    brain = (x / 65) ** 2 + (y / 80) ** 2 + ((z - 20) / 55) ** 2 < 1
    skull = ((x / 72) ** 2 + (y / 87) ** 2 + ((z - 20) / 62) ** 2 < 1) & ~(
        (x / 66) ** 2 + (y / 81) ** 2 + ((z - 20) / 56) ** 2 < 1
    )
    face = (np.abs(x) < 50) & (y > 20) & (y < 90) & (z > -90) & (z < -10)
    nose = (np.abs(x) < 12) & (y > 0) & (y < 108) & (z > -50) & (z < -20)
    air, tissue, bone, grey = (-1000.0, 40.0, 900.0, 35.0) if modality is Modality.CT else (0.0, 400.0, 300.0, 700.0)
    data = np.full(geometry.shape, air, dtype=np.float32)
    data[face | nose | skull] = tissue
    data[skull] = bone
    data[brain] = grey
    return Volume(data[None], geometry, modality), brain


def test_face_goes_and_brain_stays_with_a_given_mask() -> None:
    volume, brain = phantom(Modality.MR)
    clean, report = deface(volume, brain)
    assert clean.geometry == volume.geometry
    assert report.brain_voxels_changed == 0
    np.testing.assert_array_equal(clean.data[0][brain], volume.data[0][brain])
    world = volume.geometry.to_world(np.argwhere(clean.data[0] > 100))
    assert not ((world[:, 1] > 85) & (world[:, 2] < -15)).any()  # no nose
    assert report.face_surface_removed > 0.8
    back = volume.geometry.to_world(np.argwhere(clean.data[0] != volume.data[0]))
    assert back[:, 1].min() > 0  # nothing behind the middle is touched


def test_ct_finds_the_brain_inside_the_skull() -> None:
    volume, brain = phantom(Modality.CT)
    clean, report = deface(volume)
    assert report.method == "skull"
    np.testing.assert_array_equal(clean.data[0][brain], volume.data[0][brain])
    assert clean.data.min() == -1000
    assert report.face_surface_removed > 0.8


def test_without_a_brain_nobody_can_say_where_the_face_is() -> None:
    volume, brain = phantom(Modality.MR)
    with pytest.raises(CannotClean, match="face-unverified"):
        deface(volume, np.zeros_like(brain))
    empty = Volume(np.full_like(volume.data, -1000), volume.geometry, Modality.CT)
    with pytest.raises(CannotClean, match="face-unverified"):
        deface(empty)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["head-t1-dcm-qa-xa30/xa30_series5_T1w_2mm.nii.gz", "head-t1-fnndsc/sag-anon_child3y_T1w.nii.gz"]
)
def test_real_heads_lose_their_faces(shared: Path, name: str) -> None:
    pytest.importorskip("deepbet")
    image = nibabel.load(shared / "data" / name)
    data = np.asarray(image.dataobj, dtype=np.float32)
    volume = Volume(data[None], Geometry(image.affine, data.shape), Modality.MR)
    clean, report = deface(volume)
    assert report.brain_voxels_changed == 0
    assert report.face_surface_before > 1000
    assert report.face_surface_removed > 0.85
    assert 1000 < report.brain_ml < 2000
    assert clean.geometry == volume.geometry
