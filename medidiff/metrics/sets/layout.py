"""Whether what is where it is in people: the coarse layout of an image against the mean person.

Features that were learned to tell sharp from blurred and clean from noisy can take texture alone for anatomy. This
figure knows nothing but where bright and dark lie, and cannot.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Array = NDArray[Any]
# Finer than this people differ from one another; coarser there is hardly a pattern left.
SIGMA_VOXELS = 2.0


def template(images: Array) -> Array:
    """The mean person, blurred, at zero mean and unit length; images of shape (n, 1, i, j, k) to (i, j, k)."""
    return _standard(_coarse(images[:, 0].mean(axis=0)))


def layout(images: Array, mean_person: Array) -> Array:
    """Correlation of each blurred image with the mean person, shape (n, 1, i, j, k) to (n,); 1 is the mean person."""
    return np.array([float((_standard(_coarse(image[0])) * mean_person).sum()) for image in images])


def _coarse(image: Array) -> Array:
    return np.asarray(ndimage.gaussian_filter(image.astype(np.float64), SIGMA_VOXELS, mode="nearest"))


def _standard(image: Array) -> Array:
    centred = image - image.mean()
    return np.asarray(centred / max(float(np.linalg.norm(centred)), 1e-12))
