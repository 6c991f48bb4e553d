"""Intensities to model units and back."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from medidiff.data.intensity import IntensityCodec
from medidiff.errors import InputError
from medidiff.volume import Modality, Volume


@given(scale=st.floats(1e-6, 1e6), offset=st.floats(-1e4, 1e4), value=st.floats(-1e4, 1e4))
def test_decoding_undoes_encoding(scale: float, offset: float, value: float) -> None:
    codec = IntensityCodec(scale, offset)
    span = max(abs(value), abs(offset), 1e-3)
    assert codec.decode(codec.encode(value)) == pytest.approx(value, abs=1e-9 * span)


def test_arrays_and_tensors_alike() -> None:
    codec, x = IntensityCodec(4.0, 2.0), np.arange(6, dtype=np.float32)
    np.testing.assert_allclose(codec.encode(torch.from_numpy(x)).numpy(), codec.encode(x))
    assert codec.encode(x).dtype == np.float32


@pytest.mark.parametrize("gain", [1e-3, 1.0, 4e4])
def test_a_head_is_about_one_bright_whatever_its_units(mni: Volume, gain: float) -> None:
    data = mni.data[0, ::3, ::3, ::3] * np.float32(gain)
    model = IntensityCodec.fit(data).encode(data)
    assert model.min() == 0
    assert np.percentile(model[model > 0.3], 99.5) == pytest.approx(1, abs=0.05)


def test_units_do_not_matter_but_for_rounding(mni: Volume) -> None:
    data = mni.data[0, ::3, ::3, ::3].astype(np.float64)
    one, other = (IntensityCodec.fit(gain * data).encode(gain * data) for gain in (1.0, 730.0))
    np.testing.assert_allclose(one, other, atol=1e-6)


def test_a_hot_voxel_does_not_set_the_contrast(mni: Volume) -> None:
    data = mni.data[0, ::3, ::3, ::3].copy()
    before = IntensityCodec.fit(data).scale
    data[0, 0, 0] = 100 * data.max()
    assert IntensityCodec.fit(data).scale == pytest.approx(before, rel=0.5)


def test_noise_below_zero_is_kept_and_a_stored_offset_taken_off(mni: Volume) -> None:
    data = mni.data[0, ::3, ::3, ::3].astype(np.float64)
    raised = IntensityCodec.fit(data + 5 * data.max())
    assert raised.offset == pytest.approx(5 * data.max(), rel=0.01)
    assert raised.scale == pytest.approx(IntensityCodec.fit(data).scale, rel=0.3)
    noisy = data + 0.02 * data.max() * np.random.default_rng(0).standard_normal(data.shape)
    codec = IntensityCodec.fit(noisy)
    assert codec.offset < 0
    np.testing.assert_allclose(codec.decode(codec.encode(noisy)), noisy)


def test_ct_has_a_scale_of_its_own() -> None:
    codec = IntensityCodec.fit(np.array([-1024.0, 3000.0]), Modality.CT)
    assert codec.encode(-1024.0) == 0
    assert codec.encode(0.0) == pytest.approx(0.5)
    assert codec.encode(1024.0) == pytest.approx(1)


@pytest.mark.parametrize("data", [np.zeros((4, 4)), np.full((4, 4), 7.0), np.full(3, np.nan), np.zeros(0)])
def test_nothing_to_see_is_refused(data: np.ndarray) -> None:
    with pytest.raises(InputError, match="constant or empty"):
        IntensityCodec.fit(data)


def test_values_that_are_not_finite_are_passed_over(mni: Volume) -> None:
    data = mni.data[0, ::4, ::4, ::4].copy()
    expected = IntensityCodec.fit(data).scale
    data[:2] = np.nan
    data[-1] = np.inf
    assert IntensityCodec.fit(data).scale == pytest.approx(expected, rel=0.05)
