"""K-space through the shipped prior: nearer to the truth than the classical image, and true to its samples."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from medidiff.diffusion.checkpoint import load_model
from medidiff.diffusion.denoiser import Preconditioned
from medidiff.errors import ConfigError, InputError
from medidiff.models import find_model
from medidiff.operators import CartesianKSpace
from medidiff.operators.sampling import random_mask, uniform_mask
from medidiff.restoration import Settings
from medidiff.restoration.kspace import answer_weight, kspace_noise, restore_kspace, told_accelerations
from medidiff.training.kspace_simulation import coil_maps, smooth_phase
from medidiff.volume import Volume
from tests.diffusion.networks import Zero, random_unet

PLANE = (96, 112)
ONE, THREE = Settings(steps=1), Settings(steps=3)
NOISE = 0.01


@pytest.fixture(scope="module")
def head(mni: Volume) -> Tensor:
    """Axial planes at 2 mm with a smooth phase, units of a scanner, shape (1, 1, 96, 112, 8), complex."""
    planes = torch.from_numpy(mni.data[:, 2:194:2, 4:228:2, 80:96:2].copy())[None] * 7
    return planes * torch.exp(1j * smooth_phase(PLANE, np.random.default_rng(4)))[..., None]


@pytest.fixture(scope="module")
def shipped() -> Preconditioned:
    return load_model(find_model("brain-t1"), torch.device("cpu"))[0]


def acquisition(coils: int) -> CartesianKSpace:
    if coils == 1:
        return CartesianKSpace((1, *PLANE, 8), torch.from_numpy(random_mask(PLANE, 3, seed=0, axis=1)))
    maps = coil_maps(PLANE, coils, np.random.default_rng(0))[..., None]
    return CartesianKSpace((1, *PLANE, 8), torch.from_numpy(uniform_mask(PLANE, 4, axis=1)), maps)


def measured(operator: CartesianKSpace, head: Tensor, noise: float) -> Tensor:
    """Samples with complex noise whose root mean squared modulus is ``noise``."""
    y = operator.forward(head)
    white = torch.randn(y.shape, dtype=y.dtype, generator=torch.Generator().manual_seed(0))
    return torch.where(y == 0, y, y + noise * white)


def error(x: Tensor, truth: Tensor) -> float:
    return float((x.abs() - truth.abs()).norm() / truth.abs().norm())


@pytest.mark.parametrize("coils", [1, 4])
def test_each_evaluation_brings_it_nearer_than_the_classical_image(
    head: Tensor, shipped: Preconditioned, coils: int
) -> None:
    operator, noise = acquisition(coils), NOISE * float(head.abs().max())
    y = measured(operator, head, noise)
    one, done = (restore_kspace(shipped, operator, y, chosen, noise_std=noise) for chosen in (ONE, THREE))
    assert error(done.classical, head) < error(operator.classical(y), head)
    assert error(one.image, head) < 0.98 * error(done.classical, head)
    assert error(done.image, head) < error(one.image, head)
    torch.testing.assert_close(done.magnitude, done.image.abs())


@pytest.mark.parametrize("coils", [1, 3])
def test_whatever_the_network_says_it_agrees_with_exact_samples(head: Tensor, coils: int) -> None:
    operator = acquisition(coils)
    y = operator.forward(head)
    for model in (Preconditioned(random_unet()), Preconditioned(Zero())):
        done = restore_kspace(model, operator, y, ONE, noise_std=0.0)
        again = operator.forward(done.image)
        assert float((again - y).norm() / y.norm()) < (1e-4 if coils == 1 else 1e-2)
        assert done.misfit == pytest.approx(float((again - y).norm() / y.norm()), rel=0.1, abs=1e-4)


def test_noisy_samples_do_not_bind(head: Tensor) -> None:
    operator, model = acquisition(1), Preconditioned(random_unet())
    y = operator.forward(head)
    top = float(head.abs().max())
    misfits = [restore_kspace(model, operator, y, ONE, noise_std=share * top).misfit for share in (0.0, 0.02, 0.1)]
    assert misfits[0] < misfits[1] < misfits[2]


@pytest.mark.parametrize("coils", [1, 4])
@pytest.mark.parametrize("share", [0.05, 0.1])
def test_the_noise_is_found_at_the_highest_frequencies(head: Tensor, coils: int, share: float) -> None:
    operator, noise = acquisition(coils), share * float(head.abs().max())
    assert kspace_noise(operator, measured(operator, head, noise)) == pytest.approx(noise, rel=0.25)


def test_no_sample_no_noise(head: Tensor) -> None:
    operator = acquisition(1)
    assert kspace_noise(operator, torch.zeros_like(operator.forward(head))) == 0


def test_units_are_those_of_the_scanner(head: Tensor) -> None:
    operator, model = acquisition(1), Preconditioned(random_unet())
    y = operator.forward(head)
    # A power of two, so that air, whose phase means nothing, is rounded alike.
    one, other = (restore_kspace(model, operator, factor * y, ONE).image for factor in (1.0, 2.0**-13))
    torch.testing.assert_close(other * 2**13, one, rtol=1e-3, atol=1e-3 * float(one.abs().max()))


def test_empty_k_space_and_impossible_noise_are_refused(head: Tensor) -> None:
    operator, model = acquisition(1), Preconditioned(Zero())
    with pytest.raises(InputError):
        restore_kspace(model, operator, torch.zeros(1, *operator.out_shape, dtype=torch.complex64))
    for noise in (-1.0, math.nan, math.inf):
        with pytest.raises(ConfigError):
            restore_kspace(model, operator, operator.forward(head), noise_std=noise)


def test_samples_differ_and_are_as_many_as_asked_for(head: Tensor) -> None:
    operator, model = acquisition(1), Preconditioned(random_unet())
    y, told = operator.forward(head), []
    chosen = Settings(samples=2, steps=2, seed=3)
    done, again = (
        restore_kspace(model, operator, y, chosen, on_evaluation=lambda n, total: told.append((n, total)))
        for _ in range(2)
    )
    assert told[:6] == [(n, 6) for n in range(1, 7)]
    first, second = done.samples
    assert not torch.allclose(first, second)
    torch.testing.assert_close(again.samples[0], first)


def test_the_network_is_told_of_less_and_less_and_never_of_more_than_there_was() -> None:
    told = told_accelerations(5, 4.0)
    assert all(a > b for a, b in itertools.pairwise(told))
    assert max(told_accelerations(3, 1.05)) <= 1.05
    assert len(told_accelerations(1, 4.0)) == 1


def test_the_noisier_the_data_the_more_the_answer_counts() -> None:
    weights = [answer_weight(noise) for noise in (0.0, 0.01, 0.02, 0.5)]
    assert weights == sorted(weights)
    assert weights[0] > 0
    assert weights[1] == pytest.approx(0.1, rel=0.05)
