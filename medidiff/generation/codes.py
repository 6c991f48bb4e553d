"""How label maps and images become the channels of a generator, and how channels become them again.

A class of a label map becomes the signed distance to its border: smooth, so that noise and a network can handle it, and
with the map in its signs, so that it comes back exactly.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt

from medidiff.diffusion.generator import GeneratorSpec
from medidiff.errors import InputError


@dataclass(frozen=True, slots=True)
class LabelCodec:
    """Label maps to clipped signed distances in voxels, standardised, and back.

    Args:
        values: The label values, one channel each; 0 is background.
        clip: Distances beyond it are told as it.
        means, stds: Of each channel, voxels.
    """

    values: tuple[int, ...]
    clip: float
    means: tuple[float, ...]
    stds: tuple[float, ...]

    @classmethod
    def of(cls, spec: GeneratorSpec) -> LabelCodec:
        labels = spec.labels
        return cls(
            tuple(entry.value for entry in labels),
            spec.clip_voxels,
            tuple(entry.mean for entry in labels),
            tuple(entry.std for entry in labels),
        )

    def encode(self, labels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Channels of a label map, shape (i, j, k) to (l, i, j, k).

        Raises:
            InputError: a value that has no channel.
        """
        strange = sorted(set(np.unique(labels).tolist()) - {0, *self.values})
        if strange:
            text = ", ".join(str(value) for value in strange[:5])
            raise InputError(f"label values without a class: {text}; known are 0, {', '.join(map(str, self.values))}")
        channels = [signed_distance(labels == value, self.clip) for value in self.values]
        scaled = [(d - mean) / std for d, mean, std in zip(channels, self.means, self.stds, strict=True)]
        return np.asarray(scaled, dtype=np.float32).reshape(len(self.values), *labels.shape)

    def decode(self, channels: NDArray[np.floating]) -> NDArray[np.uint8]:
        """The label map of channels, shape (l, i, j, k) to (i, j, k): the deepest class, or background."""
        if not self.values:
            return np.zeros(channels.shape[1:], dtype=np.uint8)
        shape = (-1, 1, 1, 1)
        depth = channels * np.reshape(self.stds, shape) + np.reshape(self.means, shape)
        deepest = depth.argmax(0)
        found: NDArray[np.uint8] = np.where(depth.max(0) > 0, np.asarray(self.values, dtype=np.uint8)[deepest], 0)
        return found.astype(np.uint8)


def signed_distance(mask: NDArray[np.bool_], clip: float) -> NDArray[np.float32]:
    """Distance to the border in voxels, positive inside, clipped to +-clip; the border lies between two voxels."""
    if not mask.any():
        return np.full(mask.shape, -clip, dtype=np.float32)
    if mask.all():
        return np.full(mask.shape, clip, dtype=np.float32)
    inside, outside = distance_transform_edt(mask), distance_transform_edt(~mask)
    distance: NDArray[np.float32] = np.where(mask, inside - 0.5, 0.5 - outside).clip(-clip, clip).astype(np.float32)
    return distance
