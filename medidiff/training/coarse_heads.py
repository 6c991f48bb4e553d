"""Whole heads at 4 mm with maps of their tissues: what a coarse generator of heads learns from.

Few whole heads may be trained on, many label maps may. So heads are drawn from label maps, in the manner of SynthSeg:
half of them roughly as T1 shows a head, half in a contrast of no sequence.

Source: Billot et al. (2023), SynthSeg: Segmentation of brain MRI scans of any contrast and resolution without
retraining, Medical Image Analysis 86, 102789.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from scipy import ndimage

from medidiff.config import Config
from medidiff.data.cohort import centred_grid
from medidiff.errors import ConfigError
from medidiff.io import read_volume, write_volume
from medidiff.io.atomic import atomic_write_text
from medidiff.rng import derive_seed
from medidiff.training.augment import bias_field, synthesize_from_labels
from medidiff.training.volumes import crop_to_head
from medidiff.volume import Modality, Volume

Array = NDArray[Any]

SPACING_MM = 4.0
# Standard deviation of a Gaussian slice profile whose full width at half maximum is the spacing.
PROFILE_STD = SPACING_MM / math.sqrt(8 * math.log(2))
# Above the crown, mm: where the grid begins. The neck ends where the grid does.
CROWN_MM = 8.0
# Darker than this, in model units, is air.
AIR = 0.12
# Label maps are drawn from at half their resolution: at 4 mm nobody can tell, and it is eight times as fast.
STRIDE = 2
# Changing the size of a label map costs more than another contrast.
CONTRASTS_A_SIZE = 2

# Tissues by FreeSurfer's numbers and those that SynthSeg adds outside the brain.
TISSUES: dict[str, tuple[int, ...]] = {
    "white matter": (2, 41, 7, 46, 16, 28, 60, 85, 251, 252, 253, 254, 255, 512),
    "grey matter": (3, 42, 8, 47, 10, 49, 11, 50, 12, 51, 13, 52, 17, 53, 18, 54, 26, 58),
    "csf": (4, 5, 14, 15, 24, 43, 44, 72, 31, 63),
    "skull": (515,),
    "marrow": (516,),
    "soft tissue": (502, 506, 507, 508, 509, 511, 514, 530),
}
# Model units of the tissues in T1, about.
T1 = {"white matter": 0.8, "grey matter": 0.55, "csf": 0.2, "skull": 0.12, "marrow": 0.6, "soft tissue": 0.45}
# What FreeSurfer numbers on the right has a twin on the left, and one contrast.
LEFT_OF = {41: 2, 42: 3, 43: 4, 44: 5, 46: 7, 47: 8, 49: 10, 50: 11, 51: 12, 52: 13, 53: 17, 54: 18, 57: 25, 58: 26,
           60: 28, 62: 30, 63: 31, 137: 136, 164: 163}  # fmt: skip


class CoarseHeadsConfig(Config):
    """Which label maps, how many images of each, and the grid.

    Args:
        labels: Globs of whole-head label maps below the root.
        drawn: Images of each kind of contrast from each map.
    """

    root: Path
    labels: tuple[str, ...]
    shape: tuple[int, int, int] = (48, 64, 56)
    drawn: int = Field(6, ge=1)
    seed: int = Field(0, ge=0)


@dataclass(frozen=True, slots=True)
class Head:
    """A head on the coarse grid, model units, and its tissues (0 is air), shape (i, j, k)."""

    image: Array
    tissues: Array


@dataclass(frozen=True, slots=True)
class Placement:
    """Where and how large a head lies on the coarse grid."""

    centre: tuple[float, float, float]
    step: tuple[float, float, float]
    shape: tuple[int, int, int]

    @classmethod
    def of(cls, head: Array, spacing: Sequence[float], shape: tuple[int, int, int], zoom: float = 1.0) -> Placement:
        """The head in the middle, its crown below the upper end; ``zoom`` above 1 makes it larger."""
        if not head.any():
            raise ConfigError("there is no head in this volume: every voxel is air")
        hit = [np.flatnonzero(head.any(axis=tuple(a for a in range(3) if a != axis))) for axis in range(3)]
        step = [SPACING_MM / zoom / mm for mm in spacing]
        middle = [(float(h[0]) + float(h[-1])) / 2 for h in hit]
        middle[2] = float(hit[2][-1]) + (CROWN_MM / SPACING_MM) * step[2] - (shape[2] - 1) / 2 * step[2]
        return cls((middle[0], middle[1], middle[2]), (step[0], step[1], step[2]), shape)

    def take(self, data: Array) -> Array:
        """The volume as a scanner with thick voxels sees it, shape ``shape``, float32."""
        std = [PROFILE_STD / SPACING_MM * step for step in self.step]
        soft = ndimage.gaussian_filter(data.astype(np.float32), std, mode="nearest", truncate=3.0)
        offset = [c - (n - 1) / 2 * s for c, n, s in zip(self.centre, self.shape, self.step, strict=True)]
        return np.asarray(ndimage.affine_transform(soft, self.step, offset, self.shape, order=1, mode="constant"))

    def take_labels(self, labels: Array, count: int) -> Array:
        """The tissue that fills most of each coarse voxel, shape ``shape``, uint8; 0 to ``count``."""
        shares = np.stack([self.take(labels == value) for value in range(1, count + 1)])
        air = 1 - shares.sum(0)
        return np.asarray(np.concatenate([air[None], shares]).argmax(0), dtype=np.uint8)


def tissues_of(labels: Array) -> Array:
    """FreeSurfer's and SynthSeg's numbers as the numbers of ``TISSUES``, from 1.

    What is in none (vessels, choroid plexus, lesions) is too small to be seen at 4 mm and counts as soft tissue.
    """
    whole = np.rint(labels).astype(np.int64)
    table = np.full(max(int(whole.max()), 600) + 1, len(TISSUES), np.uint8)
    table[0] = 0
    for number, codes in enumerate(TISSUES.values(), start=1):
        table[list(codes)] = number
    return np.asarray(table[whole])


def draw_heads(path: Path, config: CoarseHeadsConfig, seed: int, *, like_t1: bool = False) -> Iterator[Head]:
    """Images from one label map, of random contrast or roughly that of T1, each bent in size, side and shading."""
    volume = read_volume(path).reoriented()
    fine = crop_to_head(one_sided(volume.data[0][::STRIDE, ::STRIDE, ::STRIDE]))
    codes, numbers = np.unique(fine, return_inverse=True)
    compact = torch.from_numpy(numbers.reshape(fine.shape).astype(np.uint8))
    tissues = tissues_of(fine)
    spacing = [STRIDE * mm for mm in volume.geometry.spacing]
    for number in range(config.drawn):
        own = derive_seed(seed, number)
        rng, generator = np.random.default_rng(own), torch.Generator().manual_seed(own)
        if number % CONTRASTS_A_SIZE == 0:
            placement = Placement.of(tissues > 0, spacing, config.shape, float(rng.uniform(0.93, 1.07)))
            coarse = placement.take_labels(tissues, len(TISSUES))
        means = t1_means(codes, rng) if like_t1 else None
        image = synthesize_from_labels(compact, len(codes) - 1, rng, generator, means=means)
        yield _bent(Head(placement.take(image.numpy()), coarse), rng)


def t1_means(codes: Array, rng: np.random.Generator) -> Array:
    """Model units that the numbers of a label map have in T1, roughly, and each time a little different."""
    typical = np.array([0.02, *T1.values()])[tissues_of(codes)]
    return np.asarray((typical * np.exp(rng.normal(0, 0.12, len(codes)))).astype(np.float32))


def one_sided(labels: Array) -> Array:
    """FreeSurfer's numbers with the right side numbered as the left."""
    fine = np.rint(labels).astype(np.int64)
    for right, left in LEFT_OF.items():
        fine[fine == right] = left
    return fine


