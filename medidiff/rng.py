"""Randomness: one seed gives one generator an item, so that results do not depend on the batch size."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import torch


def resolve_seed(seed: int | None) -> int:
    """The given seed, or a fresh one to be written beside the result. Zero is a seed like any other."""
    return secrets.randbelow(2**31) if seed is None else int(seed)


def derive_seed(seed: int, *path: int) -> int:
    """A child seed that depends on the parent and a path of indices (item, epoch, ...), collision-resistant."""
    return int(np.random.SeedSequence([seed, *path]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def generators(seed: int, count: int, device: str | torch.device = "cpu") -> list[torch.Generator]:
    """One independent generator for each of ``count`` items."""
    import torch

    return [torch.Generator(device=device).manual_seed(derive_seed(seed, item)) for item in range(count)]
