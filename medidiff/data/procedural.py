"""People who never lived: blobs with a bent, two-part structure in the middle, in any contrast.

A generator learns from them what scans have in common (smooth regions, borders, a bias field, noise) before it meets
anybody whose privacy counts. No scan, atlas or statistic of real people is in them; the sizes are what the grid allows.

Source: Billot et al. (2023), SynthSeg; Hoffmann et al. (2022), SynthMorph (label maps from smooth noise).
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy.ndimage import gaussian_filter

from medidiff.config import Config
from medidiff.data.cohort import People, centred_grid, onto
from medidiff.rng import derive_seed

Array = NDArray[np.float32]
# Values of the label map: the two parts of the structure.
FRONT, BACK = 1, 2


class Procedural(Config):
    """So many people who never lived.

    Args:
        smallest: Of the grid's axes, the smallest share that a scan fills.
    """

    kind: Literal["procedural"] = "procedural"
    count: int = Field(256, ge=1, le=100_000)
    seed: int = Field(0, ge=0)
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0)
    smallest: float = Field(0.75, gt=0, le=1)


def procedural_people(made: Procedural, shape: tuple[int, int, int]) -> People:
    """Make them on a grid: images in model units (0 to about 1), label maps of two classes."""
    images = np.empty((made.count, 1, *shape), dtype=np.float32)
    labels = np.empty(images.shape, dtype=np.uint8)
    inside = np.empty(images.shape, dtype=bool)
    for place in range(made.count):
        rng = np.random.default_rng(derive_seed(made.seed, place))
        extent = tuple(int(rng.integers(int(np.ceil(made.smallest * n)), n + 1)) for n in shape)
        label = _structure(extent, rng)
        image = _image(label, rng)
        images[place, 0] = onto(image, shape)
        labels[place, 0] = onto(label, shape, constant=True)
        inside[place, 0] = onto(np.ones(extent, dtype=bool), shape, constant=True)
    return People(images, labels, inside, centred_grid(shape, made.spacing_mm), ())


def _structure(shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.uint8]:
    """A bent tube that runs along j, thick in front and thin behind, cut in two."""
    grid = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    i, j, k = (axis - shift for axis, shift in zip(grid, rng.normal(0, 0.12, 3), strict=True))
    bend_i, bend_k = rng.normal(0, 0.3, 2)
    length = rng.uniform(0.6, 0.85)
    along = (j / length).clip(-1, 1)
    radius = rng.uniform(0.22, 0.34) * (1 + rng.uniform(0.1, 0.6) * along) * np.sqrt(1 - along**2)
    rough = 1 + 0.15 * _smooth(shape, 4.0, rng)
    tube = (i - bend_i * (j**2 - 0.3)) ** 2 + (rng.uniform(0.8, 1.4) * (k - bend_k * (j**2 - 0.3))) ** 2
    label = np.where(j > rng.uniform(-0.2, 0.2), FRONT, BACK)
    return np.where(tube < (radius * rough) ** 2, label, 0).astype(np.uint8)


def _image(label: NDArray[np.uint8], rng: np.random.Generator) -> Array:
    """Regions of even intensity around the structure, softened, shaded and noisy."""
    fields = np.stack([_smooth(label.shape, rng.uniform(2.0, 6.0), rng) for _ in range(int(rng.integers(3, 7)))])
    levels = rng.uniform(0.05, 1.1, len(fields)).astype(np.float32)
    image = levels[fields.argmax(0)]
    shade = rng.uniform(0.3, 0.8)
    image = np.where(label > 0, shade + 0.04 * (label == BACK), image).astype(np.float32)
    image = gaussian_filter(image, rng.uniform(0.3, 0.8))
    image *= np.exp(0.15 * _smooth(label.shape, 15.0, rng))
    image += rng.uniform(0.01, 0.05) * rng.standard_normal(image.shape, dtype=np.float32)
    found: Array = image.clip(0, None)
    return found


def _smooth(shape: tuple[int, ...], width: float, rng: np.random.Generator) -> Array:
    """White noise, blurred, at mean 0 and unit variance."""
    noise = gaussian_filter(rng.standard_normal(shape), width, mode="reflect")
    found: Array = ((noise - noise.mean()) / max(float(noise.std()), 1e-9)).astype(np.float32)
    return found
