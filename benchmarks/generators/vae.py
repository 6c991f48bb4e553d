"""A 3D VAE: MONAI's ``VarAutoEncoder`` with a noise level that is learned, on Haar bands.

The decoder's noise is the mean error of the batch, so that reconstruction and Kullback-Leibler term are weighed as the
likelihood says and need no weight found by hand; tuning may still change it. The transform is orthonormal: the error in
bands is the error in voxels.
Source: Kingma & Welling (2014), Auto-Encoding Variational Bayes; Rybkin et al. (2021), Simple and Effective VAE
Training with Calibrated Decoders, sec. 3.2.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from monai.networks.nets import VarAutoEncoder
from torch import Tensor, nn

from benchmarks.generators.contestant import Contestant, adam, autocast, descend
from medidiff.diffusion.haar import haar, inverse_haar

LATENT = 64
# Share of the time over which the Kullback-Leibler term grows to its weight: from the start it would silence the code.
WARM_UP = 0.2


class VariationalAutoencoder(Contestant):
    """Settings: lr, kl (weight of the Kullback-Leibler term; 1 is the likelihood's own)."""

    name: ClassVar[str] = "VAE"

    def build(self) -> nn.ModuleDict:
        size = tuple(n // 2 for n in self.shape)
        norm = ("group", {"num_groups": 8})
        network = VarAutoEncoder(
            3, (8, *size), 8, LATENT, (32, 64, 128, 16), (2, 2, 1, 1), num_res_units=1, norm=norm,
            act=("swish", {}), use_sigmoid=False,
        )  # fmt: skip
        self._optimizer = adam(network, 0.0, (0.9, 0.99))
        return nn.ModuleDict({"autoencoder": network})

    @property
    def drawing(self) -> nn.Module:
        return self.networks["autoencoder"]

    def step(self, images: Tensor, rate: float, done: float, generator: torch.Generator) -> float:
        bands = haar(images)
        with autocast():
            mean, log_variance = self.networks["autoencoder"].encode_forward(bands / self._bands)
        mean, log_variance = mean.float(), log_variance.float().clamp(-12, 12)
        latent = mean + torch.exp(0.5 * log_variance) * torch.randn(mean.shape, generator=generator)
        error = (self._from(latent) - bands).square().mean()
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1).mean()
        weight = self.settings["kl"] * min(1.0, done / WARM_UP)
        # Negative log-likelihood a voxel, up to a constant.
        loss = 0.5 * error.log() + weight * divergence / images[0].numel()
        descend(self._optimizer, loss, self.settings["lr"] * rate, clip=1.0)
        return float(loss.detach())

    def _from(self, latent: Tensor) -> Tensor:
        with autocast():
            bands = self.networks["autoencoder"].decode_forward(latent, use_sigmoid=False)
        return self.scale.middle + bands.float() * self._bands

    @property
    def _bands(self) -> Tensor:
        return self.scale.bands.view(1, -1, 1, 1, 1)

    def draw(self, count: int, generators: list[torch.Generator]) -> Tensor:
        latent = torch.stack([torch.randn(LATENT, generator=g) for g in generators[:count]])
        with torch.no_grad():
            return inverse_haar(self._from(latent))
