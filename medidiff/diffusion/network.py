"""Networks: (image, side channels, embedding) -> image. They know no noise schedule and no operator.

``ResidualUNet`` is what ships: a plain residual U-Net in the Haar domain whose normalisation looks at one voxel at
a time, so that a tile gives what the whole volume gives. ``MonaiUNet`` is MONAI's ``DiffusionModelUNet`` behind the
same call, one config away.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from medidiff.diffusion.haar import Split, bands, haar, inverse_haar
from medidiff.errors import ConfigError

NORM_EPSILON = 1e-6
# Detail bands of a head are this much weaker than its mean band; a network that sees them at unit size need not first
# learn to turn them up.
DETAIL_GAIN = 6.0


class Network(Protocol):
    """A network takes the noisy image, side channels and one embedding vector an item."""

    @property
    def multiple(self) -> tuple[int, int, int]:
        """The input's axes must be divisible by these."""
        ...

    @property
    def receptive_radius(self) -> int:
        """How far, in voxels, an output voxel can see."""
        ...

    def __call__(self, x: Tensor, side: Tensor, embedding: Tensor) -> Tensor: ...


class ChannelRMSNorm(nn.Module):
    """Root mean square normalisation over the channels of one voxel: independent of the tile around it.

    Source: Zhang & Sennrich (2019), Root Mean Square Layer Normalization, eq. (4).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        if x.is_cuda and x.is_contiguous(memory_format=torch.channels_last_3d):
            # With channels innermost the fused kernel reads a voxel once; the formula below reads it six times.
            last = functional.rms_norm(x.permute(0, 2, 3, 4, 1), self.gain.shape, self.gain.to(x.dtype), NORM_EPSILON)
            return last.permute(0, 4, 1, 2, 3)
        scale = torch.rsqrt(x.float().square().mean(1, keepdim=True) + NORM_EPSILON).to(x.dtype)
        out: Tensor = x * scale * self.gain.to(x.dtype).view(-1, 1, 1, 1)
        return out


class ResidualBlock(nn.Module):
    """Two 3x3x3 convolutions with a shortcut; the embedding scales and shifts between them (FiLM).

    Args:
        planar: 3x3x1 instead: planes along the last axis never meet.
    Source: He et al. (2016), Identity Mappings in Deep Residual Networks; Perez et al. (2018), FiLM.
    """

    def __init__(self, channels_in: int, channels: int, embedding: int, planar: bool = False) -> None:
        super().__init__()
        kernel, padding = _kernel(planar)
        self.norm1, self.norm2 = ChannelRMSNorm(channels_in), ChannelRMSNorm(channels)
        self.conv1 = nn.Conv3d(channels_in, channels, kernel, padding=padding)
        self.conv2 = nn.Conv3d(channels, channels, kernel, padding=padding)
        self.film = nn.Linear(embedding, 2 * channels)
        self.shortcut = nn.Identity() if channels_in == channels else nn.Conv3d(channels_in, channels, 1)
        # A block begins as the identity, a network as its input: deep stacks then train from the first step.
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)  # type: ignore[arg-type]
        nn.init.zeros_(self.film.weight)
        nn.init.zeros_(self.film.bias)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = self.film(embedding).to(x.dtype)[:, :, None, None, None].chunk(2, dim=1)
        h = self.conv1(functional.silu(self.norm1(x)))
        h = torch.addcmul(shift, self.norm2(h), 1 + scale)
        out: Tensor = self.shortcut(x) + self.conv2(functional.silu(h))
        return out


class Attention(nn.Module):
    """Self-attention over all positions of the coarsest grid.

    Only for volumes that are never cut into tiles, and grids of some hundred positions: its cost is quadratic.

    Source: Vaswani et al. (2017), Attention Is All You Need; at the coarsest level of a U-Net as in Ho et al. (2020).
    """

    def __init__(self, channels: int, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.norm = ChannelRMSNorm(channels)
        self.asked = nn.Linear(channels, 3 * channels)  # queries, keys and values
        self.answer = nn.Linear(channels, channels)
        # It begins as the identity, as the blocks do.
        nn.init.zeros_(self.answer.weight)
        nn.init.zeros_(self.answer.bias)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.norm(x).flatten(2).transpose(1, 2)
        query, key, value = self.asked(tokens).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        seen = functional.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        out: Tensor = x + self.answer(seen).transpose(1, 2).unflatten(2, x.shape[2:])
        return out


class BlockMeans(nn.Module):
    """Means of ever larger blocks of the noisy image, into the coarser levels of a network.

    What is one thing over a large block (contrast, shading, where the structure lies) drowns in a voxel's noise long
    before it drowns in the block's: here the network need not learn to add up hundreds of voxels by itself.

    Args:
        image: Channels of the image.
        channels: Width of each level.
        embedding: Length of the embedding, which weighs the means by the noise level.
    Source: Song et al. (2021), Score-Based Generative Modeling through SDEs, appendix H.1 (progressive input).
    """

    def __init__(self, image: int, channels: Sequence[int], embedding: int) -> None:
        super().__init__()
        self.image = image
        self.enter = nn.ModuleList(nn.Conv3d(image, width, 1) for width in channels[1:])
        self.weigh = nn.ModuleList(nn.Linear(embedding, width) for width in channels[1:])
        for weigh in self.weigh:
            nn.init.zeros_(weigh.weight)  # type: ignore[arg-type]
            nn.init.zeros_(weigh.bias)  # type: ignore[arg-type]

    def forward(self, means: Float[Tensor, "b c i j k"], embedding: Tensor) -> list[Tensor]:
        """What is added to every level below the first, from the means of the first level's positions."""
        out = []
        for enter, weigh in zip(self.enter, self.weigh, strict=True):
            # Orthonormal, so that noise keeps its size; asinh, because without noise a mean is many times that.
            means = 2**1.5 * functional.avg_pool3d(means, 2)
            out.append(weigh(embedding)[:, :, None, None, None] * enter(torch.asinh(means)))
        return out


