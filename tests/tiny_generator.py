"""A generator file with random weights, and people who never were: quick, and true of any generator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from medidiff.data.cohort import People, Person, centred_grid
from medidiff.diffusion.generator import (
    CategoricalCondition,
    GenerativeModel,
    GeneratorSpec,
    LabelChannel,
    NumericCondition,
    save_generator,
)
from medidiff.diffusion.network import build_network

SHAPE = (16, 20, 12)
SPEC = GeneratorSpec(
    shape=SHAPE,
    spacing_mm=(1.0, 1.5, 2.0),
    suffix="T1w",
    intensity_mean=0.5,
    intensity_std=0.2,
    labels=(
        LabelChannel(value=1, name="front", mean=-3.0, std=1.2),
        LabelChannel(value=2, name="back", mean=-3.1, std=1.1),
    ),
    conditions=(
        NumericCondition(name="volume_ml", mean=0.5, std=0.1, low=0.3, high=0.8),
        NumericCondition(name="age", mean=45, std=12, low=20, high=80),
        CategoricalCondition(name="sex", values=("female", "male")),
    ),
    extent_mean=(13.0, 17.0, 10.0),
    extent_covariance=((2.0, 0.3, 0.0), (0.3, 3.0, 0.0), (0.0, 0.0, 1.0)),
    extent_low=(9, 12, 8),
)
NETWORK: dict[str, Any] = {
    "kind": "residual_unet",
    "channels": [8, 8],
    "blocks": 1,
    "image": SPEC.channels,
    "side": SPEC.side,
    "embedding": SPEC.embedding,
}
CARD: dict[str, Any] = {
    "summary": "Random weights, for tests",
    "sources": [{"name": "nobody", "licence": "CC0-1.0", "people": 0}],
    "samples_licence": "CC0-1.0",
    "training_split_sha256": "0" * 64,
    "public_conditions": ["volume_ml"],
    "body_part": "BRAIN",
}


def tiny_model(seed: int = 0, size: float = 0.15) -> GenerativeModel:
    """A generator whose answers are arbitrary, but depend on all that it is told."""
    model = GenerativeModel(build_network(**NETWORK), SPEC)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(size * torch.randn(parameter.shape, generator=generator))
    return model.eval().requires_grad_(False)


def write_tiny_generator(path: Path, seed: int = 0, card: dict[str, Any] | None = None) -> Path:
    save_generator(path, NETWORK, SPEC, tiny_model(seed).state_dict(), CARD if card is None else card)
    return path


def label_map(seed: int, shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    """Two touching lobes, another pair for each seed."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), axis=-1)
    centre = np.array(shape) / 2 + rng.uniform(-1, 1, 3)
    body = (((grid - centre) / (np.array(shape) * rng.uniform(0.22, 0.32, 3))) ** 2).sum(-1) < 1
    return np.where(body, np.where(grid[..., 1] > centre[1], 1, 2), 0).astype(np.uint8)


def made_up_people(count: int, seed: int = 0) -> People:
    """Bright lobes on a dark ground, in boxes of several sizes."""
    rng = np.random.default_rng(seed)
    labels = np.stack([label_map(seed + place)[None] for place in range(count)])
    noise = rng.normal(0, 0.03, labels.shape)
    images = (0.3 + 0.4 * (labels == 1) + 0.2 * (labels == 2) + noise).astype(np.float32)
    inside = np.zeros(labels.shape, dtype=bool)
    for place in range(count):
        low = rng.integers(0, 2, 3)
        inside[place, 0, low[0] :, low[1] :, low[2] :] = True
    persons = tuple(Person(place, Path(f"p{place}.nii.gz")) for place in range(count))
    return People(images, labels, inside, centred_grid(SHAPE, SPEC.spacing_mm), persons)
