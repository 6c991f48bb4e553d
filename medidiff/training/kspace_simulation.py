"""Simulated Cartesian under-sampling of whole image planes, for training.

Only for making training pairs: magnitude images are given a smooth phase and smooth coils, sampled, and brought back
by a few steps of conjugate gradients (SENSE), as a classical reconstruction would.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from medidiff.operators.base import conjugate_gradients
from medidiff.operators.task import Task

SENSE_STEPS = 8
SENSE_DAMPING = 0.01


@dataclass(frozen=True, slots=True)
class SimulatedKSpace:
    """Reference image, map of what is known, and the task; shapes (i, j, k), planes along k."""

    reference: Tensor
    known: Tensor
    task: Task


def draw_mask(shape: tuple[int, int], rng: np.random.Generator) -> tuple[np.ndarray, float]:
    """A random Cartesian mask and its acceleration: uniform, random or variable density, in one or two directions."""
    acceleration = float(np.exp(rng.uniform(np.log(2), np.log(8))))
    two = rng.random() < 0.4
    centre = rng.uniform(0.03, 0.1)
    axes = (0, 1) if two else (int(rng.integers(2)),)
    per_axis = acceleration ** (1 / len(axes))
    mask = np.ones(shape, dtype=bool)
    if two and rng.random() < 0.6:
        y, x = np.meshgrid(*(np.abs(np.fft.fftfreq(n)) for n in shape), indexing="ij")
        radius = np.hypot(x, y)
        density = (1 - radius / radius.max()) ** rng.uniform(1, 3)
        density *= shape[0] * shape[1] / acceleration / density.sum()
        mask = (rng.random(shape) < density) | (radius < centre / 2)
    else:
        for axis in axes:
            n = shape[axis]
            frequency = np.abs(np.fft.fftfreq(n))
            if rng.random() < 0.5:
                line = (np.arange(n) + int(rng.integers(8))) % max(2, round(per_axis)) == 0
            else:
                line = rng.random(n) < 1 / per_axis
            line |= frequency < centre / 2
            mask &= line[:, None] if axis == 0 else line[None, :]
    return mask, float(max(1.05, mask.size / max(1, mask.sum())))


@dataclass(frozen=True, slots=True)
class KSpaceRecipe:
    """One simulated acquisition of a plane: where it samples, what its coils see, what phase the tissue has."""

    mask: Tensor
    maps: Tensor
    phase: Tensor
    acceleration: float


class KSpaceBank:
    """Acquisitions drawn once for a run: drawing coils takes longer than a training step.

    Args:
        plane: Size of the image plane (i, j).
        count: How many acquisitions.
    """

    def __init__(self, plane: tuple[int, int], seed: int, device: torch.device, count: int) -> None:
        rng = np.random.default_rng(seed)
        self._recipes = [self._recipe(plane, rng, device) for _ in range(count)]

    def _recipe(self, plane: tuple[int, int], rng: np.random.Generator, device: torch.device) -> KSpaceRecipe:
        mask, acceleration = draw_mask(plane, rng)
        coils = 1 if rng.random() < 0.4 else int(rng.integers(4, 9))
        return KSpaceRecipe(
            torch.from_numpy(mask).to(device),
            coil_maps(plane, coils, rng).to(device),
            torch.exp(1j * smooth_phase(plane, rng)).to(device),
            acceleration,
        )

    def draw(self, rng: np.random.Generator) -> KSpaceRecipe:
        return self._recipes[int(rng.integers(len(self._recipes)))]


def undersample(
    block: Tensor, recipe: KSpaceRecipe, rng: np.random.Generator, generator: torch.Generator
) -> SimulatedKSpace:
    """Under-sample the planes (i, j) of a block and bring them back classically."""
    mask, maps = recipe.mask, recipe.maps
    planes = block.movedim(2, 0)[:, None] * recipe.phase
    noise = float(np.exp(rng.uniform(np.log(0.002), np.log(0.02)))) if rng.random() < 0.5 else 0.0

    def forward(x: Tensor) -> Tensor:
        samples: Tensor = torch.fft.fft2(maps * x, norm="ortho") * mask
        return samples

    def adjoint(y: Tensor) -> Tensor:
        combined: Tensor = (maps.conj() * torch.fft.ifft2(y * mask, norm="ortho")).sum(1, keepdim=True)
        return combined

    y = forward(planes)
    if noise:
        white = torch.randn((2, *y.shape), generator=generator, device=block.device)
        y = y + noise / math.sqrt(2) * torch.complex(white[0], white[1]) * mask
    image = adjoint(y)
    if maps.shape[0] > 1:
        image = conjugate_gradients(
            lambda x: adjoint(forward(x)) + SENSE_DAMPING * x, image, steps=SENSE_STEPS, tolerance=0.0
        )
    reference = image.abs()[:, 0].movedim(0, 2)
    known = torch.full_like(block, 1 / recipe.acceleration)
    return SimulatedKSpace(reference, known, Task(acceleration=recipe.acceleration, noise=noise))


def coil_maps(shape: tuple[int, int], coils: int, rng: np.random.Generator) -> Tensor:
    """Smooth coil sensitivities around the plane, normalised to unit root sum of squares, shape (coils, i, j)."""
    if coils == 1:
        return torch.ones(1, *shape, dtype=torch.complex64)
    y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    angles = 2 * np.pi * (np.arange(coils) + rng.uniform()) / coils
    reach = rng.uniform(0.6, 1.2)
    maps = np.stack(
        [
            np.exp(-((x - 1.2 * np.cos(a)) ** 2 + (y - 1.2 * np.sin(a)) ** 2) / (2 * reach**2))
            * np.exp(1j * (rng.uniform(-1, 1) * x + rng.uniform(-1, 1) * y + rng.uniform(0, 2 * np.pi)))
            for a in angles
        ]
    )
    maps /= np.sqrt((np.abs(maps) ** 2).sum(0))
    return torch.from_numpy(maps.astype(np.complex64))


def smooth_phase(shape: tuple[int, int], rng: np.random.Generator) -> Tensor:
    coarse = torch.from_numpy(rng.normal(0, 0.8, (1, 1, 4, 4))).float()
    return functional.interpolate(coarse, size=shape, mode="bicubic", align_corners=True)[0, 0]
