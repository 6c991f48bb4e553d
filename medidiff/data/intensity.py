"""Physical values to model units and back: one affine map for a scan, folded in once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medidiff.errors import InputError
from medidiff.volume import Modality

# The bright end is a percentile of the head, not the maximum: a single hot voxel (vessel, artefact) must not set
# the contrast of the whole scan.
BRIGHT_PERCENTILE = 99.5
CT_AIR_HU, CT_WINDOW_HU = -1024.0, 2048.0
# A histogram needs no more voxels than this, and a 4D scan has many.
HISTOGRAM_VOXELS = 2_000_000


@dataclass(frozen=True, slots=True)
class IntensityCodec:
    """``model = (physical - offset) / scale``.

    Args:
        scale: Physical units for one model unit, positive.
        offset: Physical value of model zero.
    """

    scale: float
    offset: float = 0.0

    def encode(self, physical: Any) -> Any:
        """Physical to model units; arrays and tensors alike."""
        return (physical - self.offset) / self.scale

    def decode(self, model: Any) -> Any:
        """Model to physical units."""
        return model * self.scale + self.offset

    @classmethod
    def fit(cls, data: NDArray[Any], modality: Modality = Modality.MR) -> IntensityCodec:
        """Choose the map from the scan: MR by its own foreground, CT by the Hounsfield scale.

        Args:
            data: Values in physical units, any shape.
        Raises:
            InputError: the data is constant or has nothing finite.
        """
        if modality is Modality.CT:
            return cls(CT_WINDOW_HU, CT_AIR_HU)
        values = np.asarray(data).reshape(-1)
        values = values[:: max(1, values.size // HISTOGRAM_VOXELS)]
        values = values[np.isfinite(values)].astype(np.float64)
        if values.size == 0 or values.min() == values.max():
            raise InputError("the image is constant or empty: there is nothing to restore")
        low = float(np.percentile(values, 0.1))
        # Magnitude images start at zero; a stored offset (some exports) is taken off, noise below zero is not.
        offset = low if low > 0.2 * np.median(values) and low > 0 else min(0.0, low)
        threshold = _otsu(values)
        bright = values[values > (threshold + offset) / 2]
        scale = float(np.percentile(bright, BRIGHT_PERCENTILE)) - offset
        return cls(scale, float(offset))


def _otsu(values: NDArray[Any]) -> float:
    from skimage.filters import threshold_otsu

    return float(threshold_otsu(values))