def largest_part(mask: Array) -> Array:
    """The largest connected part, so that noise in the air sets no border."""
    parts, count = ndimage.label(ndimage.binary_opening(mask))
    if not count:
        return mask
    return np.asarray(parts == 1 + int(np.argmax(np.bincount(parts.reshape(-1))[1:])))


def _bent(head: Head, rng: np.random.Generator) -> Head:
    image, tissues = head.image, head.tissues
    if rng.random() < 0.5:
        image, tissues = image[::-1].copy(), tissues[::-1].copy()
    if rng.random() < 0.4:
        image = bias_field(torch.from_numpy(np.ascontiguousarray(image)), rng).numpy()
    return Head(image.astype(np.float32), tissues)


def prepare(config: CoarseHeadsConfig, output: Path) -> int:
    """Write ``images``, ``labels`` and ``contrasts.tsv`` as ``medidiff train configs/head-coarse.yaml`` reads them.

    Returns:
        The number of heads.
    Raises:
        ConfigError: a pattern matches nothing.
    """
    maps = _files(config.root, config.labels)
    for folder in ("images", "labels"):
        (output / folder).mkdir(parents=True, exist_ok=True)
    lines, grid = ["name\tcontrast"], centred_grid(config.shape, (SPACING_MM,) * 3)
    for stream, contrast in enumerate(("t1", "any")):
        for place, path in enumerate(maps):
            own = derive_seed(config.seed, stream, place)
            for number, head in enumerate(draw_heads(path, config, own, like_t1=contrast == "t1")):
                name = f"{contrast}-{place:02d}-{number:02d}"
                lines.append(f"{name}\t{contrast}")
                image = Volume((1000 * head.image).round().astype(np.float32)[None], grid, Modality.MR)
                write_volume(image, output / "images" / f"{name}.nii.gz", dtype=np.int16)
                label = Volume(head.tissues[None], grid, Modality.LABEL)
                write_volume(label, output / "labels" / f"{name}.nii.gz", dtype=np.uint8)
    atomic_write_text(output / "contrasts.tsv", "\n".join(lines) + "\n")
    return len(lines) - 1


def _files(root: Path, patterns: Sequence[str]) -> list[Path]:
    found = []
    for pattern in patterns:
        paths = sorted(root.glob(pattern))
        if not paths:
            raise ConfigError(f"no file matches {pattern!r} below {root}")
        found += paths
    return found
