"""Wavelets, against PyWavelets, and images that are sparse in them, against closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from medidiff.operators import CartesianKSpace
from medidiff.operators.sampling import random_mask
from medidiff.restoration.sparse import DB2, join, shrink, soft, sparse_reconstruction, split
from medidiff.volume import Volume


@given(st.integers(0, 100), st.sampled_from([-3, -2, -1]), st.sampled_from([4, 6, 10, 16]))
def test_splitting_keeps_energy_and_is_undone(seed: int, dim: int, size: int) -> None:
    shape = [1, 1, 4, 4, 4]
    shape[dim] = size
    x = torch.randn(shape, dtype=torch.complex64, generator=torch.Generator().manual_seed(seed))
    low, high = split(x, dim)
    torch.testing.assert_close(join(low, high, dim), x, atol=1e-5, rtol=1e-5)
    assert float(low.norm() ** 2 + high.norm() ** 2) == pytest.approx(float(x.norm() ** 2), rel=1e-4)


def test_the_filter_is_daubechies_second() -> None:
    pywt = pytest.importorskip("pywt", reason="PyWavelets comes with sigpy")
    np.testing.assert_allclose(sorted(np.abs(DB2)), sorted(np.abs(pywt.Wavelet("db2").dec_lo)), atol=1e-12)
    x = np.random.default_rng(0).normal(size=32)
    found = [np.sort(np.abs(band.numpy())) for band in split(torch.from_numpy(x), 0)]
    # Where the first pair begins, and in which direction it is read, is a convention.
    layings = [np.roll(way, shift) for way in (x, x[::-1]) for shift in (0, 1)]
    bands = [[np.sort(np.abs(band)) for band in pywt.dwt(laid, "db2", mode="periodization")] for laid in layings]
    assert any(np.allclose(found, theirs, atol=1e-10) for theirs in bands)


def test_ramps_have_no_details() -> None:
    """Two vanishing moments: a straight line is all averages, but where the axis closes on itself."""
    _, high = split(torch.arange(32.0), 0)
    assert float(high[:-1].abs().max()) < 1e-4


def test_soft_thresholds_shrink_the_modulus() -> None:
    x = torch.tensor([3 + 4j, 0.3 + 0.4j, 0j])
    torch.testing.assert_close(soft(x, 1.0), torch.tensor([2.4 + 3.2j, 0j, 0j]))


def test_no_threshold_changes_nothing_wherever_the_wavelets_lie() -> None:
    x = torch.randn(1, 1, 20, 34, 3)
    torch.testing.assert_close(shrink(x, 0.0, (-3, -2), [3, 5]), x, atol=1e-5, rtol=1e-5)


def test_it_is_nearer_to_a_head_than_zeros_are(mni: Volume) -> None:
    head = torch.from_numpy(mni.data[:, 2:194:2, 4:228:2, 90:91].copy())[None].to(torch.complex64)
    head = head / head.abs().max()
    operator = CartesianKSpace((1, 96, 112, 1), torch.from_numpy(random_mask((96, 112), 3, seed=0)))
    y = operator.forward(head)
    zero_filled = operator.adjoint(y)
    found = sparse_reconstruction(operator, y, 1e-3, steps=60)
    assert float((found - head).norm()) < 0.9 * float((zero_filled - head).norm())
    # Near the data, and sparser than the truth's own transform would need it to be.
    assert float((operator.forward(found) - y).norm() / y.norm()) < 0.03


def test_an_anchor_holds(mni: Volume) -> None:
    head = torch.from_numpy(mni.data[:, 2:194:4, 4:228:4, 90:91].copy())[None].to(torch.complex64)
    operator = CartesianKSpace((1, 48, 56, 1), torch.from_numpy(random_mask((48, 56), 3, seed=0)))
    y, anchor = operator.forward(head), head.flip(-2)
    near = sparse_reconstruction(operator, y, 0.0, steps=40, anchor=(anchor, 100.0))
    far = sparse_reconstruction(operator, y, 0.0, steps=40, anchor=(anchor, 0.01))
    assert float((near - anchor).norm()) < 0.05 * float((far - anchor).norm())
    # Without wavelets the sum is quadratic: sampled frequencies are weighed, the others are the anchor's.
    k, a = operator.forward(near), operator.forward(anchor)
    torch.testing.assert_close(k, (y + 100 * a) / 101, atol=1e-3, rtol=1e-2)
