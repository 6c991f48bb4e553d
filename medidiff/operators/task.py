"""What kind of damage an operator does, in a few numbers that a network can read.

The network is told what was lost, not how to undo it: the same numbers describe a simulated patch in training and a
patient's scan later.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

# Standard deviation of truth minus (cubic + exact projection) grows by this much for each doubling of the slice
# distance, in units of the head's 99.5th percentile; measured on the three training heads, within 15% from 2 to 7.
RESIDUAL_PER_DOUBLING = 0.032
# The same for CT that lacks views, at six doublings too few; measured on the two training scans within 20%.
RESIDUAL_OF_VIEWS = 0.12
# What a later look finds, over what the first found.
LATER_SCALE = 0.6
# Spread of head intensities around the value 0 that stands in for a missing reference.
UNCONDITIONAL_SCALE = 0.35
SMALLEST_SCALE = 0.008


@dataclass(frozen=True, slots=True)
class Task:
    """Damage in dimensionless numbers; the defaults describe an undamaged image.

    Args:
        factor: Slice distance over fine voxel size, at least 1.
        thickness: Slice thickness over slice distance.
        gaussian: 1 for a Gaussian slice profile, 0 for a box.
        acceleration: k-space samples wanted over samples taken, at least 1.
        noise: Standard deviation of the noise in the reference, model units.
        missing: Share of voxels that were not measured at all (inpainting), or of the half turn (limited-angle CT).
        sparse_views: CT views that were left out: doublings up to enough views, in sixths.
        reference: 1 where there is a reference at all, 0 for the unconditional prior; 2 where it is the network's own
            last answer, brought back to the data.
    """

    factor: float = 1.0
    thickness: float = 1.0
    gaussian: float = 0.0
    acceleration: float = 1.0
    noise: float = 0.0
    missing: float = 0.0
    sparse_views: float = 0.0
    reference: float = 1.0

    def vector(self) -> Float[Tensor, " 8"]:
        """The network's view of the task: every entry about 0 to 1."""
        return torch.tensor(
            [
                math.log2(self.factor) / 3,
                self.thickness,
                self.gaussian,
                math.log2(self.acceleration) / 3,
                10 * self.noise,
                self.missing,
                self.sparse_views,
                self.reference,
            ]
        )

    @property
    def scale(self) -> float:
        """Expected standard deviation of truth minus reference, model units."""
        if not self.reference:
            return UNCONDITIONAL_SCALE
        parts = (
            RESIDUAL_PER_DOUBLING * math.log2(self.factor),
            RESIDUAL_PER_DOUBLING * math.log2(self.acceleration),
            0.7 * self.noise,
            UNCONDITIONAL_SCALE * 0.4 * math.sqrt(self.missing),
            RESIDUAL_OF_VIEWS * self.sparse_views,
            SMALLEST_SCALE,
        )
        return math.hypot(*parts) * (LATER_SCALE if self.reference > 1 else 1.0)


NOTHING_KNOWN = Task(reference=0.0, thickness=0.0)
