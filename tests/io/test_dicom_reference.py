"""Every real series beside the checkout, against dcm2niix: same places, same values, same things left out."""

from __future__ import annotations

import json
import zipfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import nibabel
import numpy as np
import pytest

from medidiff.geometry import Geometry
from medidiff.io.dicom import Reason, SeriesPlan, find_series, load
from medidiff.volume import Modality, Volume

AFFINE_MM = 1e-3


@dataclass(frozen=True)
class Expected:
    """What a folder becomes.

    Args:
        references: dcm2niix's file for each volume, in order of the plans; None where it has none that is right.
        modality: Of the volumes.
        reasons: Of what is left out.
        distance_mm: Largest corner distance to the reference.
    """

    references: tuple[str | None, ...] = ()
    modality: Modality = Modality.MR
    reasons: dict[Reason, int] = field(default_factory=dict)
    distance_mm: float = AFFINE_MM


CASES = {
    "bits12": Expected(("2_FMRI_AX_ASC_e0", "3_FMRI_AX_ASC_e0")),
    "ct_brain": Expected((None,), Modality.CT, {Reason.DIRECTORY_RECORD: 1}),
    "ct_gantry_tilt": Expected((None,), Modality.CT),
    "ct_localizer": Expected(reasons={Reason.LOCALIZER: 1, Reason.DIRECTORY_RECORD: 1}),
    "ct_missing_slice": Expected(reasons={Reason.MISSING_SLICES: 4}),
    "enhanced_ct": Expected(("3_e0",), Modality.CT),
    "enhanced_mr_philips": Expected(("301_e1",)),
    "enhanced_mr_t1_3d": Expected(("5_anat-T1w_acq-tfl_e1",)),
    "ge_epi_4d": Expected(("4_Axial_EPI-FMRI__Interleaved_I_to_S__e1",), reasons={Reason.NOT_DICOM: 1}),
    "ge_t1_3d": Expected(("5_3D_Ax_T1_MP-RAGE_R22_e1",)),
    "ge_t1_few_slices": Expected(("4_e0",)),
    "hitachi": Expected(("10_e0",)),
    "jpeg2000_ct": Expected(("2_5_5mm_Plain_e0",), Modality.CT, {Reason.DUPLICATE: 1}),
    "mixed_orientation": Expected(("202_e0", "501_e0")),
    "mr_localizer": Expected(reasons={Reason.LOCALIZER: 11}),
    "non_image_objects": Expected(reasons={Reason.NOT_AN_IMAGE: 7}),
    "philips_scaled": Expected(("401_e0",)),
    "rgb": Expected(reasons={Reason.COLOUR: 4}),
    "secondary_capture_report": Expected(
        reasons={Reason.COLOUR: 3, Reason.SECONDARY_CAPTURE: 3, Reason.DIRECTORY_RECORD: 1}
    ),
    "siemens_mosaic": Expected(("9_ax_asc_36sl_e1",)),
    # Positions are rounded to 0.0001 mm and dcm2niix takes the first gap (2.0001) for all 95: it ends 0.01 mm off.
    "siemens_t1_3d": Expected(("5001_anat-T1w_acq-tfl_e1",), distance_mm=0.0105),
    # One image in nine encodings; dcm2niix's build cannot decode two of them.
    "transfer_syntaxes": Expected(("1_ax_asc_35sl_e1",) * 9),
    "uih_grid": Expected(("12_dti_tra_dir16_PA_rot_SaveBySlc_e0",)),
}
NOT_SERIES = {"malformed", "phi"}


