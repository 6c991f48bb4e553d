"""What a set is worth for learning: train a segmenter on it, test it on real people.

    dice = train_segmenter(images, labels, options, seed).dice(test_images, test_labels)     # (people, classes)

Everything but the training set is the same for all: network (MONAI's UNet), loss (Dice and cross-entropy), steps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from medidiff.config import Config
from medidiff.errors import InputError
from medidiff.rng import derive_seed

Array = NDArray[Any]
OnStep = Callable[[int, int], None]
_PREDICT_BATCH = 8


class SegmenterOptions(Config):
    """How a segmenter is trained: the same for every set that is compared."""

    channels: tuple[int, ...] = Field((16, 32, 64, 128), min_length=2, max_length=6)
    steps: int = Field(250, ge=1)
    batch: int = Field(8, ge=1)
    lr: float = Field(3e-3, gt=0)
    bfloat16: bool = Field(False, description="only for a processor with AVX512-BF16; without, far slower")


@dataclass(frozen=True, slots=True)
class Segmenter:
    """A trained segmenter.

    Args:
        network: Image to class scores.
        values: Label value of each class, background first.
    """

    network: torch.nn.Module
    values: tuple[int, ...]

    def predict(self, images: Array) -> NDArray[np.uint8]:
        """Label maps of images in model units, shape (n, 1, i, j, k) both."""
        found = []
        with torch.no_grad():
            for start in range(0, len(images), _PREDICT_BATCH):
                batch = torch.from_numpy(np.ascontiguousarray(images[start : start + _PREDICT_BATCH], dtype=np.float32))
                found.append(self.network(batch).argmax(dim=1, keepdim=True).numpy())
        return np.asarray(np.asarray(self.values)[np.concatenate(found)], dtype=np.uint8)

    def dice(self, images: Array, labels: Array) -> Array:
        """Dice of each structure of each image, shape (n, structures); NaN where the truth has no such structure."""
        return dice(self.predict(images), labels, self.values[1:])


def dice(predicted: Array, truth: Array, values: tuple[int, ...]) -> Array:
    """Dice coefficient 2 |A n B| / (|A| + |B|) of label maps (n, 1, i, j, k): shape (n, values).

    NaN where the truth has no such structure.
    Source: MONAI's compute_dice.
    """
    from monai.metrics.meandice import compute_dice

    if predicted.shape != truth.shape:
        raise InputError(f"label maps of one shape, got {predicted.shape} and {truth.shape}")
    one_hot = [
        torch.from_numpy(np.concatenate([x == value for value in values], axis=1)).float() for x in (predicted, truth)
    ]
    return np.asarray(compute_dice(one_hot[0], one_hot[1], include_background=True, ignore_empty=True), dtype=float)


def train_segmenter(
    images: Array,
    labels: Array,
    options: SegmenterOptions,
    seed: int,
    *,
    values: tuple[int, ...],
    augment: bool = False,
    on_step: OnStep | None = None,
) -> Segmenter:
    """Train on volumes with label maps.

    Args:
        images: Model units, shape (n, 1, i, j, k).
        labels: Same shape; whole numbers.
        options: Network and steps.
        seed: Of weights, order and augmentation. On a CPU the same seed gives the same weights.
        values: Which label values are structures; others are background.
        augment: Turn, scale, shade, recast and add noise at random, as is ordinary for MR.
    Raises:
        InputError: images and labels do not fit together.
    """
    from monai.data.dataset import Dataset
    from monai.losses.dice import DiceCELoss

    if images.shape != labels.shape or not len(images):
        raise InputError(f"images and label maps of one shape, got {images.shape} and {labels.shape}")
    known = (0, *values)
    classes = np.stack([np.isin(labels, value) * place for place, value in enumerate(known)]).sum(axis=0)
    network = _network(options, len(known), seed)
    loss = DiceCELoss(to_onehot_y=True, softmax=True, include_background=False)
    transform = _augmentation(seed) if augment else _plain()
    data = Dataset(
        [{"image": i.astype(np.float32), "label": c.astype(np.uint8)} for i, c in zip(images, classes, strict=True)],
        transform,
    )
    adam = torch.optim.AdamW(network.parameters(), lr=options.lr, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(adam, options.lr, total_steps=options.steps + 1)
    order = _order(len(images), options.steps * options.batch, seed)
    network.train()
    for step in range(options.steps):
        chosen = [data[int(place)] for place in order[step * options.batch : (step + 1) * options.batch]]
        x, y = (torch.stack([torch.as_tensor(item[key]).float() for item in chosen]) for key in ("image", "label"))
        with torch.autocast("cpu", torch.bfloat16, enabled=options.bfloat16):
            scores = network(x)
        adam.zero_grad(set_to_none=True)
        loss(scores.float(), y).backward()
        adam.step()
        schedule.step()
        if on_step is not None:
            on_step(step + 1, options.steps)
    return Segmenter(network.eval().requires_grad_(False), known)


def _network(options: SegmenterOptions, classes: int, seed: int) -> torch.nn.Module:
    from monai.networks.nets.unet import UNet

    with torch.random.fork_rng(devices=[]):
        # Initial weights come from torch's global generator; it is borrowed and given back.
        torch.random.default_generator.manual_seed(derive_seed(seed, 0))
        strides = (2,) * (len(options.channels) - 1)
        return UNet(3, 1, classes, options.channels, strides, num_res_units=1)


def _plain() -> Any:
    from monai.transforms.compose import Compose

    return Compose([])


def _augmentation(seed: int) -> Any:
    from monai.transforms.compose import Compose
    from monai.transforms.intensity.dictionary import RandAdjustContrastd, RandBiasFieldd, RandGaussianNoised
    from monai.transforms.spatial.dictionary import RandAffined

    keys = ["image", "label"]
    moved = RandAffined(
        keys,
        prob=0.8,
        rotate_range=(0.26, 0.26, 0.26),
        scale_range=(0.1, 0.1, 0.1),
        translate_range=(2, 2, 2),
        mode=["bilinear", "nearest"],
        padding_mode=["border", "zeros"],
    )
    shaded = [
        RandAdjustContrastd("image", prob=0.3, gamma=(0.7, 1.5)),
        RandBiasFieldd("image", prob=0.3, coeff_range=(0.0, 0.2)),
        RandGaussianNoised("image", prob=0.3, std=0.05),
    ]
    return Compose([moved, *shaded]).set_random_state(seed=derive_seed(seed, 1) % 2**32)


def _order(count: int, wanted: int, seed: int) -> Array:
    """Which item comes when: everybody once before anybody comes again."""
    rng = np.random.default_rng(derive_seed(seed, 2))
    rounds = [rng.permutation(count) for _ in range(-(-wanted // count))]
    return np.concatenate(rounds)[:wanted]