def _kernel(planar: bool) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Size and padding of a convolution."""
    return ((3, 3, 1), (1, 1, 0)) if planar else ((3, 3, 3), (1, 1, 1))


def _grid(split: Split, levels: int, planar: bool = False) -> tuple[int, int, int]:
    """What the axes of an image must be divisible by: the Haar split, halved once for each further level."""
    coarse = 2 ** (levels - 1)
    return split[0] * coarse, split[1] * coarse, split[2] * (1 if planar else coarse)


class ResidualUNet(nn.Module):
    """Residual U-Net on Haar bands.

    Args:
        channels: Width of each level; each level halves the resolution.
        blocks: Residual blocks a level on the way down and on the way up.
        side: Number of side channels in the image domain (reference, known map).
        embedding: Length of the embedding vector given by the caller.
        split: Haar split of each axis.
        planar: Convolve and halve along i and j alone, for damage that every plane takes by itself (CT views): more
            than twice as fast, and any number of planes.
        image: Number of channels of the image that is denoised (an image and its label channels).
        whole: For whole volumes, which are never cut into tiles: means of large blocks enter every level, and every
            position of the coarsest sees all others.
    Raises:
        ConfigError: ``whole`` and ``planar``.
    """

    side_gain: Tensor

    def __init__(
        self,
        channels: Sequence[int] = (48, 96, 192),
        blocks: int = 2,
        side: int = 2,
        embedding: int = 9,
        split: Split = (2, 2, 2),
        planar: bool = False,
        image: int = 1,
        whole: bool = False,
    ) -> None:
        super().__init__()
        if whole and planar:
            raise ConfigError("planes never meet in a planar network: it cannot be one for whole volumes")
        self.split, self.planar = (split[0], split[1], split[2]), planar
        self.levels, self.blocks = len(channels), blocks
        kernel, padding = _kernel(planar)
        half = (2, 2, 1) if planar else (2, 2, 2)
        wide = 4 * channels[0]
        self.embed = nn.Sequential(nn.Linear(embedding, wide), nn.SiLU(), nn.Linear(wide, wide), nn.SiLU())
        self.enter = nn.Conv3d((image + side) * bands(self.split), channels[0], kernel, padding=padding)
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        self.pool, self.unpool = nn.ModuleList(), nn.ModuleList()
        for level, width in enumerate(channels):
            self.down.append(nn.ModuleList(ResidualBlock(width, width, wide, planar) for _ in range(blocks)))
            if level + 1 < self.levels:
                self.pool.append(nn.Conv3d(width, channels[level + 1], half, stride=half))
                self.unpool.append(nn.ConvTranspose3d(channels[level + 1], width, half, stride=half))
                self.up.append(nn.ModuleList(ResidualBlock(width, width, wide, planar) for _ in range(blocks)))
        self.means = BlockMeans(image, channels, wide) if whole else None
        self.middle = Attention(channels[-1]) if whole else nn.Identity()
        self.norm = ChannelRMSNorm(channels[0])
        self.leave = nn.Conv3d(channels[0], image * bands(self.split), kernel, padding=padding)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)  # type: ignore[arg-type]
        gain = torch.full((bands(self.split),), DETAIL_GAIN)
        gain[0] = 1.0
        self.register_buffer("side_gain", gain.repeat(side).view(1, -1, 1, 1, 1), persistent=False)

    @property
    def multiple(self) -> tuple[int, int, int]:
        return _grid(self.split, self.levels, self.planar)

    @property
    def receptive_radius(self) -> int:
        """Counted in voxels of the coarsest axis: every 3x3x3 convolution sees one position further."""
        positions = 2.0  # enter and leave
        for level in range(self.levels):
            passes = 1 if level + 1 == self.levels else 2
            positions += 2**level * (2 * self.blocks * passes + 1)
        return math.ceil(positions) * max(self.split)

    def forward(
        self, x: Float[Tensor, "b c i j k"], side: Float[Tensor, "b s i j k"], embedding: Float[Tensor, "b e"]
    ) -> Float[Tensor, "b c i j k"]:
        e = self.embed(embedding)
        # In half precision a band of details, the small difference of large numbers, would be rounded away.
        with torch.autocast(x.device.type, enabled=False):
            w = torch.cat([haar(x.float(), self.split), self.side_gain * haar(side.float(), self.split)], dim=1)
        h = self.enter(w)
        means = self.means and self.means(w[:, : self.means.image * bands(self.split) : bands(self.split)], e)
        skips: list[Tensor] = []
        for level in range(self.levels):
            for block in self.down[level]:  # type: ignore[attr-defined]
                h = block(h, e)
            if level + 1 < self.levels:
                skips.append(h)
                h = self.pool[level](h)
                h = h + means[level] if means else h
        h = self.middle(h)
        for level in reversed(range(self.levels - 1)):
            # The skip is added, not concatenated: the widest convolution of the network would otherwise double.
            h = self.unpool[level](h) + skips.pop()
            for block in self.up[level]:  # type: ignore[attr-defined]
                h = block(h, e)
        return inverse_haar(self.leave(functional.silu(self.norm(h))).float(), self.split)


class MonaiUNet(nn.Module):
    """MONAI's ``DiffusionModelUNet`` on Haar bands, behind the same call.

    The embedding enters as MONAI's cross-attention-free class vector would: added to the timestep embedding through
    ``time_embed``. Its mid-block attention is replaced by the identity unless it is asked for, because attention over a
    whole volume is quadratic in its voxels; its GroupNorm remains, so that a tile differs slightly from the whole.
    """

    def __init__(
        self,
        channels: Sequence[int] = (32, 64, 96),
        blocks: int = 2,
        side: int = 2,
        embedding: int = 9,
        split: Split = (2, 2, 2),
        groups: int = 16,
        image: int = 1,
        whole: bool = False,
    ) -> None:
        super().__init__()
        from monai.networks.nets.diffusion_model_unet import DiffusionModelUNet

        if min(channels) < 2 * groups:
            # The embedding is added to each channel before a GroupNorm; alone in its group it would be subtracted.
            raise ConfigError(f"every level needs two channels a group: {groups} groups and channels {list(channels)}")
        self.split = (split[0], split[1], split[2])
        self.levels, self.blocks = len(channels), blocks
        self.net = DiffusionModelUNet(
            spatial_dims=3,
            in_channels=(image + side) * bands(self.split),
            out_channels=image * bands(self.split),
            channels=tuple(channels),
            attention_levels=(False,) * len(channels),
            num_res_blocks=blocks,
            norm_num_groups=groups,
        )
        if not whole:
            middle: Any = self.net.middle_block
            middle.attention = nn.Identity()
        self.net.time_embed = nn.Sequential(
            nn.Linear(embedding, 4 * channels[0]), nn.SiLU(), nn.Linear(4 * channels[0], 4 * channels[0])
        )
        self._first = channels[0]
        self._embedding = embedding

    @property
    def multiple(self) -> tuple[int, int, int]:
        return _grid(self.split, self.levels)

    @property
    def receptive_radius(self) -> int:
        positions = 2.0 + sum(2**level * (2 * (2 * self.blocks + 1) + 2) for level in range(self.levels))
        return int(positions) * max(self.split)

    def forward(self, x: Tensor, side: Tensor, embedding: Tensor) -> Tensor:
        net: Any = self.net
        w = haar(torch.cat([x, side], dim=1), self.split)
        # DiffusionModelUNet.forward embeds an integer timestep; ours is a real vector, so its stages are run here.
        e = net.time_embed(embedding)
        h = net.conv_in(w)
        skips = [h]
        for block in net.down_blocks:
            h, outputs = block(hidden_states=h, temb=e, context=None)
            skips.extend(outputs)
        h = net.middle_block(hidden_states=h, temb=e, context=None)
        for block in net.up_blocks:
            own = skips[-len(block.resnets) :]
            skips = skips[: -len(block.resnets)]
            h = block(hidden_states=h, res_hidden_states_list=own, temb=e, context=None)
        return inverse_haar(net.out(h).float(), self.split)


class NoNetwork(nn.Module):
    """A network that has learned nothing: its residual is zero, so that the reference is the estimate.

    It makes the classical reconstruction one more prior, run by the same code as the others.
    """

    multiple = (1, 1, 1)
    receptive_radius = 0

    def __init__(self) -> None:
        super().__init__()
        self.nothing = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, side: Tensor, embedding: Tensor) -> Tensor:  # noqa: ARG002 - the contract of networks
        return self.nothing * x


NETWORKS: dict[str, type[ResidualUNet | MonaiUNet]] = {"residual_unet": ResidualUNet, "monai_unet": MonaiUNet}


def build_network(kind: str, **options: Any) -> ResidualUNet | MonaiUNet:
    """A network by its name in a config.

    Raises:
        ConfigError: no such network.
    """
    if kind not in NETWORKS:
        raise ConfigError(f"unknown network {kind!r}; expected one of {', '.join(sorted(NETWORKS))}")
    return NETWORKS[kind](**options)
