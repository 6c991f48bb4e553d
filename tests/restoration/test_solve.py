"""The solver on a real head: whatever the network says, what comes out agrees with what went in."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from medidiff.data.intensity import IntensityCodec
from medidiff.diffusion.denoiser import Preconditioned
from medidiff.diffusion.tiling import Tiling
from medidiff.errors import ConfigError
from medidiff.operators import Likelihood, SliceOperator, SliceProfile
from medidiff.restoration.solve import Settings, nonnegative, restore
from medidiff.volume import Volume
from tests.diffusion.networks import Zero, random_unet

FINE = (1, 20, 24, 42)
PROFILES = {
    "touching": SliceProfile(3, 3),
    "not-whole": SliceProfile(2.8, 2.8),
    "gaps": SliceProfile(3.5, 2.4),
    "overlap": SliceProfile(3, 3.6),
    "gaussian": SliceProfile(4.2, 4.2, "gaussian"),
}


@pytest.fixture(scope="module")
def truth(mni: Volume) -> Tensor:
    """The edge of a head with air, model units, shape (1, *FINE)."""
    data = mni.data[0, ::2, ::2, ::2]
    data = np.ascontiguousarray(IntensityCodec.fit(data).encode(data)[30:50, 0:24, 20:62].astype(np.float32))
    return torch.from_numpy(data)[None, None]


@pytest.fixture(scope="module")
def model() -> Preconditioned:
    return Preconditioned(random_unet())


def operator(profile: str = "touching") -> SliceOperator:
    return SliceOperator(FINE, 2, PROFILES[profile])  # type: ignore[arg-type]


@pytest.mark.parametrize("lower", [None, 0.0])
@pytest.mark.parametrize("profile", PROFILES)
def test_mean_and_samples_reproduce_the_data(
    model: Preconditioned, truth: Tensor, profile: str, lower: float | None
) -> None:
    likelihood = Likelihood(operator(profile), operator(profile).forward(truth))
    done = restore(model, operator(profile), likelihood.y, Settings(samples=2, steps=3, lower=lower))
    assert done.misfit == pytest.approx(float(likelihood.misfit(done.mean).max()))
    # A random network goes far below zero; where positivity and data are hard to reconcile, half of what users are
    # promised is still kept.
    limit = 1e-3 if lower is None else 5e-3
    for image in (done.mean, *done.samples):
        assert image.shape == (1, *FINE)
        assert float(likelihood.misfit(image).max()) < limit
        assert not torch.allclose(image, operator(profile).reference(likelihood.y), atol=1e-3)


def test_a_silent_network_gives_the_reference(truth: Tensor) -> None:
    y = operator().forward(truth)
    done = restore(Preconditioned(Zero()), operator(), y, Settings())
    torch.testing.assert_close(done.mean, operator().reference(y), rtol=1e-4, atol=1e-4)
    assert done.samples == ()


def test_the_mean_takes_one_evaluation_and_needs_no_seed(model: Preconditioned, truth: Tensor) -> None:
    y, told = operator().forward(truth), []
    first = restore(model, operator(), y, Settings(seed=1), lambda *step: told.append(step))
    assert torch.equal(first.mean, restore(model, operator(), y, Settings(seed=2)).mean)
    assert told == [(0, 1, "posterior mean"), (1, 1, "posterior mean")]


def test_a_sample_is_its_seeds_and_its_numbers(model: Preconditioned, truth: Tensor) -> None:
    y = operator().forward(truth)
    two = restore(model, operator(), y, Settings(samples=2, steps=2, seed=0)).samples
    one = restore(model, operator(), y, Settings(samples=1, steps=2, seed=0)).samples
    other = restore(model, operator(), y, Settings(samples=1, steps=2, seed=1)).samples
    assert torch.equal(one[0], two[0])
    assert not torch.allclose(two[0], two[1], atol=1e-3)
    assert not torch.allclose(one[0], other[0], atol=1e-3)


def test_samples_are_counted_as_they_are_drawn(model: Preconditioned, truth: Tensor) -> None:
    told: list[tuple[int, int, str]] = []
    y = operator().forward(truth)
    restore(model, operator(), y, Settings(samples=2, steps=3), lambda *step: told.append(step))
    assert [done for done, _, _ in told] == list(range(8))
    assert {total for _, total, _ in told} == {7}
    assert told[-1][2] == "sample 2 of 2"


def test_tiles_do_not_show(model: Preconditioned, truth: Tensor) -> None:
    y = operator().forward(truth)
    whole, cut = (
        restore(model, operator(), y, Settings(samples=1, steps=2, tiling=tiling))
        for tiling in (Tiling(max_voxels=1 << 40), Tiling(tile=16, halo=26))
    )
    torch.testing.assert_close(cut.mean, whole.mean, rtol=0, atol=1e-5)
    torch.testing.assert_close(cut.samples[0], whole.samples[0], rtol=0, atol=3e-5)


def test_noisy_data_are_weighed_by_the_proximal_rule_and_binding_for_projection(
    model: Preconditioned, truth: Tensor
) -> None:
    y = operator().forward(truth)

    def misfit(guidance: str, noise_std: float) -> float:
        return restore(model, operator(), y, Settings(noise_std=noise_std, guidance=guidance)).misfit

    assert misfit("projection", 0.05) < 1e-3
    assert misfit("proximal", 0.0) < 1e-3
    assert 1e-2 < misfit("proximal", 0.02) < misfit("proximal", 0.2) < misfit("unguided", 0.2)


def test_positivity_and_data_are_reconciled_and_the_truth_comes_nearer(truth: Tensor) -> None:
    likelihood = Likelihood(operator(), operator().forward(truth))
    noise = 0.03 * torch.randn(truth.shape, generator=torch.Generator().manual_seed(1))
    before = likelihood.project(truth + noise)
    after = nonnegative(before, likelihood, 0.0)
    assert float(before.min()) < -0.02
    assert float(after.min()) > -5e-3
    assert float(likelihood.misfit(after).max()) < 2e-3
    assert float((after - truth).norm()) < float((before - truth).norm())


def test_an_image_that_is_fine_is_not_touched(truth: Tensor) -> None:
    likelihood = Likelihood(operator(), operator().forward(truth))
    assert nonnegative(truth, likelihood, 0.0) is truth
    assert nonnegative(truth - 1, likelihood, None).min() == -1


@pytest.mark.parametrize(
    "values", [{"samples": -1}, {"steps": 0}, {"steps": 5000}, {"solver": "rk45"}, {"guidance": "magic"}]
)
def test_settings_that_make_no_sense_are_refused(values: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        Settings(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize("axis", [0, 1])
def test_slices_along_any_axis_are_restored_as_slices_along_the_last(
    model: Preconditioned, truth: Tensor, axis: int
) -> None:
    """The network met slices along the last axis alone: a sagittal stack must be turned to it, and back."""
    turned = truth.movedim(-1, axis + 2).contiguous()
    along = SliceOperator((1, *turned.shape[2:]), axis, PROFILES["not-whole"])  # type: ignore[arg-type]
    done = restore(model, along, along.forward(turned), Settings(samples=1, steps=2))
    last = restore(model, operator("not-whole"), operator("not-whole").forward(truth), Settings(samples=1, steps=2))
    for image, expected in zip((done.mean, *done.samples), (last.mean, *last.samples), strict=True):
        assert image.shape == turned.shape
        torch.testing.assert_close(image, expected.movedim(-1, axis + 2), rtol=1e-4, atol=1e-4)
