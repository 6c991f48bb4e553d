"""What a set of images is worth, by metrics of sets, in two spaces of features that no contestant has seen."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.decomposition import PCA

from medidiff.metrics.features import Encoder
from medidiff.metrics.sets.diversity import ms_ssim_pairs
from medidiff.metrics.sets.kernels import kid, rbf_mmd
from medidiff.metrics.sets.manifolds import coverage, density, precision, recall

Array = NDArray[Any]
COMPONENTS = 32
SETS = ("kid", "mmd", "precision", "recall", "density", "coverage")


@dataclass(frozen=True, slots=True)
class Principal:
    """Principal components of the training images, at unit variance: a space that nothing was learned for."""

    components: PCA

    @classmethod
    def of(cls, images: Array, count: int = COMPONENTS) -> Principal:
        fewer = min(count, len(images) - 1)
        return cls(PCA(fewer, whiten=True, random_state=0).fit(images.reshape(len(images), -1)))

    def embed(self, images: Array) -> Array:
        return np.asarray(self.components.transform(images.reshape(len(images), -1)), dtype=np.float64)


def in_space(space: Principal | Encoder, real: Array, fake: Array) -> dict[str, float]:
    """All that compares features of images with those of people."""
    a, b = space.embed(real), space.embed(fake)
    each = {"precision": precision, "recall": recall, "density": density, "coverage": coverage}
    found = {name: float(metric(a, b).mean()) for name, metric in each.items()}
    return {"kid": kid(a, b), "mmd": rbf_mmd(a, b)} | found


def likeness(images: Array, most: int = 40) -> float:
    """MS-SSIM of pairs of a set: high where all are alike."""
    table = ms_ssim_pairs(images[:most].clip(0, None))
    return float(table[np.triu_indices(len(table), 1)].mean())


def detail(images: Array) -> float:
    """Root mean square of the differences of neighbouring voxels: low where all is blurred, high where it is noise."""
    steps = [np.diff(images, axis=axis) for axis in (2, 3, 4)]
    return float(np.sqrt(np.mean([np.square(step).mean() for step in steps])))
