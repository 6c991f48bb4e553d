"""A generator: one network that models an image and its label map together, and either from conditions.

Its channels are the image, standardised, and one channel a label class (signed distances, see ``medidiff.generation``).
With nothing bound it draws labelled volumes of nobody in particular; with conditions bound, of the kind that was asked
for; with a label map bound, images for that map. Whatever is bound, what comes out is a ``Denoiser``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from pydantic import AfterValidator, Field, model_validator
from torch import Tensor, nn

from medidiff.config import Config
from medidiff.diffusion.checkpoint import GENERATOR_FORMAT, read_model, write_model
from medidiff.diffusion.network import build_network
from medidiff.errors import ConfigError, GeometryError

Value = str | float | None

# What a number changes in a volume is a small part of what the network is wrong about: it is learned this much faster
# where the number is this much larger.
CONDITION_GAIN = 6.0
MAX_SIDE, MAX_VOXELS = 512, 64 << 20
# What a card must be given, or no set can be made with its generator: a set without licences cannot go out.
GIVEN_ON_CARD = ("sources", "samples_licence")


class NumericCondition(Config):
    """A number that an image may be asked for, such as an age.

    Args:
        mean, std: Over the training people; the network sees the number in these units.
        low, high: The range seen in training; asking beyond it is refused.
    """

    kind: Literal["number"] = "number"
    name: str = Field(pattern=r"^[a-z][a-z0-9_]{0,31}$")
    mean: float
    std: float = Field(gt=0)
    low: float
    high: float

    @property
    def size(self) -> int:
        return 2

    def vector(self, value: Value) -> list[float]:
        """The standardised number and a flag that it is known; zeros if it is not.

        Raises:
            ConfigError: no number, or outside what was seen in training.
        """
        if value is None:
            return [0.0, 0.0]
        if isinstance(value, str) or not self.low <= value <= self.high:
            raise ConfigError(f"{self.name}: expected a number of {self.low:g} to {self.high:g}, got {value!r}")
        return self.encode(float(value))

    def draw(self, seed: int) -> float:
        """A number as common as it was in training: normal, within the range that may be asked for."""
        rng = np.random.default_rng(seed)
        while True:
            value = float(rng.normal(self.mean, self.std))
            if self.low <= value <= self.high:
                return value

    def encode(self, value: float) -> list[float]:
        """As ``vector``, of any number: people of training may lie beyond the range that may be asked for."""
        return [CONDITION_GAIN * (value - self.mean) / self.std, 1.0]


class CategoricalCondition(Config):
    """One word of a few that an image may be asked for: a class, a sex, a contrast."""

    kind: Literal["category"] = "category"
    name: str = Field(pattern=r"^[a-z][a-z0-9_]{0,31}$")
    values: tuple[str, ...] = Field(min_length=1)

    @property
    def size(self) -> int:
        return len(self.values)

    def vector(self, value: Value) -> list[float]:
        """A one for the word; zeros if it is not known.

        Raises:
            ConfigError: a word that was not seen in training.
        """
        if value is not None and value not in self.values:
            raise ConfigError(f"{self.name}: expected one of {', '.join(self.values)}, got {value!r}")
        return [float(value == known) for known in self.values]


ConditionSpec = Annotated[NumericCondition | CategoricalCondition, Field(discriminator="kind")]


class LabelChannel(Config):
    """A class of the label maps and how its channel is standardised (voxels)."""

    value: int = Field(ge=1, le=255)
    name: str
    mean: float
    std: float = Field(gt=0)


def _is_a_grid(shape: tuple[int, int, int]) -> tuple[int, int, int]:
    if not 1 <= min(shape) <= max(shape) <= MAX_SIDE or math.prod(shape) > MAX_VOXELS:
        sides = f"sides of 1 to {MAX_SIDE} voxels, and {MAX_VOXELS >> 20} million in all"
        raise ValueError(f"no grid of a generator: expected {sides} at most")
    return shape


# What a file or config claims is believed before a voxel of it is allocated, so it may not claim anything.
GridShape = Annotated[tuple[int, int, int], AfterValidator(_is_a_grid)]
Spacing = Annotated[float, Field(gt=0, le=100)]


class GeneratorSpec(Config):
    """All that is needed to turn a network's channels into labelled volumes, and requests into its inputs.

    Args:
        shape, spacing_mm: The grid.
        intensity_mean, intensity_std: Of the training images in model units, over acquired voxels.
        labels, clip_voxels: The label channels; distances beyond ``clip_voxels`` are all one.
        conditions: What can be asked for, in the order of the embedding.
        extent_mean, extent_covariance: Of the size in voxels of the training scans: a scan need not fill the grid.
        sigma_min, sigma_max: Noise levels between which the network was trained.
    """

    shape: GridShape
    spacing_mm: tuple[Spacing, Spacing, Spacing]
    modality: Literal["MR", "CT"] = "MR"
    suffix: str = Field(pattern=r"^[A-Za-z0-9]{1,16}$")
    intensity_mean: float
    intensity_std: float = Field(gt=0)
    labels: tuple[LabelChannel, ...] = ()
    clip_voxels: float = Field(4.0, gt=0.5)
    conditions: tuple[ConditionSpec, ...] = ()
    extent_mean: tuple[float, float, float]
    extent_covariance: tuple[tuple[float, float, float], ...] = Field(min_length=3, max_length=3)
    extent_low: tuple[int, int, int]
    sigma_min: float = Field(0.02, gt=0)
    sigma_max: float = Field(160.0, gt=0)

    @model_validator(mode="after")
    def _is_one(self) -> GeneratorSpec:
        names = [entry.name for entry in self.conditions]
        if len(set(names)) < len(names):
            raise ValueError("two conditions have one name")
        if self.sigma_min >= self.sigma_max:
            raise ValueError("sigma_min must lie below sigma_max")
        return self

    @property
    def channels(self) -> int:
        """The image and its label channels."""
        return 1 + len(self.labels)

    @property
    def side(self) -> int:
        """Side channels of the network: the label channels where they are given, and what was acquired."""
        return len(self.labels) + 1

    @property
    def embedding(self) -> int:
        """Length of the embedding: noise level, labels given, warped, and every condition."""
        return 3 + sum(entry.size for entry in self.conditions)

    def vector(self, values: Mapping[str, Value]) -> list[float]:
        """The part of the embedding that the conditions are; one that is not named is unknown.

        Raises:
            ConfigError: a condition that this generator does not have, or a value that it never saw.
        """
        known = [entry.name for entry in self.conditions]
        strange = sorted(set(values) - set(known))
        if strange:
            raise ConfigError(f"no condition {', '.join(strange)}: this generator has {', '.join(known) or 'none'}")
        return [number for entry in self.conditions for number in entry.vector(values.get(entry.name))]


@dataclass(frozen=True, slots=True)
class Conditions:
    """What a generator is told of each item of a batch.

    Args:
        vector: Of ``GeneratorSpec.vector``, shape (b, v); zeros say nothing.
        inside: 1 where voxels are to be drawn, shape (b, 1, i, j, k); elsewhere the answer is zero.
        labels: Clean label channels, shape (b, l, i, j, k); zeros where they are not given.
        labels_given: 1 for items whose label channels are given, shape (b,).
        warped: 1 for items of training that were bent (see ``medidiff.training.generative``), shape (b,). Never set it
            when drawing: this is how the network keeps what bending looks like out of what it draws.
    """

    vector: Tensor
    inside: Tensor
    labels: Tensor
    labels_given: Tensor
    warped: Tensor

    def __len__(self) -> int:
        return len(self.vector)

    def __getitem__(self, items: slice) -> Conditions:
        return Conditions(*(getattr(self, name)[items] for name in self.__slots__))

    def to(self, device: torch.device | str) -> Conditions:
        return Conditions(*(getattr(self, name).to(device) for name in self.__slots__))

    def unconditional(self) -> Conditions:
        """The same without named conditions; label maps stay."""
        return replace(self, vector=torch.zeros_like(self.vector))


class GenerativeModel(nn.Module):
    """A network as a denoiser of images and their label channels, at unit variance.

    With the network ``F``: ``D(x) = x / (1 + s^2) + s / sqrt(1 + s^2) F(x / sqrt(1 + s^2))``.
    Source: Karras et al. (2022), Elucidating the Design Space of Diffusion-Based Generative Models, table 1, with
    sigma_data = 1.
    """

    def __init__(self, network: nn.Module, spec: GeneratorSpec) -> None:
        super().__init__()
        self.network, self.spec = network, spec

    @property
    def multiple(self) -> tuple[int, int, int]:
        """The grid's axes must be divisible by these."""
        i, j, k = self.network.multiple  # type: ignore[misc]
        return int(i), int(j), int(k)

    def forward(
        self, x: Float[Tensor, "b c i j k"], sigma: Float[Tensor, " b"], conditions: Conditions
    ) -> Float[Tensor, "b c i j k"]:
        """Clean channels from noisy ones; where label channels are given they are the answer."""
        s = sigma.view(-1, 1, 1, 1, 1)
        inward = torch.rsqrt(1 + s**2)
        x0 = (x / (1 + s**2) + s * inward * self.raw(x * inward, sigma, conditions)) * conditions.inside
        given = conditions.labels_given.view(-1, 1, 1, 1, 1)
        labels = given * conditions.labels + (1 - given) * x0[:, 1:]
        return torch.cat([x0[:, :1], labels], dim=1)

    def raw(self, u: Tensor, sigma: Tensor, conditions: Conditions) -> Tensor:
        """The network itself, on an input of unit variance."""
        level = sigma.clamp(self.spec.sigma_min / 4, 4 * self.spec.sigma_max).log() / 4
        told = torch.stack([level, conditions.labels_given, conditions.warped], dim=1)
        given = conditions.labels_given.view(-1, 1, 1, 1, 1)
        side = torch.cat([given * conditions.labels, conditions.inside], dim=1)
        out: Tensor = self.network(u * conditions.inside, side, torch.cat([told, conditions.vector], dim=1))
        return out.float()

    def conditions(
        self,
        values: Sequence[Mapping[str, Value]],
        *,
        labels: Tensor | None = None,
        inside: Tensor | None = None,
    ) -> Conditions:
        """What each of ``len(values)`` items is to be like.

        Args:
            values: Named conditions an item; an empty mapping asks for nothing.
            labels: Clean label channels of the items, shape (b, l, i, j, k), if images for them are wanted.
            inside: 1 where voxels are wanted, shape (b, 1, i, j, k); everywhere if None.
        Raises:
            ConfigError: a condition or value that this generator does not know.
            GeometryError: the channels lie on another grid than the generator's.
        """
        device = next(self.parameters()).device
        count, shape = len(values), self.spec.shape
        wanted = {"labels": (labels, len(self.spec.labels)), "inside": (inside, 1)}
        for name, (tensor, channels) in wanted.items():
            if tensor is not None and tuple(tensor.shape) != (count, channels, *shape):
                expected = (count, channels, *shape)
                raise GeometryError(f"{name}: expected the shape {expected}, got {tuple(tensor.shape)}")
        return Conditions(
            vector=torch.tensor([self.spec.vector(each) for each in values], device=device).reshape(count, -1),
            inside=torch.ones(count, 1, *shape, device=device) if inside is None else inside.to(device).float(),
            labels=(
                torch.zeros(count, len(self.spec.labels), *shape, device=device)
                if labels is None
                else labels.to(device).float()
            ),
            labels_given=torch.full((count,), float(labels is not None), device=device),
            warped=torch.zeros(count, device=device),
        )

    def given(self, conditions: Conditions, guidance_scale: float = 1.0) -> GivenGenerator:
        """This model with conditions bound: a ``Denoiser``.

        Args:
            guidance_scale: 1 draws from what the conditions allow; above it, conditions are stressed at the price of
                diversity (and of a second evaluation); 0 leaves them out.
        """
        if not np.isfinite(guidance_scale) or guidance_scale < 0:
            raise ConfigError(f"guidance scale: expected 0 or more, got {guidance_scale}")
        return GivenGenerator(self, conditions, float(guidance_scale))


