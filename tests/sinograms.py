"""Projections of a small phantom, as arrays and as a Data Exchange file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from medidiff.operators import ParallelBeam

VIEWS, ROWS, BINS = 45, 2, 48
BEAM, DARK = 20_000.0, 100.0


def phantom() -> np.ndarray:
    """Two off-centre discs, attenuation per pixel, shape (BINS, BINS)."""
    x, y = np.meshgrid(*(np.arange(BINS) - (BINS - 1) / 2,) * 2, indexing="ij")
    return 0.04 * ((x - 3) ** 2 + (y + 4) ** 2 < 144) + 0.05 * ((x + 2) ** 2 + (y - 5) ** 2 < 9)


def measured(centre: float, arc: float = 180.0, views: int = VIEWS) -> tuple[np.ndarray, np.ndarray]:
    """Line integrals (views, rows, bins) and angles in degrees."""
    degrees = np.arange(views) * arc / views
    operator = ParallelBeam((1, BINS, BINS, 1), np.deg2rad(degrees).tolist(), detectors=BINS, centre=centre)
    y = operator.forward(torch.from_numpy(phantom())[None, None, ..., None])[0, 0, :, :, 0].numpy()
    return np.repeat(y[:, None], ROWS, axis=1), degrees


def write_sinogram(path: Path, centre: float = 1.75, **changes: Any) -> Path:
    """A Data Exchange file of the phantom; what is None is left out."""
    import h5py

    integrals, degrees = measured(centre)
    content: dict[str, Any] = {
        "data": (DARK + (BEAM - DARK) * np.exp(-integrals)).astype(np.float32),
        "data_white": np.full((3, ROWS, BINS), BEAM, np.float32),
        "data_dark": np.full((3, ROWS, BINS), DARK, np.float32),
        "theta": degrees,
    } | changes
    with h5py.File(path, "w") as file:
        for name, value in content.items():
            if value is not None:
                file[f"exchange/{name}"] = value
    return path
