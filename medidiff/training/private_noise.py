"""Randomness that nobody can guess and a resumed run can repeat: who takes part in a step, and the noise it adds.

A guarantee of privacy holds only while the noise is unknown. So it does not come from the seed of the configuration,
which is no secret, but from a key of 256 random bits that never leaves the training state, stretched by SHAKE-256.
"""

from __future__ import annotations

import hashlib
import math
import secrets
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from opacus.optimizers import DPOptimizer
from scipy.special import ndtri
from torch import Tensor

KEY_BYTES = 32
# Added up for each number, so that its last bits do not tell which floats the noise was made of.
# Source: Holohan & Braghin (2021), Secure Random Sampling in Differential Privacy, sec. 5.1.
SUMMANDS = 4


def new_key() -> bytes:
    """A key for one run."""
    return secrets.token_bytes(KEY_BYTES)


def uniform(key: bytes, purpose: str, path: Sequence[int], count: int) -> NDArray[np.float64]:
    """Numbers in (0, 1), each of 53 bits, a function of key, purpose and path."""
    name = "/".join([purpose, *(str(int(part)) for part in path)])
    stream = hashlib.shake_256(key + name.encode("ascii")).digest(8 * count)
    bits = np.frombuffer(stream, dtype="<u8") >> np.uint64(11)
    return (bits.astype(np.float64) + 0.5) * 2.0**-53


def normal(key: bytes, path: Sequence[int], shape: Sequence[int]) -> Tensor:
    """White noise of unit variance, float64."""
    parts = ndtri(uniform(key, "noise", path, SUMMANDS * math.prod(shape)))
    return torch.from_numpy(parts.reshape(SUMMANDS, *shape).sum(0) / math.sqrt(SUMMANDS))


def taking_part(key: bytes, step: int, people: int, sampling: float) -> list[int]:
    """Who takes part in a step: each of them by a draw of their own (Poisson sampling)."""
    drawn = uniform(key, "people", (step,), people) < sampling
    return [int(person) for person in np.flatnonzero(drawn)]


class KeyedOptimizer(DPOptimizer):  # type: ignore[misc]
    """Opacus' clipping and averaging, with noise that a key makes.

    People are handed in one after another by ``contribute``, so that memory does not grow with them; ``finish`` adds
    the noise once and takes the step, also where nobody was drawn.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, key: bytes, **options: Any) -> None:
        super().__init__(optimizer, **options)
        self.key, self.at = key, 0

    def contribute(self, gradient: Sequence[Tensor]) -> None:
        """Clip the gradient of one person and add it to the sum."""
        for parameter, part in zip(self.params, gradient, strict=True):
            parameter.grad_sample = part[None]
        self.signal_skip_step(True)
        self.step()
        self.zero_grad()

    def finish(self, step: int) -> None:
        """Noise, the mean over the people that were to be expected, and the optimiser's step."""
        for parameter in self.params:
            parameter.grad_sample = parameter.new_zeros((0, *parameter.shape))
        self.at = step
        self.step()

    def add_noise(self) -> None:
        for place, parameter in enumerate(self.params):
            noise = normal(self.key, (self.at, place), parameter.shape).to(parameter.device)
            total = parameter.summed_grad.double() + self.noise_multiplier * self.max_grad_norm * noise
            parameter.grad = total.to(parameter.dtype).view_as(parameter)
