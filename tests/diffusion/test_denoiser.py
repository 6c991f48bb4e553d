"""Preconditioning, the loss and the path: identities that hold for any network."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from medidiff.diffusion.denoiser import BLIND_RATIO, SMALLEST_RATIO, Condition, Preconditioned
from medidiff.diffusion.loss import denoising_loss
from medidiff.diffusion.path import draw_ratios, sigma_schedule, t_to_sigma
from medidiff.errors import ConfigError
from tests.diffusion.networks import Affine, Zero, random_unet, smooth_condition

SHAPE = (8, 12, 8)
SCALE = 0.1


def normal(seed: int, items: int = 2) -> Tensor:
    return torch.randn(items, 1, *SHAPE, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def condition() -> Condition:
    return smooth_condition(SHAPE, items=2, scale=SCALE)


@pytest.fixture
def model() -> Preconditioned:
    return Preconditioned(random_unet())


@pytest.mark.parametrize("sigma", [0.001, 0.05, 0.1, 1.0, 5.0])
def test_a_silent_network_is_the_exact_denoiser_of_a_gaussian_residual(condition: Condition, sigma: float) -> None:
    x = condition.reference + normal(1)
    found = Preconditioned(Zero())(x, torch.full((2,), sigma), condition)
    expected = condition.reference + SCALE**2 / (SCALE**2 + sigma**2) * (x - condition.reference)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("ratio", [0.0, 1e-6, 1e-4])
def test_without_noise_the_image_is_returned(model: Preconditioned, condition: Condition, ratio: float) -> None:
    x = condition.reference + SCALE * normal(2)
    found = model(x, torch.full((2,), ratio * SCALE), condition)
    torch.testing.assert_close(found, x, rtol=0, atol=1e-3 * SCALE)


def test_the_blind_estimate_ignores_the_noisy_image(model: Preconditioned, condition: Condition) -> None:
    given_condition = model.given(condition)
    sigma = torch.full((2,), given_condition.sigma_max)
    first, second = given_condition(normal(3), sigma), given_condition(100 * normal(4), sigma)
    assert torch.equal(first, second)
    assert not torch.allclose(first, condition.reference, atol=1e-3 * SCALE)
    # Above the range it stays what it is.
    torch.testing.assert_close(given_condition(normal(3), 7 * sigma), first)


def test_no_jump_where_the_network_goes_blind(condition: Condition) -> None:
    """The formula around the network is continuous; what the network itself makes of noise and of zeros is learned."""
    model = Preconditioned(Affine(own=0.0)).requires_grad_(False)
    u = BLIND_RATIO * normal(5)
    below, above = (
        model.denoise_residual(u, torch.full((2,), BLIND_RATIO * share), condition) for share in (0.998, 1.0)
    )
    # What is left of the image, u / (1 + s^2), is one part in BLIND_RATIO of a unit residual.
    assert float((below - above).abs().max()) < 1.1 * float(normal(5).abs().max()) / BLIND_RATIO
    assert float((below - above).norm() / normal(5).norm()) > 0.5 / BLIND_RATIO


def test_items_have_noise_levels_and_scales_of_their_own(model: Preconditioned, condition: Condition) -> None:
    mixed = Condition(condition.reference, condition.known, condition.task, torch.tensor([0.05, 0.4]))
    x, sigma = mixed.reference + normal(6), torch.tensor([0.02, 24.0])
    together = model(x, sigma, mixed)
    for item in range(2):
        alone = model(x[item : item + 1], sigma[item : item + 1], mixed[item : item + 1])
        torch.testing.assert_close(together[item : item + 1], alone, rtol=1e-5, atol=1e-6)


def test_the_network_sees_unit_variance_at_every_noise_level(condition: Condition) -> None:
    seen: list[Tensor] = []

    class Keeps(Zero):
        def forward(self, x: Tensor, side: Tensor, embedding: Tensor) -> Tensor:
            seen.append(x)
            return super().forward(x, side, embedding)

    model = Preconditioned(Keeps())
    for ratio in (0.01, 0.3, 1.0, 10.0, 50.0):
        x = condition.reference + SCALE * (normal(7) + ratio * normal(8))
        model(x, torch.full((2,), ratio * SCALE), condition)
    # 1536 voxels: standard error of the deviation 2%.
    assert all(abs(float(x.std()) - 1) < 0.08 for x in seen)


def test_blind_loss_is_plain_regression_of_the_residual(model: Preconditioned, condition: Condition) -> None:
    truth = condition.reference + SCALE * normal(9)
    ratios = torch.full((2,), BLIND_RATIO)
    loss = denoising_loss(model, truth, condition, ratios, normal(10))
    estimate = model(torch.zeros_like(truth), ratios * SCALE, condition)
    expected = ((estimate - truth) / SCALE).square().flatten(1).mean(1)
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-6)
    # The noise that was drawn for it is not looked at.
    assert torch.equal(loss, denoising_loss(model, truth, condition, ratios, normal(11)))


@pytest.mark.parametrize("ratio", [0.05, 0.7, 3.0, 20.0])
def test_the_loss_is_the_denoisers_error_with_edm_weights(
    model: Preconditioned, condition: Condition, ratio: float
) -> None:
    truth, noise = condition.reference + SCALE * normal(12), normal(13)
    loss = denoising_loss(model, truth, condition, torch.full((2,), ratio), noise)
    estimate = model(truth + ratio * SCALE * noise, torch.full((2,), ratio * SCALE), condition)
    error = ((estimate - truth) / SCALE).square().flatten(1).mean(1)
    torch.testing.assert_close(loss, error * (1 + ratio**2) / ratio**2, rtol=2e-3, atol=1e-5)


@pytest.mark.parametrize("ratio", [0.05, 1.0, 20.0, BLIND_RATIO])
def test_every_noise_level_starts_with_a_loss_of_one(condition: Condition, ratio: float) -> None:
    truth = condition.reference + SCALE * normal(14)
    loss = denoising_loss(Preconditioned(Zero()), truth, condition, torch.full((2,), ratio), normal(15))
    # Standard error of a mean of 768 squares: 5%.
    torch.testing.assert_close(loss, torch.ones(2), rtol=0, atol=0.2)


def test_the_loss_gradient_is_its_slope(condition: Condition) -> None:
    network = Affine().double()
    model = Preconditioned(network)
    wide = Condition(*(getattr(condition, name).double() for name in ("reference", "known", "task", "scale")))
    truth, noise = wide.reference + SCALE * normal(16).double(), normal(17).double()
    ratios = torch.tensor([0.5, BLIND_RATIO], dtype=torch.float64)

    def loss() -> Tensor:
        return denoising_loss(model, truth, wide, ratios, noise).mean()

    # The loss is computed in single precision on purpose, so the step is wide; it is quadratic, so that costs nothing.
    step = 0.1
    for weight in (network.own, network.side):
        (gradient,) = torch.autograd.grad(loss(), weight)
        with torch.no_grad():
            weight += step
            above = loss()
            weight -= 2 * step
            below = loss()
            weight += step
        torch.testing.assert_close(gradient, (above - below) / (2 * step), rtol=1e-4, atol=1e-6)


@given(share=st.floats(1e-3, 0.999))
def test_the_straight_path_is_added_noise(share: float) -> None:
    t = torch.tensor(share, dtype=torch.float64)
    x0, n = normal(18)[0].double(), normal(19)[0].double()
    torch.testing.assert_close(((1 - t) * x0 + t * n) / (1 - t), x0 + t_to_sigma(t) * n)


@given(count=st.integers(1, 40), eighths=st.integers(0, 8), seed=st.integers(0, 100))
def test_every_batch_has_its_blind_share(count: int, eighths: int, seed: int) -> None:
    share = eighths / 8
    ratios = draw_ratios(count, share, mean=-0.4, std=1.4, generator=torch.Generator().manual_seed(seed))
    blind = int((ratios >= BLIND_RATIO).sum())
    assert share * count <= blind < share * count + 1
    assert ((ratios >= SMALLEST_RATIO) & (ratios <= BLIND_RATIO)).all()


def test_the_other_ratios_are_log_normal() -> None:
    ratios = draw_ratios(20000, 0.0, mean=-0.4, std=1.4, generator=torch.Generator().manual_seed(0)).log()
    assert float(ratios.mean()) == pytest.approx(-0.4, abs=0.04)
    assert float(ratios.std()) == pytest.approx(1.4, abs=0.03)


@given(low=st.floats(1e-4, 1), times=st.floats(1.01, 1e4), steps=st.integers(1, 60), rho=st.floats(1, 10))
def test_a_schedule_falls_to_zero(low: float, times: float, steps: int, rho: float) -> None:
    sigmas = sigma_schedule(low, low * times, steps, rho=rho)
    assert len(sigmas) == steps + 1
    assert float(sigmas[0]) == pytest.approx(low * times)
    assert sigmas[-1] == 0
    assert (sigmas.diff() < 0).all()
    if steps > 1:
        assert float(sigmas[-2]) == pytest.approx(low)


@pytest.mark.parametrize(
    ("low", "high", "steps"), [(0.1, 1, 0), (0, 1, 5), (1, 0.1, 5), (0.1, float("inf"), 5), (float("nan"), 1, 5)]
)
def test_an_impossible_schedule_is_refused(low: float, high: float, steps: int) -> None:
    with pytest.raises(ConfigError, match="schedule"):
        sigma_schedule(low, high, steps)
