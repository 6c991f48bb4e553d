"""The k-space benchmark: libraries get the same problem as we do, and masks, not values, say what was taken."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch

from benchmarks.reconstruction.mri import CASES, STEPS, Case, Slab, bart, plane_ssim, psnr, rivals, sigpy
from benchmarks.superresolution.cases import GROUPS, Truth
from medidiff.metrics import NoiseFloor
from medidiff.operators.sampling import uniform_mask
from medidiff.volume import Volume

FULL = Case("full", lambda plane: np.ones(plane, bool), 3, {})


@pytest.fixture(scope="module")
def head(mni: Volume) -> Truth:
    """Coarse MNI152 as a truth, shape (49, 58, 47)."""
    data = np.ascontiguousarray(mni.data[:, ::4, ::4, ::4])
    volume = Volume(data, mni.geometry.resampled(0, 50, 4).resampled(1, 59, 4).resampled(2, 48, 4))
    mask = data[0] > 0.2 * data.max()
    floor = NoiseFloor.__new__(NoiseFloor)
    # Odd sides, as real heads have them.
    assert volume.geometry.shape[1] % 2
    return Truth("mni", GROUPS["uih-b"], volume, mask, float(data.max()), floor, torch.from_numpy(data)[None])


def test_every_case_has_weights_for_every_rival() -> None:
    for case in CASES:
        assert set(case.weights) == set(STEPS)


def test_an_acquisition_is_the_same_every_time_and_noisy_only_where_it_samples(head: Truth) -> None:
    case = Case("half", lambda plane: uniform_mask(plane, 2, axis=0), 3, {})
    one, other = (Slab.of(head, case, 0.5, 4, 2) for _ in range(2))
    torch.testing.assert_close(one.y, other.y)
    taken = one.operator.taken.expand(one.y.shape)
    assert bool((one.y[~taken] == 0).all())
    assert bool((one.y[taken] != 0).all())
    assert one.truth.shape[-1] == 2


@pytest.mark.parametrize("library", ["sigpy", "BART"])
def test_libraries_take_the_problem_as_it_is_meant(head: Truth, library: str) -> None:
    """With every sample and next to no penalty each must find the head, in place and in scale."""
    if library == "BART" and shutil.which("bart") is None:
        pytest.skip("BART is not installed")
    if library == "sigpy":
        pytest.importorskip("sigpy", reason="the extra kspace")
    slab = Slab.of(head, FULL, 0.5, 2, 1)
    solver = sigpy if library == "sigpy" else bart
    assert psnr(slab.by_plane(solver("W", 1e-5, 40)), slab) > 35


def test_the_rivals_are_those_that_are_installed(head: Truth) -> None:
    slab = Slab.of(head, FULL, 0.5, 2, 1)
    found = rivals(slab, dict.fromkeys(STEPS, 0.01))
    assert {"zero-filled", "CG-SENSE"} <= set(found)
    assert ("BART W" in found) == (shutil.which("bart") is not None)
    assert psnr(found["zero-filled"](), slab) > 30


def test_equal_planes_are_alike() -> None:
    x = np.random.default_rng(0).normal(size=(20, 20, 2))
    assert plane_ssim(x, x, np.ones(x.shape, bool)) == pytest.approx(1)
    assert plane_ssim(x + 0.5, x, np.ones(x.shape, bool)) < 0.9
