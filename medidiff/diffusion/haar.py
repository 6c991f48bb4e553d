"""The orthonormal 3D Haar transform: eight bands at half the resolution, and back, without loss.

A network on the bands has 8x fewer positions to visit and sees twice as far. Because the transform is orthonormal,
white noise stays white and a mean squared error is the same on both sides. Splitting an axis by 4 instead of 2 is
the two-level packet (Walsh-Hadamard) transform along it.

Source: Haar (1910), Math. Ann. 69, 331; Coifman & Wickerhauser (1992), IEEE Trans. Inf. Theory 38, 713 (packets).
"""

from __future__ import annotations

from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor

from medidiff.errors import GeometryError

Split = tuple[int, int, int]


@cache
def _matrix(split: Split) -> Tensor:
    """Orthonormal Walsh-Hadamard matrix of one block of voxels, shape (bands, bands)."""
    step = torch.tensor([[1.0, 1.0], [1.0, -1.0]], dtype=torch.float64) / 2**0.5
    matrix = torch.ones(1, 1, dtype=torch.float64)
    for size in split:
        if size not in (1, 2, 4):
            raise GeometryError(f"an axis is split by 1, 2 or 4, got {size}")
        for _ in range(size.bit_length() - 1):
            matrix = torch.kron(matrix, step)
    return matrix


def bands(split: Split) -> int:
    """Number of bands that one channel becomes."""
    return split[0] * split[1] * split[2]


def haar(x: Float[Tensor, "b c i j k"], split: Split = (2, 2, 2)) -> Float[Tensor, "b c_bands i2 j2 k2"]:
    """Image to bands, channels (c, band) with the mean band first.

    Raises:
        GeometryError: an axis is not divisible by its split.
    """
    b, c, *size = x.shape
    if any(n % s for n, s in zip(size, split, strict=True)):
        raise GeometryError(f"axes {tuple(size)} must be divisible by the Haar split {split}")
    i, j, k = (n // s for n, s in zip(size, split, strict=True))
    blocks = x.reshape(b, c, i, split[0], j, split[1], k, split[2]).permute(0, 1, 3, 5, 7, 2, 4, 6)
    blocks = blocks.reshape(b, c, bands(split), i, j, k)
    return torch.einsum("qp,bcpijk->bcqijk", _matrix(split).to(x), blocks).reshape(b, -1, i, j, k)


def inverse_haar(w: Float[Tensor, "b c_bands i2 j2 k2"], split: Split = (2, 2, 2)) -> Float[Tensor, "b c i j k"]:
    """Bands back to the image."""
    b, channels, i, j, k = w.shape
    c = channels // bands(split)
    blocks = torch.einsum("qp,bcqijk->bcpijk", _matrix(split).to(w), w.reshape(b, c, bands(split), i, j, k))
    blocks = blocks.reshape(b, c, *split, i, j, k).permute(0, 1, 5, 2, 6, 3, 7, 4)
    return blocks.reshape(b, c, i * split[0], j * split[1], k * split[2])
