"""One contract for everything that removes noise: ``D(x, sigma) = E[x0 | x0 + sigma n = x]``.

A network is preconditioned into that contract here, and the condition (a degraded reference and what is known about
it) is bound before sampling. Samplers and guidance see nothing but a ``Denoiser``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

# Length of ``Condition.task``; see ``medidiff.operators.task``.
TASK_SIZE = 8
# At and above this ratio of noise to signal the noisy image says nothing, and the network is not shown it: one
# evaluation then gives the posterior mean given the condition alone, deterministically.
BLIND_RATIO = 60.0
# Below this ratio the network was never trained: it is told this one, so that noise 0 is not log 0.
SMALLEST_RATIO = 1e-3
# sigma is multiplied and divided by the scale on its way here; rounding must not un-blind it.
BLIND_TOLERANCE = 1e-3


@runtime_checkable
class Denoiser(Protocol):
    """The posterior mean of a clean image given a noisy one, for noise between two levels."""

    @property
    def sigma_min(self) -> float: ...

    @property
    def sigma_max(self) -> float: ...

    @property
    def spread(self) -> float:
        """Standard deviation of the clean image before the noisy one is seen, model units."""
        ...

    def __call__(self, x: Float[Tensor, "b c i j k"], sigma: Float[Tensor, " b"]) -> Float[Tensor, "b c i j k"]: ...


@dataclass(frozen=True, slots=True)
class Condition:
    """What the network is told beside the noisy image.

    Args:
        reference: A classical reconstruction that agrees with the data, shape (b, 1, i, j, k), model units.
        known: How directly each voxel was measured, 0 to 1, same shape.
        task: What degraded the image, shape (b, TASK_SIZE).
        scale: Expected standard deviation of truth minus reference, shape (b,), model units.
    """

    reference: Tensor
    known: Tensor
    task: Tensor
    scale: Tensor

    def __getitem__(self, items: slice) -> Condition:
        return Condition(self.reference[items], self.known[items], self.task[items], self.scale[items])

    def crop(self, start: tuple[int, int, int], stop: tuple[int, int, int]) -> Condition:
        """The same condition for a box of voxels."""
        i, j, k = (slice(a, b) for a, b in zip(start, stop, strict=True))
        box = (..., i, j, k)
        return replace(self, reference=self.reference[box], known=self.known[box])

    def to(self, device: torch.device | str) -> Condition:
        return Condition(*(getattr(self, name).to(device) for name in ("reference", "known", "task", "scale")))


class Preconditioned(nn.Module):
    """A network as a denoiser of the residual to the reference, at unit variance.

    With ``u = (x0 - reference) / scale`` and ``s = sigma / scale``, the network ``F`` gives
    ``D = u_noisy / (1 + s^2) + s / sqrt(1 + s^2) F(u_noisy / sqrt(1 + s^2))``; as s grows, ``D`` becomes ``F`` alone.
    Source: Karras et al. (2022), Elucidating the Design Space of Diffusion-Based Generative Models, table 1, with
    sigma_data = 1.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    @property
    def multiple(self) -> tuple[int, int, int]:
        """The image's axes must be divisible by these."""
        i, j, k = self.network.multiple  # type: ignore[misc]
        return int(i), int(j), int(k)

    @property
    def planar(self) -> bool:
        """Planes along the last axis never meet in the network."""
        return bool(getattr(self.network, "planar", False))

    def forward(self, x: Tensor, sigma: Tensor, condition: Condition) -> Tensor:
        """Clean image, shape (b, 1, i, j, k), from a noisy one; ``sigma`` has shape (b,)."""
        scale = condition.scale.view(-1, 1, 1, 1, 1)
        u = (x - condition.reference) / scale
        return condition.reference + scale * self.denoise_residual(u, sigma / condition.scale, condition)

    def denoise_residual(self, u: Tensor, ratio: Tensor, condition: Condition) -> Tensor:
        """The same in residual units: ``u`` noisy with standard deviation ``ratio``."""
        s = ratio.view(-1, 1, 1, 1, 1)
        blind = s >= BLIND_RATIO * (1 - BLIND_TOLERANCE)
        u = torch.where(blind, torch.zeros_like(u), u)
        s = s.clamp(max=BLIND_RATIO)
        skip, inward = 1 / (1 + s**2), torch.rsqrt(1 + s**2)
        outward = torch.where(blind, torch.ones_like(s), s * inward)
        return torch.where(blind, 0.0, skip) * u + outward * self.raw(u * inward, ratio, condition)

    def raw(self, u: Tensor, ratio: Tensor, condition: Condition) -> Tensor:
        """The network itself, on an input of unit variance."""
        # log sigma / 4 as in EDM; the blind case has a place of its own at the end of the range.
        level = ratio.clamp(SMALLEST_RATIO, BLIND_RATIO).log() / 4
        embedding = torch.cat([level[:, None], condition.task], dim=1)
        side = torch.cat([condition.reference, condition.known], dim=1)
        out: Tensor = self.network(u, side, embedding)
        return out

    def given(self, condition: Condition) -> GivenDenoiser:
        """This model with a condition bound: a ``Denoiser``."""
        return GivenDenoiser(self, condition)


@dataclass(frozen=True, slots=True)
class GivenDenoiser:
    """A conditional model with its condition bound."""

    model: Preconditioned
    condition: Condition

    @property
    def sigma_min(self) -> float:
        return 0.005 * float(self.condition.scale.min())

    @property
    def sigma_max(self) -> float:
        return BLIND_RATIO * float(self.condition.scale.max())

    @property
    def spread(self) -> float:
        return float(self.condition.scale.max())

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        out: Tensor = self.model(x, sigma, self.condition)
        return out
