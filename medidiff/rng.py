"""Randomness: one seed gives one generator an item, so that results do not depend on the batch size."""

from __future__ import annotations

import secrets
from hashlib import blake2b
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def resolve_seed(seed: int | None) -> int:
    """The given seed, or a fresh one to be written beside the result. Zero is a seed like any other."""
    return secrets.randbelow(2**31) if seed is None else int(seed)


def derive_seed(seed: int, *path: int) -> int:
    """A child seed that depends on the parent and a path of indices (item, epoch, ...), collision-resistant.

    A hash and not ``numpy.random.SeedSequence``, which pads with zeros: there (5,), (5, 0) and (5, 0, 0) are one seed.
    """
    name = "/".join(str(int(part)) for part in (seed, *path))
    return int.from_bytes(blake2b(name.encode("ascii"), digest_size=8).digest(), "big") >> 1


def generators(seed: int, count: int, device: str | torch.device = "cpu") -> list[torch.Generator]:
    """One independent generator for each of ``count`` items."""
    import torch

    return [torch.Generator(device=device).manual_seed(derive_seed(seed, item)) for item in range(count)]
