"""Our diffusion model on images alone: ``GenerativeModel``, its loss, its noise levels and its sampler as they ship."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from benchmarks.generators.contestant import Contestant, adam, autocast, descend
from medidiff.diffusion.generator import GenerativeModel, GeneratorSpec
from medidiff.diffusion.network import build_network
from medidiff.diffusion.path import sigma_schedule
from medidiff.diffusion.sampler import multistep, sample
from medidiff.generation.draw import RHO, Sampling
from medidiff.training.generative import NoiseConfig, generative_loss

NETWORK = {"kind": "residual_unet", "channels": [32, 64, 128], "blocks": 1}
AT_ONCE = 16


class Diffusion(Contestant):
    """Settings: lr."""

    name: ClassVar[str] = "diffusion"

    def build(self) -> nn.ModuleDict:
        size = tuple(float(n) for n in self.shape)
        spec = GeneratorSpec(
            shape=self.shape, spacing_mm=(1.0, 1.0, 1.0), suffix="T1w", intensity_mean=self.scale.mean,
            intensity_std=self.scale.std, extent_mean=size, extent_covariance=((0.0,) * 3,) * 3, extent_low=self.shape,
        )  # fmt: skip
        sizes = {"image": spec.channels, "side": spec.side, "embedding": spec.embedding}
        model = GenerativeModel(build_network(**NETWORK, **sizes), spec)  # type: ignore[arg-type]
        self._optimizer = adam(model, 0.0, (0.9, 0.99))
        self._noise = NoiseConfig()
        return nn.ModuleDict({"denoiser": model})

    @property
    def drawing(self) -> nn.Module:
        return self.networks["denoiser"]

    @property
    def _model(self) -> GenerativeModel:
        return self.networks["denoiser"]  # type: ignore[return-value]

    def step(self, images: Tensor, rate: float, done: float, generator: torch.Generator) -> float:  # noqa: ARG002
        levels = self._noise.draw(len(images), generator)
        noise = torch.randn(images.shape, generator=generator)
        with autocast():
            loss = generative_loss(
                self._model, images, self._model.conditions([{}] * len(images)), levels, noise
            ).mean()
        descend(self._optimizer, loss, self.settings["lr"] * rate, clip=1.0)
        return float(loss.detach())

    def draw(self, count: int, generators: list[torch.Generator]) -> Tensor:
        model, drawn = self._model, []
        for start in range(0, count, AT_ONCE):
            some = generators[start : min(count, start + AT_ONCE)]
            denoiser = model.given(model.conditions([{}] * len(some)))
            levels = sigma_schedule(model.spec.sigma_min, model.spec.sigma_max, Sampling().steps, rho=RHO)
            with torch.no_grad(), autocast():
                drawn.append(sample(denoiser, (len(some), 1, *self.shape), levels, generators=some, solver=multistep))
        return torch.cat(drawn)