@pytest.fixture(scope="session")
def unpacked(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The zipped series, unpacked."""
    folder = tmp_path_factory.mktemp("dicom")
    for archive in shared.glob("dicom/*/dicom.zip"):
        with zipfile.ZipFile(archive) as members:
            members.extractall(folder / archive.parent.name)
    return folder


def source(name: str, shared: Path, unpacked: Path) -> Path:
    plain = shared / "dicom" / name / "dicom"
    return plain if plain.is_dir() else unpacked / name


def test_no_folder_goes_untested(shared: Path) -> None:
    folders = {path.name for path in (shared / "dicom").iterdir() if path.is_dir()}
    assert folders - NOT_SERIES == set(CASES)


@pytest.mark.parametrize("name", CASES)
def test_everything_ends_in_a_volume_or_has_a_reason(name: str, shared: Path, unpacked: Path) -> None:
    folder, expected = source(name, shared, unpacked), CASES[name]
    report = find_series(folder)
    assert report.reasons() == Counter(expected.reasons)
    assert [plan.modality for plan in report.series] == [expected.modality] * len(expected.references)
    used = {path for plan in report.series for path in plan.files} | {item.path for item in report.set_aside}
    assert used == {str(path) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if any(case.references)])
def test_places_and_values_equal_the_reference(name: str, shared: Path, unpacked: Path) -> None:
    expected = CASES[name]
    report = find_series(source(name, shared, unpacked))
    for plan, reference in zip(report.series, expected.references, strict=True):
        if reference is None:
            continue
        mine, theirs = (
            load(plan).reoriented(),
            reference_volume(shared / "dicom" / name / "ref" / f"{reference}.nii.gz"),
        )
        assert mine.geometry.distance(theirs.geometry) < expected.distance_mm
        # Values are float32 here; a NIfTI holds its slope as float32 there.
        np.testing.assert_allclose(mine.data, theirs.data, rtol=2e-7, atol=0)


def reference_volume(path: Path) -> Volume:
    image = nibabel.load(path)
    data = np.asarray(image.dataobj, dtype=np.float64)
    data = data[None] if data.ndim == 3 else np.moveaxis(data, -1, 0)
    return Volume(data, Geometry(image.affine, data.shape[1:])).reoriented()


def only_plan(name: str, shared: Path, unpacked: Path) -> SeriesPlan:
    (plan,) = find_series(source(name, shared, unpacked)).series
    return plan


def test_ct_brain_has_the_recorded_affine_and_range(shared: Path, unpacked: Path) -> None:
    """The reference image itself is too large to be kept; its figures are."""
    recorded = json.loads((shared / "dicom" / "ct_brain" / "info.json").read_text())["dcm2niix"]["outputs"][0]
    volume = load(only_plan("ct_brain", shared, unpacked)).reoriented()
    theirs, _, _ = Geometry(np.array(recorded["affine"]), tuple(recorded["shape"])).reoriented()
    assert volume.geometry.distance(theirs) < 5e-3  # recorded with five decimals, over 512 voxels
    assert (volume.data.min(), volume.data.max()) == (recorded["min"], recorded["max"])
    assert volume.data.mean(dtype=float) == pytest.approx(recorded["mean"], abs=1e-4)


def test_gantry_tilt_is_set_upright_where_dcm2niix_puts_it(shared: Path, unpacked: Path) -> None:
    plan = only_plan("ct_gantry_tilt", shared, unpacked)
    assert plan.geometry.is_orthogonal
    assert any("14.0 degrees" in note for note in plan.notes)
    mine = load(plan).reoriented()
    theirs = reference_volume(shared / "dicom" / "ct_gantry_tilt" / "ref" / "4_e0_Tilt_1.nii.gz")
    assert mine.geometry.distance(theirs.geometry) < AFFINE_MM
    difference = np.abs(mine.data - theirs.data)
    # They round to whole HU, and blend the outermost line otherwise.
    assert np.percentile(difference, 99) <= 0.51
    assert np.count_nonzero(difference > 1) < 0.003 * difference.size


def test_b_values_name_the_frames(shared: Path, unpacked: Path) -> None:
    plan = only_plan("uih_grid", shared, unpacked)
    assert [round(frame.b_value or 0) for frame in plan.frames] == [1] + [930] * 16
    assert len({frame.direction for frame in plan.frames}) == 17


@pytest.mark.parametrize(
    ("name", "facts"),
    [
        (
            "siemens_mosaic",
            {"RepetitionTime", "EchoTime", "FlipAngle", "SliceTiming", "EffectiveEchoSpacing", "TotalReadoutTime"},
        ),
        (
            "ge_epi_4d",
            {
                "RepetitionTime",
                "EchoTime",
                "EffectiveEchoSpacing",
                "TotalReadoutTime",
                "SpacingBetweenSlices",
                "SliceTiming",
            },
        ),
        ("uih_grid", {"RepetitionTime", "MagneticFieldStrength", "SliceTiming"}),
        ("philips_scaled", {"InversionTime", "EchoTime"}),
        ("enhanced_mr_t1_3d", {"RepetitionTime", "EchoTime", "InversionTime", "FlipAngle", "SliceThickness"}),
    ],
)
def test_facts_equal_the_reference_sidecar(name: str, facts: set[str], shared: Path, unpacked: Path) -> None:
    mine = only_plan(name, shared, unpacked).facts.to_bids()
    (sidecar,) = (shared / "dicom" / name / "ref").glob("*.json")
    theirs = json.loads(sidecar.read_text())
    for fact in facts:
        # They write six digits, and slice times to 1/64 s for some vendors.
        assert mine[fact] == pytest.approx(theirs[fact], rel=1e-4, abs=0.016 if fact == "SliceTiming" else 0), fact


def test_phase_direction_is_that_of_our_rows(shared: Path, unpacked: Path) -> None:
    """dcm2niix turns the rows over, so its j- is j here."""
    (sidecar,) = (shared / "dicom" / "siemens_mosaic" / "ref").glob("*.json")
    assert json.loads(sidecar.read_text())["PhaseEncodingDirection"] == "j-"
    assert only_plan("siemens_mosaic", shared, unpacked).facts.phase_encoding_direction == "j"
