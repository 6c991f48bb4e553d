"""The scans that a training run sees, conformed once and held in memory.

MONAI's ``CacheDataset`` and transforms read, orient and normalise; from then on a scan is a half-precision tensor
in model units on the training device.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from medidiff.config import Config
from medidiff.data.intensity import IntensityCodec
from medidiff.errors import ConfigError

FOREGROUND_POINTS = 100_000


class Source(Config):
    """Files of one kind in a training set; no person in them may be the one of the validation."""

    files: str = Field(description="glob below the data root")
    kind: Literal["image", "labels"] = "image"
    weight: float = Field(1.0, gt=0, description="share of patches, for each file")
    zooms: tuple[float, ...] = Field((1.0,), description="sizes at which a scan is also shown; below 1 is coarser")


@dataclass(frozen=True, slots=True)
class TrainingVolume:
    """One conformed scan.

    Args:
        data: Model units (or label numbers), shape (i, j, k), axes nearest to R, A, S.
        foreground: Voxel indices inside the head, shape (n, 3); patches are centred on them.
        labels: Highest label number, 0 for an image.
    """

    data: Tensor
    foreground: np.ndarray
    weight: float
    labels: int


def list_files(root: Path, sources: Sequence[Source]) -> list[dict[str, Any]]:
    """Records for MONAI's datasets: one for each file and zoom.

    Raises:
        ConfigError: a pattern matches nothing.
    """
    records: list[dict[str, Any]] = []
    for source in sources:
        paths = sorted(root.glob(source.files))
        if not paths:
            raise ConfigError(f"training data: no file matches {source.files!r} below the data root; see configs/")
        records += [
            {"path": path, "kind": source.kind, "weight": source.weight / len(source.zooms), "zoom": zoom}
            for path in paths
            for zoom in source.zooms
        ]
    return records


def conform(record: dict[str, Any]) -> dict[str, Any]:
    """Read one file, lay its axes to R, A, S, bring it to model units, resize it."""
    from scipy.ndimage import zoom

    from medidiff.io import read_volume

    volume = read_volume(record["path"]).reoriented()
    data = volume.data[0]
    if record["kind"] == "labels":
        data = compact_labels(data)
    else:
        data = IntensityCodec.fit(data, volume.modality).encode(data.astype(np.float32))
        if record["zoom"] != 1.0:
            # Quintic splines hardly blur; a coarser copy is a sharper head with less noise a voxel.
            data = zoom(data, record["zoom"], order=5, mode="nearest", grid_mode=True).astype(np.float32)
    return {**record, "data": np.ascontiguousarray(data)}


def compact_labels(data: np.ndarray) -> np.ndarray:
    """Label numbers 0, 1, 2, ... in the order of the original ones; counting is faster than sorting a volume."""
    labels = np.rint(data).astype(np.int64)
    present = np.bincount(labels.reshape(-1)) > 0
    return np.asarray((np.cumsum(present) - 1)[labels], dtype=np.uint8)


def crop_to_head(data: np.ndarray, margin: int = 8) -> np.ndarray:
    """Cut away empty air around the head, but for a margin."""
    inside = data > (0 if data.dtype == np.uint8 else 0.12)
    box = []
    for axis in range(3):
        occupied = np.flatnonzero(inside.any(axis=tuple(a for a in range(3) if a != axis)))
        low, high = (0, data.shape[axis] - 1) if occupied.size == 0 else (occupied[0], occupied[-1])
        box.append(slice(max(0, low - margin), high + margin + 1))
    return data[tuple(box)]


def load_volumes(root: Path, sources: Sequence[Source], device: torch.device) -> list[TrainingVolume]:
    """Everything a run trains on, conformed and on the device."""
    from monai.data.dataset import CacheDataset
    from monai.transforms.compose import Compose
    from monai.transforms.utility.array import Lambda

    records = list_files(root, sources)
    dataset = CacheDataset(
        records, Compose([Lambda(conform)]), num_workers=min(16, os.cpu_count() or 1), progress=False
    )
    rng = np.random.default_rng(0)
    volumes = []
    for index in range(len(dataset)):
        item = dataset[index]
        data = crop_to_head(item["data"])
        points = np.argwhere(data > (0 if data.dtype == np.uint8 else 0.15)).astype(np.int16)
        points = points[rng.permutation(len(points))[:FOREGROUND_POINTS]]
        is_labels = item["kind"] == "labels"
        tensor = torch.from_numpy(data).to(device, torch.uint8 if is_labels else torch.float16)
        volumes.append(TrainingVolume(tensor, points, item["weight"], int(data.max()) if is_labels else 0))
    return volumes
