"""Under-sampled k-space: against NumPy's Fourier transform, and the same as the network met in training."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from medidiff.data.intensity import IntensityCodec
from medidiff.errors import ConfigError, GeometryError
from medidiff.operators import CartesianKSpace, Coils, Fourier, Likelihood
from medidiff.operators.sampling import partial_fourier_mask, poisson_mask, random_mask, uniform_mask
from medidiff.training.kspace_simulation import KSpaceRecipe, coil_maps, smooth_phase, undersample
from medidiff.volume import Volume

PLANE, PLANES = (48, 40), 4


@pytest.fixture(scope="module")
def head(mni: Volume) -> Tensor:
    """Coarse axial planes, model units, shape (1, 1, 48, 40, 4)."""
    data = IntensityCodec.fit(mni.data).encode(mni.data[:, 2:194:4, 20:180:4, 80:96:4])
    return torch.from_numpy(data.copy())[None]


@pytest.mark.parametrize("axes", [(0, 1), (1,), (0, 1, 2)])
def test_it_is_numpy_s_transform_with_frequency_zero_in_the_middle(head: Tensor, axes: tuple[int, ...]) -> None:
    found = Fourier(tuple(head.shape[1:]), axes).forward(head.to(torch.complex128))
    dim = tuple(axis - 3 for axis in axes)
    shifted = np.fft.ifftshift(head.numpy().astype(np.complex128), axes=dim)
    expected = np.fft.fftshift(np.fft.fftn(shifted, axes=dim, norm="ortho"), axes=dim)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-10)


def test_a_constant_image_is_one_sample_in_the_middle() -> None:
    found = Fourier((1, 5, 6, 1)).forward(torch.ones(1, 1, 5, 6, 1, dtype=torch.complex128))
    expected = torch.zeros_like(found)
    expected[0, 0, 2, 3, 0] = math.sqrt(30)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("coils", [1, 6])
@pytest.mark.parametrize("noise", [False, True])
def test_use_tells_the_network_what_training_told_it(head: Tensor, coils: int, noise: bool) -> None:
    """The same acquisition through the training code and through the operator: same reference, map and task."""
    rng = np.random.default_rng(coils)
    mask = uniform_mask(PLANE, 3, axis=1, centre=0.2)
    maps = coil_maps(PLANE, coils, rng)
    phase = torch.exp(1j * smooth_phase(PLANE, rng))
    unshifted = torch.from_numpy(np.fft.ifftshift(mask))
    recipe = KSpaceRecipe(unshifted, maps, phase, mask.size / mask.sum())
    seed = next(s for s in range(100) if (np.random.default_rng(s).random() < 0.5) is noise)
    told = undersample(head[0, 0], recipe, np.random.default_rng(seed), torch.Generator().manual_seed(0))
    operator = CartesianKSpace((1, *PLANE, PLANES), unshifted, None if coils == 1 else maps[..., None], centred=False)
    y = operator.forward(head * phase[..., None])
    if noise:
        white = torch.randn((2, PLANES, coils, *PLANE), generator=torch.Generator().manual_seed(0))
        drawn = told.task.noise / math.sqrt(2) * torch.complex(white[0], white[1]) * unshifted
        y = y + drawn.movedim(0, -1)[None]
    torch.testing.assert_close(operator.reference(y)[0, 0], told.reference, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(operator.known(y)[0, 0], told.known)
    assert operator.task(told.task.noise) == told.task
    # Raw data have frequency zero in the middle: the same magnitude comes of them.
    centred = CartesianKSpace((1, *PLANE, PLANES), torch.from_numpy(mask), None if coils == 1 else maps[..., None])
    if not noise:
        again = centred.reference(centred.forward(head * phase[..., None]))[0, 0]
        torch.testing.assert_close(again, told.reference, rtol=1e-4, atol=1e-4)


def test_what_was_sampled_is_kept_exactly_by_projection(head: Tensor) -> None:
    operator = CartesianKSpace((1, *PLANE, PLANES), torch.from_numpy(random_mask(PLANE, 3, seed=0)))
    likelihood = Likelihood(operator, operator.forward(head.to(torch.complex64)))
    estimate = likelihood.project(torch.randn(head.shape, generator=torch.Generator().manual_seed(1)) + 0j)
    assert float(likelihood.misfit(estimate)) < 1e-5


def test_coils_undo_the_folding_that_one_coil_cannot(head: Tensor) -> None:
    mask = torch.from_numpy(uniform_mask(PLANE, 3, axis=1, centre=0.1))
    maps = coil_maps(PLANE, 8, np.random.default_rng(0))[..., None]

    def error(operator: CartesianKSpace) -> float:
        return float((operator.reference(operator.forward(head + 0j)) - head).norm() / head.norm())

    alone = error(CartesianKSpace((1, *PLANE, PLANES), mask))
    assert error(CartesianKSpace((1, *PLANE, PLANES), mask, maps)) < 0.5 * alone


def test_planes_do_not_meet(head: Tensor) -> None:
    mask = torch.from_numpy(uniform_mask(PLANE, 3, axis=0))
    maps = coil_maps(PLANE, 4, np.random.default_rng(0))[..., None]
    operator = CartesianKSpace((1, *PLANE, PLANES), mask, maps)
    alone = CartesianKSpace((1, *PLANE, 1), mask, maps)
    y = operator.forward(head * torch.tensor([1, 50, 0.1, 0]) + 0j)
    for plane in range(PLANES):
        part = y[..., plane : plane + 1]
        torch.testing.assert_close(
            operator.reference(y)[..., plane : plane + 1], alone.reference(part), rtol=1e-4, atol=1e-6
        )


@given(
    shape=st.tuples(st.integers(32, 90), st.integers(32, 90)),
    acceleration=st.integers(2, 8),
    axis=st.sampled_from([0, 1]),
    seed=st.integers(0, 9),
)
def test_masks_take_what_they_claim(shape: tuple[int, int], acceleration: int, axis: int, seed: int) -> None:
    uniform = uniform_mask(shape, acceleration, axis=axis, centre=0)
    random = random_mask(shape, acceleration, seed=seed, axis=axis, centre=0.04)
    for mask in (uniform, random):
        assert mask.shape == shape
        assert mask[shape[0] // 2, shape[1] // 2], "frequency zero is always taken"
        lines = mask.any(axis=1 - axis)
        assert (lines == mask.all(axis=1 - axis)).all()
        assert lines.sum() == pytest.approx(shape[axis] / acceleration, abs=3)
    assert np.array_equal(random, random_mask(shape, acceleration, seed=seed, axis=axis, centre=0.04))
    assert (np.diff(np.flatnonzero(uniform.any(axis=1 - axis))) == acceleration).all()


def test_half_fourier_takes_one_side() -> None:
    mask = partial_fourier_mask((16, 20), 0.6, axis=1)
    assert mask.sum() == 16 * 12
    assert mask[:, :12].all()


def test_a_poisson_disc_is_dense_in_the_middle_and_spread_beyond_it() -> None:
    pytest.importorskip("sigpy", reason="sigpy draws Poisson discs")
    mask = poisson_mask((64, 64), 6, seed=1, calibration=12)
    assert mask.size / mask.sum() == pytest.approx(6, rel=0.15)
    assert mask[26:38, 26:38].all()
    assert mask[:8].mean() < mask[20:44, 20:44].mean()


@pytest.mark.parametrize(
    "make",
    [
        lambda: uniform_mask((8, 8), 0),
        lambda: random_mask((8, 8), 2, seed=0, axis=2),
        lambda: random_mask((8, 8), float("nan"), seed=0),
        lambda: uniform_mask((8, 8), 2, centre=1.5),
        lambda: partial_fourier_mask((8, 8), 0.5),
        lambda: CartesianKSpace((1, 8, 8, 2), torch.zeros(8, 8, dtype=torch.bool)),
    ],
)
def test_sampling_that_makes_no_sense_is_refused(make: object) -> None:
    with pytest.raises(ConfigError):
        make()  # type: ignore[operator]


@pytest.mark.parametrize(
    "make",
    [
        lambda: Fourier((1, 4, 4, 4), (0, 0)),
        lambda: Fourier((1, 4, 4, 4), (3,)),
        lambda: Fourier((1, 4, 4, 4), ()),
        lambda: Coils(torch.ones(2, 4, 4, 1)),
        lambda: Coils(torch.ones(2, 4, 4, 2, dtype=torch.complex64), planes=3),
        lambda: CartesianKSpace((2, 4, 4, 2), torch.ones(4, 4)),
        lambda: CartesianKSpace((1, 4, 4, 2), torch.ones(4, 5)),
        lambda: CartesianKSpace((1, 4, 4, 2), torch.ones(4, 4), torch.ones(3, 5, 4, 1, dtype=torch.complex64)),
    ],
)
def test_shapes_that_do_not_fit_are_refused(make: object) -> None:
    with pytest.raises(GeometryError):
        make()  # type: ignore[operator]
