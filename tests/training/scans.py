"""A real head, small: what the training tests train on."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from medidiff.data.intensity import IntensityCodec
from medidiff.training.batches import BatchConfig, Batches, Shares
from medidiff.training.volumes import TrainingVolume
from medidiff.volume import Volume

CPU = torch.device("cpu")
EVERYTHING = Shares(slices=1, noise=1, inpaint=1, nothing=1, kspace=0.3)
TINY = {"kind": "residual_unet", "channels": [8], "blocks": 1}


def small_head(mni: Volume) -> np.ndarray:
    """The MNI head at 4 mm in model units, shape (50, 59, 48), float32."""
    data = mni.data[0, ::4, ::4, ::4].astype(np.float32)
    return np.ascontiguousarray(IntensityCodec.fit(data).encode(data))


def training_volume(data: np.ndarray, weight: float = 1.0) -> TrainingVolume:
    return TrainingVolume(torch.tensor(data).half(), np.argwhere(data > 0.15).astype(np.int16), weight, 0)


def label_volume(data: np.ndarray) -> TrainingVolume:
    labels = np.digitize(data, [0.1, 0.4, 0.7]).astype(np.uint8)
    return TrainingVolume(torch.from_numpy(labels), np.argwhere(labels > 0).astype(np.int16), 1.0, 3)


def tiny_batches(data: np.ndarray, seed: int = 0, shares: Shares = EVERYTHING, size: int = 3) -> Batches:
    config = BatchConfig(size=size, patch=16, line=32, plane=(16, 16, 8), operators=16, factors=(1.5, 5), shares=shares)
    return Batches([training_volume(data), label_volume(data)], config, seed, CPU)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def block(data: np.ndarray, shape: tuple[int, int, int] = (24, 24, 32)) -> Tensor:
    """The middle of the head."""
    box = tuple(slice((n - m) // 2, (n - m) // 2 + m) for n, m in zip(data.shape, shape, strict=True))
    return torch.from_numpy(data[box].copy())
