"""Lesions are where and as strong as they are said to be, and what is lost or made up is counted so."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.hallucination.lesions import EDGE_MM, Lesion, place
from benchmarks.hallucination.summary import auc, invented, lost, share

ONE = (1.0, 1.0, 1.0)


@pytest.mark.parametrize("radius", [1.5, 3.0, 6.0])
@pytest.mark.parametrize("contrast", [-50.0, 80.0])
def test_a_lesion_has_its_size_and_contrast(radius: float, contrast: float) -> None:
    flat = np.full((32, 32, 32), 200, dtype=np.float32)
    lesion = Lesion((15.3, 16.1, 15.8), radius, contrast, ONE)
    with_it = lesion.insert(flat)
    assert lesion.seen(flat) == 0
    assert lesion.seen(with_it) == pytest.approx(contrast, rel=0.3 if radius < 2 else 0.1)
    # The radius is where the edge is half gone: Sommerfeld's expansion of the integral over a logistic edge.
    volume = float((with_it - flat).sum()) / contrast
    assert volume == pytest.approx(4 / 3 * np.pi * radius**3 * (1 + (np.pi * EDGE_MM / radius) ** 2), rel=0.02)


def test_millimetres_are_not_voxels() -> None:
    flat = np.full((48, 24, 24), 100, dtype=np.float32)
    fine = Lesion((24.0, 12.0, 12.0), 4.0, 30.0, (0.5, 1.0, 1.0)).insert(flat) - flat
    assert (fine[:, 12, 12] > 15).sum() == pytest.approx(2 * (fine[24, :, 12] > 15).sum(), abs=2)


def test_magnitudes_stay_positive_and_signed_images_signed() -> None:
    dark = Lesion((8.0, 8.0, 8.0), 3.0, -100.0, ONE)
    assert dark.insert(np.full((16, 16, 16), 10, dtype=np.float32)).min() == 0
    assert dark.insert(np.full((16, 16, 16), -10, dtype=np.float32)).min() < -100


def test_a_place_keeps_its_distance_and_is_the_seed_s() -> None:
    allowed = np.zeros((30, 30, 30), dtype=bool)
    allowed[5:25, 5:25, 14:16] = True
    found = [place(allowed, 3.0, 1.0, ONE, np.random.default_rng(seed)) for seed in range(20)]
    for lesion in found:
        assert lesion is not None
        assert all(6.5 <= c <= 22.5 for c in lesion.centre)
        assert 13.5 <= lesion.centre[2] <= 15.5
    assert found[3] == place(allowed, 3.0, 1.0, ONE, np.random.default_rng(3))
    assert place(allowed, 12.0, 1.0, ONE, np.random.default_rng(0)) is None
    assert place(np.zeros_like(allowed), 1.0, 1.0, ONE, np.random.default_rng(0)) is None


def test_what_counts_as_lost_and_invented() -> None:
    row = {"recovered": "0.49", "recovered_cubic": "0.5", "invented": "-0.5", "invented_cubic": "0.49"}
    assert lost(row, "medidiff")
    assert not lost(row, "cubic + projection")
    assert invented(row, "medidiff")
    assert not invented(row, "cubic + projection")


def test_shares_are_over_people() -> None:
    rows = [{"person": str(person)} for person in range(10) for _ in range(4)]
    hits = [person < 5 for person in range(10) for _ in range(4)]
    text = share(rows, hits)
    assert text.startswith("50% [")
    low, high = (int(part.rstrip("%")) for part in text[5:-1].split(", "))
    assert 10 <= low <= 30  # people are few: voxel-wise it would be 34% to 66%
    assert 70 <= high <= 90


def test_auc_of_scores_that_are_known() -> None:
    hit = np.array([True, True, False, False])
    assert auc(np.array([3.0, 4, 1, 2]), hit) == 1
    assert auc(np.array([1.0, 2, 3, 4]), hit) == 0
    assert auc(np.ones(4), hit) == 0.5
    assert np.isnan(auc(np.ones(4), np.ones(4, dtype=bool)))
