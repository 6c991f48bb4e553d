"""Small networks with known behaviour, and the shipped one with random weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from medidiff.diffusion.denoiser import Condition
from medidiff.diffusion.network import ResidualUNet


class Zero(nn.Module):
    """Says nothing: the preconditioned model is then the exact denoiser of a white Gaussian residual."""

    multiple = (1, 1, 1)

    def forward(self, x: Tensor, side: Tensor, embedding: Tensor) -> Tensor:
        return torch.zeros_like(x)


class Affine(nn.Module):
    """A pointwise network with two weights, for gradients that can be written down."""

    multiple = (1, 1, 1)

    def __init__(self, own: float = 0.3, side: float = -0.2) -> None:
        super().__init__()
        self.own, self.side = nn.Parameter(torch.tensor(own)), nn.Parameter(torch.tensor(side))

    def forward(self, x: Tensor, side: Tensor, embedding: Tensor) -> Tensor:
        return self.own * x + self.side * side[:, :1] + embedding[:, :1, None, None, None]


class Watched(nn.Module):
    """Passes everything on to a network, and remembers the largest image that it was shown."""

    def __init__(self, network: ResidualUNet) -> None:
        super().__init__()
        self.network, self.largest, self.calls = network, 0, 0

    @property
    def multiple(self) -> tuple[int, int, int]:
        return self.network.multiple

    def forward(self, x: Tensor, side: Tensor, embedding: Tensor) -> Tensor:
        self.largest = max(self.largest, x.shape[2:].numel())
        self.calls += 1
        return self.network(x, side, embedding)


def random_unet(channels: tuple[int, ...] = (8, 8), blocks: int = 1, seed: int = 0) -> ResidualUNet:
    """A residual U-Net in which every weight takes part; a fresh one is all zeros where it matters."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = ResidualUNet(channels, blocks)
        for module in network.modules():
            if isinstance(module, nn.Conv3d | nn.ConvTranspose3d | nn.Linear):
                nn.init.normal_(module.weight, std=0.7 * module.weight[0].numel() ** -0.5)
    return network.eval().requires_grad_(False)


def smooth_condition(shape: tuple[int, int, int], items: int = 1, scale: float = 0.1, seed: int = 0) -> Condition:
    """A condition with a smooth random reference, as a head has."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(items, 1, 5, 5, 5, generator=generator)
    reference = nn.functional.interpolate(coarse, size=shape, mode="trilinear", align_corners=True)
    known = torch.rand(items, 1, *shape, generator=generator)
    task = torch.rand(items, 8, generator=generator)
    return Condition(reference, known, task, torch.full((items,), scale))