@dataclass(frozen=True, slots=True)
class GivenGenerator:
    """A generator with its conditions bound.

    Source of guidance: Ho & Salimans (2022), Classifier-Free Diffusion Guidance, eq. (6), with scale = 1 + w.
    """

    model: GenerativeModel
    conditions: Conditions
    guidance_scale: float = 1.0

    @property
    def sigma_min(self) -> float:
        return self.model.spec.sigma_min

    @property
    def sigma_max(self) -> float:
        return self.model.spec.sigma_max

    @property
    def spread(self) -> float:
        return 1.0

    @property
    def evaluations(self) -> int:
        """Evaluations of the network for one answer."""
        return 1 + int(self._guided)

    @property
    def _guided(self) -> bool:
        return self.guidance_scale != 1 and bool(self.conditions.vector.any())

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        conditional: Tensor = self.model(x, sigma, self.conditions)
        if not self._guided:
            return conditional
        free: Tensor = self.model(x, sigma, self.conditions.unconditional())
        return free + self.guidance_scale * (conditional - free)


def save_generator(
    path: Path,
    network: Mapping[str, Any],
    spec: GeneratorSpec,
    tensors: Mapping[str, Tensor],
    card: Mapping[str, Any],
    *,
    half: bool = True,
) -> None:
    """Write a generator that ``load_generator`` reads.

    Args:
        network: ``{"kind": ..., **options}`` as ``build_network`` takes it.
        tensors: Parameters by name.
        card: Training record: data, licences, people, validation, limits.
        half: Store float16; the rounding is far below the network's own error.
    """
    write_model(path, GENERATOR_FORMAT, network, tensors, card, half=half, more={"generator": spec.model_dump_json()})


def load_generator(path: Path, device: torch.device | str = "cpu") -> tuple[GenerativeModel, dict[str, Any]]:
    """Read a generator in full precision, ready to draw.

    Returns:
        The model and its card.
    Raises:
        CheckpointError: no generator, damaged, or the weights do not fit the network that the file names.
    """
    return read_model(path, GENERATOR_FORMAT, _from_header, device)


def _from_header(header: Mapping[str, str], options: Mapping[str, Any]) -> GenerativeModel:
    return GenerativeModel(build_network(**options), GeneratorSpec.model_validate_json(header["generator"]))
