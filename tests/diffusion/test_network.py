"""Both networks behind one call: shapes, locality, and a start that changes nothing."""

from __future__ import annotations

import pytest
import torch

from medidiff.diffusion.network import NORM_EPSILON, BlockMeans, ChannelRMSNorm, MonaiUNet, ResidualUNet, build_network
from medidiff.errors import ConfigError


def inputs(network: ResidualUNet | MonaiUNet, items: int = 2) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    shape = [2 * n for n in network.multiple]
    g = torch.Generator().manual_seed(0)
    return (
        torch.randn(items, 1, *shape, generator=g),
        torch.randn(items, 2, *shape, generator=g),
        torch.randn(items, 9, generator=g),
    )


@pytest.mark.parametrize(
    "options",
    [
        {"kind": "residual_unet", "channels": [8, 12], "blocks": 1},
        {"kind": "residual_unet", "channels": [8], "blocks": 2, "split": [2, 2, 4]},
        {"kind": "residual_unet", "channels": [8, 12], "blocks": 1, "split": [4, 4, 1], "planar": True},
        {"kind": "residual_unet", "channels": [8, 12], "blocks": 1, "whole": True},
        {"kind": "monai_unet", "channels": [16, 16], "blocks": 1, "groups": 4},
        {"kind": "monai_unet", "channels": [16, 16], "blocks": 1, "groups": 4, "whole": True},
    ],
    ids=["residual", "packets", "planar", "whole", "monai", "monai-whole"],
)
def test_a_network_keeps_the_images_shape_and_reads_its_embedding(options: dict[str, object]) -> None:
    network = build_network(**options).eval()  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(1)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2, generator=generator)
    x, side, embedding = inputs(network)
    with torch.no_grad():
        out = network(x, side, embedding)
        assert out.shape == x.shape
        assert (network(x, side, embedding + 1) - out).abs().max() > 1e-3
        assert (network(x, side + 1, embedding) - out).abs().max() > 1e-3


def test_a_fresh_network_says_nothing() -> None:
    network = build_network("residual_unet", channels=[8, 8], blocks=1)
    assert network(*inputs(network)).abs().max() == 0


@pytest.mark.parametrize("whole", [True, False])
def test_for_whole_volumes_alone_every_voxel_sees_every_other(whole: bool) -> None:
    network = build_network("residual_unet", channels=[8, 8], blocks=1, whole=whole).double().eval()
    generator = torch.Generator().manual_seed(2)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3, generator=generator)
    reach = network.receptive_radius
    x = torch.randn(1, 1, 3 * reach // 4 * 4, 8, 8, generator=generator, dtype=torch.float64)
    side, embedding = torch.zeros(1, 2, *x.shape[2:], dtype=x.dtype), torch.zeros(1, 9, dtype=x.dtype)
    other = x.clone()
    other[:, :, -1] += 1
    with torch.no_grad():
        change = (network(other, side, embedding) - network(x, side, embedding))[0, 0, 0].abs().max()
    assert (change > 1e-6) == whole


def test_what_is_for_whole_volumes_begins_as_nothing() -> None:
    plain, whole = (ResidualUNet([8, 8, 8], 1, whole=whole) for whole in (False, True))
    torch.nn.init.normal_(plain.leave.weight, std=0.2)
    missing, unexpected = whole.load_state_dict(plain.state_dict(), strict=False)
    assert missing
    assert not unexpected
    with torch.no_grad():
        assert torch.equal(whole(*inputs(whole)), plain(*inputs(plain)))


def test_means_of_blocks_keep_the_size_of_white_noise_and_show_what_it_hides() -> None:
    means = BlockMeans(1, [4, 1, 1], 1)
    for enter, weigh in zip(means.enter, means.weigh, strict=True):
        torch.nn.init.ones_(enter.weight)  # type: ignore[arg-type]
        torch.nn.init.zeros_(enter.bias)  # type: ignore[arg-type]
        torch.nn.init.ones_(weigh.weight)  # type: ignore[arg-type]
    noise = torch.randn(1, 1, 32, 32, 32, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        _, coarse = (torch.sinh(level) for level in means(noise + 0.1, torch.ones(1, 1)))
    assert coarse.std() == pytest.approx(1, abs=0.1)
    assert coarse.mean() == pytest.approx(0.1 * 8, abs=0.1)


def test_a_planar_network_cannot_be_for_whole_volumes() -> None:
    with pytest.raises(ConfigError, match="planes never meet"):
        ResidualUNet([8], 1, whole=True, planar=True)


def test_the_norm_looks_at_one_voxel_at_a_time() -> None:
    norm, x = ChannelRMSNorm(6), torch.randn(1, 6, 4, 4, 4)
    out = norm(x)
    power = x.square().mean(1)
    torch.testing.assert_close(out.square().mean(1), power / (power + NORM_EPSILON))
    torch.testing.assert_close(norm(x[..., :1]), out[..., :1])


@pytest.mark.parametrize(
    ("channels", "blocks", "split"), [((4, 4), 1, (2, 2, 2)), ((4,), 2, (2, 2, 4)), ((4,), 1, (1, 1, 1))]
)
def test_no_voxel_beyond_the_receptive_radius_is_seen(
    channels: tuple[int, ...], blocks: int, split: tuple[int, int, int]
) -> None:
    network = ResidualUNet(channels, blocks, split=split)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.5, generator=torch.Generator().manual_seed(2))
    radius, step = network.receptive_radius, network.multiple[2]
    length = (2 * radius // step + 4) * step
    x = torch.randn(1, 1, network.multiple[0], network.multiple[1], length, requires_grad=True)
    middle = length // 2
    network(x, torch.zeros(1, 2, *x.shape[2:]), torch.zeros(1, 9))[..., middle].square().sum().backward()
    assert x.grad is not None
    seen = torch.nonzero(x.grad.abs().amax(dim=(0, 1, 2, 3))).flatten()
    reach = max(middle - int(seen[0]), int(seen[-1]) - middle)
    # Never further than claimed, and the claim is not idle: the stride blurs it by less than one step of the grid.
    assert reach <= radius
    assert reach > radius / 2


def test_an_unknown_network_is_refused() -> None:
    with pytest.raises(ConfigError, match="residual_unet"):
        build_network("transformer")


def test_groups_that_would_normalise_the_noise_level_away_are_refused() -> None:
    with pytest.raises(ConfigError, match="groups"):
        MonaiUNet([16, 32], groups=16)


def test_planes_never_meet_in_a_planar_network() -> None:
    network = ResidualUNet((6, 8), 1, split=(4, 4, 1), planar=True).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2, generator=torch.Generator().manual_seed(2))
    assert network.multiple == (8, 8, 1)
    x, side, embedding = torch.randn(1, 1, 16, 8, 5), torch.randn(1, 2, 16, 8, 5), torch.randn(1, 9)
    with torch.no_grad():
        together = network(x, side, embedding)
        alone = network(x[..., 2:3], side[..., 2:3], embedding)
    torch.testing.assert_close(together[..., 2:3], alone, rtol=1e-4, atol=1e-5)
    assert (together[..., 2:3] - together[..., 3:4]).abs().max() > 1e-2
