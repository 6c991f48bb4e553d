"""The head mask on real heads, and under noise and planted background structure."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medidiff.errors import InputError
from medidiff.metrics import head_mask


@pytest.fixture(scope="module")
def head() -> np.ndarray:
    from nilearn.datasets import load_mni152_template

    return np.pad(np.asarray(load_mni152_template(resolution=2).dataobj, dtype=np.float64), 6)


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * float((a & b).sum()) / float(a.sum() + b.sum())


def test_the_mask_holds_the_head_and_little_else(head: np.ndarray) -> None:
    mask = head_mask(head, spacing=(2, 2, 2))
    assert mask[head > 0.3].mean() > 0.999
    assert mask[head == 0].mean() < 0.15
    assert not mask[:3].any()
    assert not mask[:, :3].any()


def test_noise_and_a_bright_blob_in_the_air_do_not_move_it(head: np.ndarray) -> None:
    rng = np.random.default_rng(0)
    clean = head_mask(head, spacing=(2, 2, 2))
    rician = np.abs(head + 0.05 * (rng.standard_normal(head.shape) + 1j * rng.standard_normal(head.shape)))
    rician[2:6, 2:6, 2:6] = 2.0
    noisy = head_mask(rician, spacing=(2, 2, 2))
    assert dice(clean, noisy) > 0.97
    assert not noisy[2:6, 2:6, 2:6].any()


def test_intensity_units_do_not_matter(head: np.ndarray) -> None:
    clean = head_mask(head, spacing=(2, 2, 2))
    assert np.array_equal(clean, head_mask(head * 4000, spacing=(2, 2, 2)))
    assert dice(clean, head_mask(head * 1400 - 1000, spacing=(2, 2, 2))) > 0.99


def test_thick_slices_give_the_same_head(head: np.ndarray) -> None:
    clean = head_mask(head, spacing=(2, 2, 2))
    thick = head[:, :, : head.shape[2] // 3 * 3].reshape(*head.shape[:2], -1, 3).mean(axis=3)
    found = np.repeat(head_mask(thick, spacing=(2, 2, 6)), 3, axis=2)
    assert dice(clean[:, :, : found.shape[2]], found) > 0.97


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("head-t1-dcm-qa-uih/uih-b_T1w_1mm.nii.gz", 0.50, 0.62),
        ("head-clinical-thick/donor1_T2w_6.5mm.nii.gz", 0.40, 0.52),
        ("brain-ms-ljubljana/cross_patient19_FLAIR_brain_MNI1mm.nii.gz", 0.14, 0.20),
    ],
)
def test_real_scans_fill_a_plausible_share(shared: Path, name: str, low: float, high: float) -> None:
    import nibabel as nib
    from scipy import ndimage

    image = nib.load(shared / "data" / name)
    mask = head_mask(np.asarray(image.dataobj), spacing=tuple(float(s) for s in image.header.get_zooms()[:3]))
    assert low < mask.mean() < high
    assert ndimage.label(mask)[1] == 1


def test_a_constant_volume_has_no_head() -> None:
    with pytest.raises(InputError, match="all"):
        head_mask(np.full((20, 20, 20), 7.0))
