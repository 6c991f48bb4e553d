"""Random degradations: a clean patch goes in, the condition that the network will be given comes out.

Every draw is made on the host from one seeded NumPy generator, and applied deterministically on the device: the
parameters of a step can be printed, and a resumed run draws what the killed one would have drawn.

In the manner of Iglesias et al. (2021), Joint super-resolution and synthesis of 1 mm isotropic MP-RAGE volumes from
clinical MRI exams with scans of different orientation, resolution and contrast (SynthSR).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from medidiff.operators.mask import smooth_fill
from medidiff.operators.slices import Profile, SliceOperator, SliceProfile, slice_task
from medidiff.operators.task import Task


@dataclass(frozen=True, slots=True)
class Degraded:
    """One item of a training batch: what the network is told, and the truth cut to the same box."""

    truth: Tensor
    reference: Tensor
    known: Tensor
    task: Task


def draw_profile(rng: np.random.Generator, low: float, high: float) -> SliceProfile:
    """Slice distance log-uniform; half of the stacks touch, a third leave gaps, the rest overlap."""
    factor = float(np.exp(rng.uniform(np.log(low), np.log(high))))
    if rng.random() < 0.4:
        factor = max(2.0, float(round(factor)))
    touch = rng.random()
    ratio = 1.0 if touch < 0.55 else rng.uniform(0.6, 1.0) if touch < 0.88 else rng.uniform(1.0, 1.25)
    kind: Profile = "box" if rng.random() < 0.5 else "gaussian"
    return SliceProfile(factor, factor * ratio, kind)


@dataclass(frozen=True, slots=True)
class SliceRecipe:
    """A slice operator reduced to what a training step needs of it."""

    weights: Tensor
    reference: Tensor
    closeness: Tensor
    task: Task


class SliceBank:
    """Slice operators drawn once for a run: factorising one takes longer than training on it.

    Args:
        length: Fine voxels along the slice axis of a block.
        factors: Smallest and largest slice distance.
        count: How many operators; several hundred cover factors, profiles and gaps densely.
    """

    def __init__(self, length: int, factors: tuple[float, float], seed: int, device: torch.device, count: int) -> None:
        rng = np.random.default_rng(seed)
        self.length = length
        self._recipes = [self._recipe(draw_profile(rng, *factors), device) for _ in range(count)]

    def _recipe(self, profile: SliceProfile, device: torch.device) -> SliceRecipe:
        operator = SliceOperator((1, 1, 1, self.length), 2, profile)
        task = slice_task(profile)
        tensors = (operator.weights, operator.reference_matrix, operator.closeness())
        weights, reference, closeness = (tensor.float().to(device) for tensor in tensors)
        return SliceRecipe(weights, reference, closeness, task)

    def draw(self, rng: np.random.Generator) -> SliceRecipe:
        return self._recipes[int(rng.integers(len(self._recipes)))]


def degrade_slices(
    line: Tensor, recipe: SliceRecipe, rng: np.random.Generator, window: int, generator: torch.Generator
) -> Degraded:
    """Thick slices along the last axis of a long block; a window of it is returned.

    Args:
        line: Clean block, shape (i, j, bank length).
        window: Length to keep along k, drawn anywhere: at the block's end the network meets the end of a scan.
    """
    noise = float(np.exp(rng.uniform(np.log(0.003), np.log(0.04)))) if rng.random() < 0.3 else 0.0
    y = line @ recipe.weights.T
    if noise:
        y = rician(y, noise, generator)
    start = int(rng.integers(0, line.shape[2] - window + 1))
    box = slice(start, start + window)
    reference = y @ recipe.reference[box].T
    known = recipe.closeness[box].expand_as(reference)
    return Degraded(line[..., box], reference, known, replace(recipe.task, noise=noise))


def degrade_noise(patch: Tensor, rng: np.random.Generator, generator: torch.Generator) -> Degraded:
    """Gaussian or Rician noise on every voxel."""
    noise = float(np.exp(rng.uniform(np.log(0.01), np.log(0.15))))
    if rng.random() < 0.5:
        noisy = rician(patch, noise, generator)
    else:
        noisy = patch + noise * torch.randn(patch.shape, generator=generator, device=patch.device)
    return Degraded(patch, noisy, torch.ones_like(patch), Task(noise=noise))


def degrade_inpaint(patch: Tensor, rng: np.random.Generator) -> Degraded:
    """Ellipsoids or whole slices are lost; the reference fills them smoothly from their surroundings."""
    mask = torch.ones_like(patch)
    if rng.random() < 0.4:
        axis, width = int(rng.integers(3)), int(rng.integers(2, 9))
        start = int(rng.integers(0, patch.shape[axis] - width))
        mask.narrow(axis, start, width).zero_()
    else:
        grids = torch.meshgrid(*(torch.arange(n, device=patch.device) for n in patch.shape), indexing="ij")
        for _ in range(int(rng.integers(1, 4))):
            radii, centre = rng.uniform(3, 14, 3), rng.uniform(0, 1, 3) * np.array(patch.shape)
            distance = sum(((g - float(c)) / float(r)) ** 2 for g, c, r in zip(grids, centre, radii, strict=True))
            mask = mask * (distance > 1)
    missing = float(1 - mask.mean())
    return Degraded(patch, smooth_fill(patch * mask, mask), mask, Task(missing=missing))


def rician(x: Tensor, std: float, generator: torch.Generator) -> Tensor:
    """Magnitude of a complex signal with Gaussian noise in both parts (Gudbjartsson & Patz 1995)."""
    noise = std * torch.randn((2, *x.shape), generator=generator, device=x.device, dtype=x.dtype)
    return torch.hypot(x + noise[0], noise[1])
