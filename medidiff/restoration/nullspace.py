"""What the data fixes in an image, and what comes from the prior: its range and null space parts.

With the pseudo-inverse ``A+`` of an operator every image is ``x = A+ A x + (x - A+ A x)``. The first part is the same
for every image that reproduces the measurements. The second changes no measurement: interpolation put it there, or a
network did, and no scan of this kind can contradict it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[Any]


class Projectable(Protocol):
    """A linear operator whose Gram matrix can be inverted."""

    def forward(self, x: Tensor) -> Tensor: ...
    def adjoint(self, y: Tensor) -> Tensor: ...
    def solve_gram(self, r: Tensor, damping: float | Tensor) -> Tensor: ...


@runtime_checkable
class Splits(Protocol):
    """A job that can say what its measurements fix."""

    def exact_operators(self) -> Sequence[Projectable]:
        """The operators that bind, for one frame, as ``fixed_by_data`` takes them; none where noise is expected."""
        ...


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where an image comes from.

    Args:
        from_prior: The part that no measurement fixes, signed, shape (c, i, j, k), the image's units.
        share: Its energy over that of the image's contrast (the image less its mean), 0 to 1: all of what the data
            does not fix.
        learned_share: Likewise of what the network changed in the classical answer.
    """

    from_prior: Array
    share: float
    learned_share: float

    def record(self) -> dict[str, float]:
        """The shares alone, for a JSON record."""
        return {name: value for name, value in asdict(self).items() if isinstance(value, float)}


def fixed_by_data(operators: Sequence[Projectable], x: Tensor) -> Tensor:
    """``A+ A x`` for ``A = operators[0] @ operators[1] @ ...``, shape of ``x``.

    Exact for one operator, and for several along different axes, whose product's pseudo-inverse is the product of
    theirs.

    Args:
        operators: As the scan was measured: the last one acts on the image first. None measures everything.
        x: Image, shape (b, c, i, j, k); complex where the measurements are.
    Source: Wang et al. (2023), Zero-Shot Image Restoration Using Denoising Diffusion Null-Space Model, eq. (5).
    """
    y = x
    for operator in reversed(operators):
        y = operator.forward(y)
    for operator in operators:
        y = operator.adjoint(operator.solve_gram(y, 0.0))
    return y


@torch.no_grad()
def provenance(operators: Sequence[Projectable], mean: Array, baseline: Array) -> Provenance:
    """Split a result into what the data fixes and what the prior adds.

    Args:
        operators: See ``fixed_by_data``.
        mean: The result, shape (c, i, j, k); every frame was measured alike.
        baseline: The classical answer to the same measurements, same shape.
    """
    from_prior = np.empty(mean.shape, dtype=np.float32)
    for frame, out in zip(mean, from_prior, strict=True):
        x = torch.from_numpy(np.ascontiguousarray(frame, dtype=np.float32))[None, None]
        out[...] = (x - fixed_by_data(operators, x))[0, 0].numpy()
    contrast = _energy(mean - mean.mean(axis=(1, 2, 3), keepdims=True, dtype=np.float64))
    return Provenance(
        from_prior,
        share=_share(_energy(from_prior), contrast),
        learned_share=_share(_energy(mean.astype(np.float64) - baseline), contrast),
    )


def _energy(x: Array) -> float:
    return float(np.sum(np.square(x, dtype=np.float64)))


def _share(part: float, whole: float) -> float:
    return min(1.0, part / whole) if whole > 0 else 0.0
