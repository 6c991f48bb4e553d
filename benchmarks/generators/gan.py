"""A 3D WGAN-GP of MONAI's ``Generator`` and ``Critic``, on Haar bands.

The transform is orthonormal: the critic's slope in bands is its slope in voxels.
Source: Gulrajani et al. (2017), Improved Training of Wasserstein GANs, algorithm 1; the penalty is taken at every
fourth step of the critic and weighs four times as much there (Karras et al. 2020, Analyzing and Improving the Image
Quality of StyleGAN, sec. 3.1: the result is the same, the time is not); drift term of Karras et al. (2018), Progressive
Growing of GANs, appendix A.1.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from monai.networks.blocks import ResidualUnit, UpSample
from monai.networks.nets import Critic, Generator
from torch import Tensor, nn

from benchmarks.generators.contestant import Contestant, adam, autocast, descend
from medidiff.diffusion.haar import haar, inverse_haar

LATENT = 64
LAZY = 4
PENALTY, DRIFT = 10.0, 1e-3
LEAKY = ("leakyrelu", {"negative_slope": 0.2})


class SmoothGenerator(Generator):
    """MONAI's generator with its transposed convolutions replaced: theirs left a chequerboard in every image.

    A residual unit works at the coarse size, and what it made is enlarged linearly.
    Source: Odena et al. (2016), Deconvolution and Checkerboard Artifacts.
    """

    def _get_layer(self, in_channels: int, out_channels: int, strides: int, is_last: bool) -> nn.Sequential:
        unit = ResidualUnit(
            self.dimensions, in_channels, out_channels, 1, self.kernel_size, self.num_res_units,
            act=self.act, norm=self.norm, last_conv_only=is_last,
        )  # fmt: skip
        if strides == 1:
            return nn.Sequential(unit)
        return nn.Sequential(unit, UpSample(self.dimensions, out_channels, scale_factor=strides, mode="nontrainable"))


class WassersteinGAN(Contestant):
    """Settings: lr, critic_lr (times lr), critic_steps."""

    name: ClassVar[str] = "WGAN-GP"

    def build(self) -> nn.ModuleDict:
        i, j, k = (n // 2 for n in self.shape)
        start = (96, i // 4, j // 4, k // 4)
        draw = SmoothGenerator(
            (LATENT,), start, (64, 32, 8), (2, 2, 1), num_res_units=1, norm=("group", {"num_groups": 8}), act=LEAKY
        )
        judge = Critic((8, i, j, k), (48, 96, 96), (2, 2, 1), num_res_units=1, norm=None, act=LEAKY)
        betas = (0.0, 0.9)
        self._draws = adam(draw, 0.0, betas)
        self._judges = adam(judge, 0.0, betas)
        self._critic_steps = 0
        return nn.ModuleDict({"generator": draw, "critic": judge})

    @property
    def drawing(self) -> nn.Module:
        return self.networks["generator"]

    def step(self, images: Tensor, rate: float, done: float, generator: torch.Generator) -> float:  # noqa: ARG002
        """Some steps of the critic on this batch, each with fresh fakes, then one of the generator."""
        real = haar(images)
        lr = self.settings["lr"] * rate
        for _ in range(int(self.settings["critic_steps"])):
            with torch.no_grad():
                fake = self._fake(len(images), generator)
            loss = self._critic_loss(real, fake, generator)
            descend(self._judges, loss, lr * self.settings["critic_lr"])
        self.networks["critic"].requires_grad_(False)
        descend(self._draws, -self._score(self._fake(len(images), generator)).mean(), lr)
        self.networks["critic"].requires_grad_(True)
        return float(loss.detach())

    def _critic_loss(self, real: Tensor, fake: Tensor, generator: torch.Generator) -> Tensor:
        judged = self._score(torch.cat([fake, real]))
        loss = judged[: len(fake)].mean() - judged[len(fake) :].mean() + DRIFT * judged.square().mean()
        if self._critic_steps % LAZY == 0:
            loss = loss + LAZY * PENALTY * self._penalty(real, fake, generator)
        self._critic_steps += 1
        return loss

    def _penalty(self, real: Tensor, fake: Tensor, generator: torch.Generator) -> Tensor:
        """How far the slope of the critic is from 1 between real and fake."""
        share = torch.rand((len(real), 1, 1, 1, 1), generator=generator)
        between = (share * real + (1 - share) * fake).requires_grad_()
        (slope,) = torch.autograd.grad(self._score(between).sum(), between, create_graph=True)
        return (slope.flatten(1).norm(dim=1) - 1).square().mean()

    def _score(self, bands: Tensor) -> Tensor:
        with autocast():
            return self.networks["critic"](bands).float()

    def _fake(self, count: int, generator: torch.Generator) -> Tensor:
        return self._from(torch.randn(count, LATENT, generator=generator))

    def _from(self, latent: Tensor) -> Tensor:
        with autocast():
            bands = self.networks["generator"](latent)
        return self.scale.middle + bands.float() * self._bands

    @property
    def _bands(self) -> Tensor:
        return self.scale.bands.view(1, -1, 1, 1, 1)

    def draw(self, count: int, generators: list[torch.Generator]) -> Tensor:
        latent = torch.stack([torch.randn(LATENT, generator=g) for g in generators[:count]])
        with torch.no_grad():
            return inverse_haar(self._from(latent))
