"""Names, contrasts and gradients of BIDS."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest

from medidiff.export.bids import Contrast, Kind, entities_of, gradient_table, image_stem, kind_of_mr, read_sidecar
from medidiff.geometry import Geometry
from medidiff.ingestion.series import kind_of
from medidiff.io import read_volume
from medidiff.io.dicom import find_series

KINDS = [
    (Contrast("MPRAGE_SAG_ISO"), "T1w"),
    (Contrast("t1_mprage_tra"), "T1w"),
    (Contrast("Ax T2 FLAIR"), "FLAIR"),
    (Contrast("t2_tse_dark-fluid_tra"), "FLAIR"),
    (Contrast("T2* GRE"), "T2starw"),
    (Contrast("t2s_uncropped"), "T2starw"),
    (Contrast("pd_tse"), "PDw"),
    (Contrast("t2_space_sag"), "T2w"),
    (Contrast("upd8"), "mr"),
    (Contrast("", "SE", 0.5, 0.012), "T1w"),
    (Contrast("", "SE", 4.0, 0.1), "T2w"),
    (Contrast("", "SE", 4.0, 0.015), "PDw"),
    (Contrast("", "SE\\IR", 9.0, 0.12, 2.5), "FLAIR"),
    (Contrast("", "GR\\IR", 2.3, 0.003, 0.9), "T1w"),
    (Contrast("", "GR", 0.6, 0.02), "T2starw"),
    (Contrast("", "GR", 2.0, 0.005), "mr"),
    (Contrast("t1", frames=3), "mr"),
    (Contrast("task", "EP", 2.0, 0.03, frames=100), "bold"),
    (Contrast("task", "EP", None, 0.03, frames=100), "mr"),
    (Contrast("ep2d_diff", "EP", 5.0, 0.09, frames=33, diffusion=True), "dwi"),
    (Contrast("ep2d_diff_ADC", "EP", 5.0, 0.09, computed=("DERIVED", "PRIMARY", "ADC")), "mr"),
]


@pytest.mark.parametrize(("contrast", "suffix"), KINDS, ids=lambda value: value if isinstance(value, str) else None)
def test_what_an_image_is(contrast: Contrast, suffix: str) -> None:
    assert kind_of_mr(contrast).suffix == suffix


def test_names() -> None:
    assert image_stem("MDX", "a1", "q9", Kind("anat", "T1w")) == "sub-MDX/ses-a1/anat/sub-MDX_ses-a1_acq-q9_T1w"
    assert image_stem("MDX", "a1", "q9", Kind("func", "bold")).endswith("ses-a1_task-unknown_acq-q9_bold")
    assert entities_of("sub-01_ses-2_run-1_T1w.nii.gz") == ({"sub": "01", "ses": "2", "run": "1"}, "T1w")
    assert entities_of("my-scan_T1w.nii") == ({}, "")


def test_gradients_are_those_of_dcm2niix(shared: Path, tmp_path: Path) -> None:
    folder = shared / "dicom" / "uih_grid"
    with zipfile.ZipFile(folder / "dicom.zip") as archive:
        archive.extractall(tmp_path)
    (plan,) = find_series(tmp_path).series
    kind, gradients = kind_of(plan)
    assert kind == Kind("dwi", "dwi")
    assert gradients is not None
    table = gradient_table(gradients.directions, plan.geometry)
    (image,) = (folder / "ref").glob("*.nii.gz")
    expected = np.loadtxt(next((folder / "ref").glob("*.bvec")))
    reference = read_volume(image).geometry
    np.testing.assert_allclose(world(table, plan.geometry), world(expected, reference), atol=2e-3)
    assert np.linalg.norm(table, axis=0).max() == pytest.approx(1, abs=1e-3)
    np.testing.assert_allclose(gradients.b_values, np.loadtxt(next((folder / "ref").glob("*.bval"))), atol=1)


def world(table: np.ndarray, geometry: Geometry) -> np.ndarray:
    """FSL's bvecs as world directions, by FSL's own rule."""
    voxel = table.copy()
    if np.linalg.det(geometry.affine[:3, :3]) > 0:
        voxel[0] = -voxel[0]
    return geometry.direction @ voxel


@pytest.mark.parametrize("content", ["", "{", "[1]", "nul", "[" * 100_000])
def test_a_damaged_sidecar_counts_as_none(content: str, tmp_path: Path) -> None:
    (tmp_path / "scan.json").write_text(content)
    assert read_sidecar(tmp_path / "scan.nii.gz") == {}
