"""Whole volumes from tiles: the cut may not show, and memory is bounded by the tile."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medidiff.data.intensity import IntensityCodec
from medidiff.diffusion.checkpoint import FORMAT, load_model
from medidiff.diffusion.denoiser import BLIND_RATIO, Condition, Preconditioned
from medidiff.diffusion.network import ResidualUNet
from medidiff.diffusion.path import sigma_schedule
from medidiff.diffusion.sampler import multistep, sample
from medidiff.diffusion.tiling import HALO, TiledDenoiser, Tiling
from medidiff.errors import ConfigError
from medidiff.guidance import condition_from
from medidiff.metrics import seam_index
from medidiff.models import shipped_models
from medidiff.operators import SliceOperator, SliceProfile
from medidiff.restoration.looks import PLANES
from medidiff.rng import generators
from medidiff.volume import Volume
from tests.diffusion.networks import Watched, Zero, random_unet, smooth_condition

# Divisible by neither the network's grid (4) nor a tile, and long enough for tiles that do not see both ends.
ODD = (19, 37, 101)
SCALE = 0.1
WHOLE = Tiling(max_voxels=1 << 40)


@pytest.fixture(scope="module")
def model() -> Preconditioned:
    return Preconditioned(random_unet())


@pytest.fixture(scope="module")
def condition() -> Condition:
    return smooth_condition(ODD, scale=SCALE)


def noisy(condition: Condition, ratio: float) -> torch.Tensor:
    noise = torch.randn(condition.reference.shape, generator=torch.Generator().manual_seed(5))
    return condition.reference + ratio * SCALE * noise


def jumps_at(tiling: Tiling, multiple: tuple[int, int, int]) -> dict[int, list[int]]:
    """The first plane after each boundary between cores, on each axis."""
    cores = tiling.cores(ODD, multiple)
    return {axis: sorted({core[axis][0] for core in cores} - {0}) for axis in range(3)}


@given(
    shape=st.tuples(*[st.integers(1, 90)] * 3),
    multiple=st.sampled_from([(1, 1, 1), (4, 4, 4), (8, 8, 16)]),
    halo=st.integers(0, 12),
    limit=st.sampled_from([20_000, 60_000, 10**9]),
)
@settings(max_examples=60)
def test_cores_cover_every_voxel_once_and_tiles_keep_the_limit(
    shape: tuple[int, int, int], multiple: tuple[int, int, int], halo: int, limit: int
) -> None:
    tiling = Tiling(halo=halo, max_voxels=limit)
    try:
        cores = tiling.cores(shape, multiple)
    except ConfigError:
        # Refused only if even a core of one step is too large with its halo.
        smallest = math.prod(min(n + m, 2 * halo + 3 * m) for n, m in zip(shape, multiple, strict=True))
        assert smallest > limit
        return
    covered = np.zeros(shape, dtype=int)
    for core in cores:
        covered[tuple(slice(a, b) for a, b in core)] += 1
        assert all(a % m == 0 for (a, _), m in zip(core, multiple, strict=True))
    assert covered.min() == covered.max() == 1


@pytest.mark.parametrize("tile", [8, 20, 64])
def test_a_pointwise_denoiser_is_tiled_without_any_difference(condition: Condition, tile: int) -> None:
    model, x, sigma = Preconditioned(Zero()), noisy(condition, 1.0), torch.tensor([SCALE])
    tiled = TiledDenoiser(model, condition, Tiling(tile=tile, halo=0))(x, sigma)
    assert torch.equal(tiled, model(x, sigma, condition))


@pytest.mark.parametrize("ratio", [0.3, BLIND_RATIO])
def test_the_whole_volume_does_not_depend_on_its_tiles(
    model: Preconditioned, condition: Condition, ratio: float
) -> None:
    x, sigma = noisy(condition, ratio), torch.tensor([ratio * SCALE])
    whole = TiledDenoiser(model, condition, WHOLE)(x, sigma)
    tiling = Tiling(tile=24, halo=model.network.receptive_radius)  # type: ignore[arg-type]
    tiled = TiledDenoiser(model, condition, tiling)(x, sigma)
    assert len(tiling.cores(ODD, model.multiple)) >= 10
    # The image is about 1; single precision in another order of summation.
    assert float((tiled - whole).abs().max()) < 1e-5
    # And the network had something to say.
    assert float((whole - condition.reference).std()) > 0.05 * SCALE


def test_no_seam_with_a_halo_and_a_seam_without(model: Preconditioned, condition: Condition) -> None:
    x, sigma = noisy(condition, BLIND_RATIO), torch.tensor([BLIND_RATIO * SCALE])

    whole = TiledDenoiser(model, condition, WHOLE)(x, sigma)
    radius = int(model.network.receptive_radius)  # type: ignore[arg-type]

    def cut(halo: int) -> torch.Tensor:
        return TiledDenoiser(model, condition, Tiling(tile=24, halo=halo))(x, sigma)

    def index(image: torch.Tensor) -> float:
        return seam_index(image[0, 0].numpy(), jumps_at(Tiling(tile=24), model.multiple))

    # The random network has a pattern of its own on the grid: the whole volume says what is no seam.
    assert index(cut(radius) - condition.reference) == pytest.approx(index(whole - condition.reference), abs=1e-3)
    assert index(cut(radius) - condition.reference) == pytest.approx(1, abs=0.25)
    assert index(cut(0) - whole) > 1.2


def test_a_sample_does_not_depend_on_its_tiles(model: Preconditioned, condition: Condition) -> None:
    """Tiles meet inside every step, under one noise field: what they make of it is one image."""
    sigmas = sigma_schedule(0.02 * SCALE, 8 * SCALE, 4)

    def draw(tiling: Tiling) -> torch.Tensor:
        denoiser = TiledDenoiser(model, condition, tiling)
        shape = tuple(condition.reference.shape)
        return sample(denoiser, shape, sigmas, generators=generators(0, 1), solver=multistep, start=condition.reference)

    radius = int(model.network.receptive_radius)  # type: ignore[arg-type]
    assert float((draw(Tiling(tile=28, halo=radius)) - draw(WHOLE)).abs().max()) < 3e-5


@pytest.mark.parametrize("limit", [20_000, 50_000])
def test_the_network_is_never_shown_more_than_the_limit(limit: int) -> None:
    watched = Watched(random_unet())
    condition = smooth_condition(ODD)
    TiledDenoiser(Preconditioned(watched), condition, Tiling(halo=6, max_voxels=limit))(
        condition.reference, torch.tensor([0.1])
    )
    assert watched.calls > 1
    assert limit / 8 < watched.largest <= limit


def test_a_limit_below_the_halo_is_refused_instead_of_searched_for_ever() -> None:
    with pytest.raises(ConfigError, match="halo"):
        Tiling(halo=32, max_voxels=1000).cores((200, 200, 200), (8, 8, 8))


def test_the_tiled_denoiser_has_the_range_of_the_plain_one(model: Preconditioned, condition: Condition) -> None:
    tiled, plain = TiledDenoiser(model, condition), model.given(condition)
    assert (tiled.sigma_min, tiled.sigma_max, tiled.spread) == (plain.sigma_min, plain.sigma_max, plain.spread)
    assert plain.spread == pytest.approx(SCALE)


# Of the models that ship, those that restore.
PRIORS = [model.path for model in shipped_models() if model.header["format"] == FORMAT]


@pytest.mark.parametrize("path", PRIORS, ids=lambda path: path.stem)
def test_the_halo_is_wide_enough_for_a_shipped_network(path: Path, mni: Volume) -> None:
    """Its receptive radius is wider, but what it sees beyond the halo hardly counts: far below a scan's own noise."""
    model, _ = load_model(path)
    head = IntensityCodec.fit(mni.data).encode(mni.data[0, 78:110, 5:213, 78:110])
    truth = torch.from_numpy(np.ascontiguousarray(head))[None, None]
    operator = SliceOperator((1, 32, 208, 32), 2, SliceProfile(4, 4))
    condition = condition_from(operator, operator.forward(truth))
    sigma = model.given(condition).sigma_max * torch.ones(1)
    whole, cut = (
        TiledDenoiser(model, condition, tiling)(torch.zeros_like(truth), sigma)
        for tiling in (WHOLE, Tiling(tile=72, halo=PLANES.halo if model.planar else HALO))
    )
    assert float((cut - whole).abs().max()) < 1e-4
    assert float((cut - whole).square().mean().sqrt()) < 3e-6
    residuals = [(image - condition.reference)[0, 0].numpy() for image in (cut, whole)]
    seam, unavoidable = (seam_index(residual, {1: [72, 144]}) for residual in residuals)
    assert seam == pytest.approx(unavoidable, abs=1e-3)
    assert seam == pytest.approx(1, abs=0.2)


def test_a_planar_network_is_cut_between_planes_without_a_halo() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        network = ResidualUNet((6, 6), 1, split=(4, 4, 1), planar=True)
        for parameter in network.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    watched = Watched(network.eval().requires_grad_(False))
    watched.planar = True  # type: ignore[assignment]
    reference = torch.randn(1, 1, 16, 16, 9)
    condition = Condition(reference, torch.ones_like(reference), torch.zeros(1, 8), torch.ones(1))
    model, x, sigma = Preconditioned(watched), torch.zeros_like(reference), torch.ones(1)
    whole = TiledDenoiser(model, condition, WHOLE)(x, sigma)
    watched.largest = 0
    cut = TiledDenoiser(model, condition, Tiling(halo=64, max_voxels=16 * 16 * 3))(x, sigma)
    torch.testing.assert_close(cut, whole, rtol=1e-4, atol=1e-5)
    assert watched.largest == 16 * 16 * 3
