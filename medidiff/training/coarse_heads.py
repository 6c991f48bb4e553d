"""Whole heads at 4 mm with maps of their tissues: what a coarse generator of heads learns from.

Few whole heads may be trained on, many label maps may. So images are drawn from label maps, in the manner of SynthSeg;
on those that look like T1 a small network learns to tell tissues; with it the real heads get label maps too. A
generator that learns from both, and is told which is which, sees many shapes and what a real T1 looks like.

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
from torch import nn
from torch.nn import functional

from medidiff.config import Config
from medidiff.data.intensity import IntensityCodec
from medidiff.errors import ConfigError
from medidiff.geometry import Geometry
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
    """Which heads, how many variants of each, and the grid.

    Args:
        labels: Globs of whole-head label maps below the root.
        heads: Globs of real T1 heads below the root; nobody whom a result is measured on.
    """

    root: Path
    labels: tuple[str, ...]
    heads: tuple[str, ...]
    shape: tuple[int, int, int] = (48, 64, 56)
    drawn: int = Field(10, ge=1, description="images of random contrast from each label map")
    variants: int = Field(10, ge=1, description="of each real head: size, side, shading, gamma")
    steps: int = Field(300, ge=1, description="of the network that tells tissues")
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


def real_heads(path: Path, config: CoarseHeadsConfig, seed: int) -> Iterator[Head]:
    """Variants of one real head, not yet labelled."""
    volume = read_volume(path).reoriented()
    image = IntensityCodec.fit(volume.data, volume.modality).encode(volume.data[0].astype(np.float32))
    head = largest_part(image > AIR)
    for number in range(config.variants):
        rng = np.random.default_rng(derive_seed(seed, number))
        zoom = float(rng.uniform(0.93, 1.07)) if number else 1.0
        found = Placement.of(head, volume.geometry.spacing, config.shape, zoom).take(image)
        plain = Head(found.clip(min=0), np.zeros(config.shape, np.uint8))
        yield _bent(plain, rng, gamma=0.15) if number else plain


def largest_part(mask: Array) -> Array:
    """The largest connected part, so that noise in the air sets no border."""
    parts, count = ndimage.label(ndimage.binary_opening(mask))
    if not count:
        return mask
    return np.asarray(parts == 1 + int(np.argmax(np.bincount(parts.reshape(-1))[1:])))


def _bent(head: Head, rng: np.random.Generator, gamma: float = 0.0) -> Head:
    image, tissues = head.image, head.tissues
    if rng.random() < 0.5:
        image, tissues = image[::-1].copy(), tissues[::-1].copy()
    if gamma:
        image = image ** float(np.exp(rng.normal(0, gamma)))
    if rng.random() < 0.4:
        image = bias_field(torch.from_numpy(np.ascontiguousarray(image)), rng).numpy()
    return Head(image.astype(np.float32), tissues)


class TissueNet(nn.Module):
    """MONAI's U-Net, telling tissues in a coarse T1 head."""

    def __init__(self) -> None:
        super().__init__()
        from monai.networks.nets.unet import UNet

        self.net = UNet(3, 1, len(TISSUES) + 1, channels=(24, 48, 96), strides=(2, 2), num_res_units=1, norm="instance")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.net(x)
        return out

    @torch.no_grad()
    def tissues(self, image: Array) -> Array:
        """Tissue numbers of an image in model units, shape (i, j, k), uint8."""
        out = self.eval()(torch.from_numpy(np.ascontiguousarray(image))[None, None])
        return np.asarray(out[0].argmax(0).numpy(), dtype=np.uint8)


def learn_tissues(heads: Sequence[Head], steps: int, seed: int, size: int = 4) -> TissueNet:
    """Train on drawn heads, whose tissues are known."""
    with torch.random.fork_rng(devices=[]):
        torch.random.default_generator.manual_seed(derive_seed(seed, 0))
        net = TissueNet()
    weights = torch.tensor([0.3] + [1.0] * len(TISSUES))
    adam = torch.optim.AdamW(net.parameters(), lr=3e-3)
    fall = torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps)
    for step in range(steps):
        rng = np.random.default_rng(derive_seed(seed, 1, step))
        chosen = [heads[int(n)] for n in rng.integers(len(heads), size=size)]
        # Gain and noise anew: a tissue is known by its shape and place, not by its number.
        images = [h.image * rng.uniform(0.7, 1.3) + rng.normal(0, 0.03, h.image.shape) for h in chosen]
        x = torch.from_numpy(np.stack(images).astype(np.float32))[:, None]
        y = torch.from_numpy(np.stack([h.tissues for h in chosen]).astype(np.int64))
        with torch.autocast("cpu", torch.bfloat16):
            out = net(x)
        adam.zero_grad()
        # Half of a grid is air: it counts for less, so that thin bones count at all.
        functional.cross_entropy(out.float(), y, weight=weights).backward()
        adam.step()
        fall.step()
    return net.eval()


def prepare(config: CoarseHeadsConfig, output: Path) -> int:
    """Write ``images``, ``labels`` and ``contrasts.tsv`` as ``medidiff train configs/head-coarse.yaml`` reads them.

    Returns:
        The number of heads.
    Raises:
        ConfigError: a pattern matches nothing.
    """
    maps, heads = _files(config.root, config.labels), _files(config.root, config.heads)
    drawn = [h for n, path in enumerate(maps) for h in draw_heads(path, config, derive_seed(config.seed, 1, n))]
    # Tissues are asked for in T1 alone, and learned faster there than in every contrast.
    shown = [
        h for n, path in enumerate(maps) for h in draw_heads(path, config, derive_seed(config.seed, 3, n), like_t1=True)
    ]
    net = learn_tissues(shown, config.steps, config.seed)
    plain = [h for n, path in enumerate(heads) for h in real_heads(path, config, derive_seed(config.seed, 2, n))]
    real = [Head(h.image, net.tissues(h.image)) for h in plain]
    for folder in ("images", "labels"):
        (output / folder).mkdir(parents=True, exist_ok=True)
    lines = ["name\tcontrast"]
    grid = coarse_grid(config.shape)
    for contrast, group in (("t1", real), ("drawn", drawn)):
        for number, head in enumerate(group):
            name = f"{contrast}{number:04d}"
            lines.append(f"{name}\t{contrast}")
            image = Volume((1000 * head.image).round().astype(np.float32)[None], grid, Modality.MR)
            write_volume(image, output / "images" / f"{name}.nii.gz", dtype=np.int16)
            label = Volume(head.tissues[None], grid, Modality.LABEL)
            write_volume(label, output / "labels" / f"{name}.nii.gz", dtype=np.uint8)
    atomic_write_text(output / "contrasts.tsv", "\n".join(lines) + "\n")
    return len(lines) - 1


def coarse_grid(shape: tuple[int, int, int]) -> Geometry:
    """4 mm voxels, RAS, centred on world zero."""
    affine = np.diag([SPACING_MM] * 3 + [1.0])
    affine[:3, 3] = [-(n - 1) / 2 * SPACING_MM for n in shape]
    return Geometry(affine, shape)


def _files(root: Path, patterns: Sequence[str]) -> list[Path]:
    found = []
    for pattern in patterns:
        paths = sorted(root.glob(pattern))
        if not paths:
            raise ConfigError(f"no file matches {pattern!r} below {root}")
        found += paths
    return found
