"""ASTRA's strip projector for ``ParallelBeam``, where the toolbox is installed (``pip install astra-toolbox``).

The same weights as ours, in single precision, on the CPU; plane by plane, and without a matrix in memory. It is under
GPL-3 and brings CUDA libraries along, so it is nobody's default.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medidiff.errors import ConfigError


class AstraStrips:
    """Line integrals of one plane, by ASTRA.

    Args:
        plane: Pixels (i, j).
        angles, detectors, pitch, centre: As for ``ParallelBeam``.
    Raises:
        ConfigError: ASTRA is not installed, or its libraries are not found.
    """

    def __init__(
        self, plane: tuple[int, int], angles: Sequence[float], detectors: int, pitch: float, centre: float
    ) -> None:
        try:
            import astra  # type: ignore[import-untyped,import-not-found,unused-ignore]
        except ImportError as error:
            raise ConfigError(f"ASTRA cannot be used ({error}): pip install astra-toolbox") from error
        geometry = astra.create_proj_geom("parallel", pitch, detectors, np.asarray(angles))
        # ASTRA shifts the detector, we say where on it the axis lies; its rows count downwards, along our j.
        geometry = astra.geom_postalignment(geometry, -centre)
        volume = astra.create_vol_geom(plane[1], plane[0])
        self.plane, self.shape = plane, (len(angles), detectors)
        self._operator: Any = astra.OpTomo(astra.create_projector("strip", geometry, volume))

    def forward(self, columns: Tensor) -> Tensor:
        """Pixels, shape (i j, n), to rays, shape (views detectors, n)."""
        i, j = self.plane
        images = columns.detach().cpu().numpy().astype(np.float32).reshape(i, j, -1)
        rays = [self._operator.FP(np.ascontiguousarray(images[:, ::-1, n].T)).ravel() for n in range(images.shape[2])]
        return torch.from_numpy(np.stack(rays, axis=1)).to(columns)

    def adjoint(self, columns: Tensor) -> Tensor:
        """Rays, shape (views detectors, n), to pixels, shape (i j, n)."""
        rays = columns.detach().cpu().numpy().astype(np.float32).reshape(*self.shape, -1)
        images = [self._operator.BP(np.ascontiguousarray(rays[..., n])).T[:, ::-1] for n in range(rays.shape[2])]
        return torch.from_numpy(np.stack([image.ravel() for image in images], axis=1)).to(columns)
