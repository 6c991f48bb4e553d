"""What a header says, before a single voxel is read."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medidiff.geometry import Geometry
from medidiff.volume import Modality


@dataclass(frozen=True, slots=True)
class IntensityScaling:
    """Stored number to physical value: ``value = slope * stored + intercept``."""

    slope: float = 1.0
    intercept: float = 0.0

    @property
    def is_identity(self) -> bool:
        return self.slope == 1.0 and self.intercept == 0.0


@dataclass(frozen=True, slots=True)
class VolumeInfo:
    """A volume as its header describes it.

    Args:
        format: ``"nifti1"``, ``"nifti2"``, ``"mgh"``, ``"nrrd"`` or ``"dicom"``.
        geometry: Where the voxels lie, world RAS+ mm.
        frames: Number of channels or time points.
        dtype: Type of the stored numbers, as NumPy names it, e.g. ``"int16"``.
        modality: Best guess; only DICOM says it outright.
        slice_thickness: Nominal thickness of a slice, mm; None where the format has no place for it.
        scaling: Stored number to physical value.
        frame_step: Time between frames, s; None if unknown.
        notes: What a careful reader should know, one sentence each; no identifiers.
    """

    format: str
    geometry: Geometry
    frames: int
    dtype: str
    modality: Modality = Modality.MR
    slice_thickness: float | None = None
    scaling: IntensityScaling = IntensityScaling()
    frame_step: float | None = None
    notes: tuple[str, ...] = ()

    @property
    def bytes_needed(self) -> int:
        """Memory of the volume once read (float32)."""
        i, j, k = self.geometry.shape
        return self.frames * i * j * k * np.dtype(np.float32).itemsize
