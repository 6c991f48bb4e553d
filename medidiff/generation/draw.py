"""Drawing labelled volumes from a generator: what is asked for, item by item, and what comes out.

An item is decided by its seed and by what it is asked to be, never by the items beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medidiff.data.cohort import centred_grid, onto
from medidiff.diffusion.denoiser import Denoiser
from medidiff.diffusion.generator import GenerativeModel, GeneratorSpec, GivenGenerator, Value
from medidiff.diffusion.path import sigma_schedule
from medidiff.diffusion.sampler import SOLVERS, sample, stochastic
from medidiff.errors import ConfigError
from medidiff.generation.codes import LabelCodec
from medidiff.rng import derive_seed
from medidiff.volume import Modality, Volume

SolverName = Literal["stochastic", "multistep", "heun", "euler"]
# Streams of an item's seed: its noise, and how large it is.
NOISE_STREAM, EXTENT_STREAM = 0, 1
RHO = 7.0


@dataclass(frozen=True, slots=True)
class Request:
    """One item that is wanted.

    Args:
        seed: Of this item.
        values: Named conditions; what is not named is free.
        labels: A label map on the generator's grid, shape (i, j, k), if an image for it is wanted.
        like: An image on the grid in model units, shape (i, j, k), if a variation of it is wanted.
        inside: Which voxels are wanted, shape (i, j, k); a box of a size that the seed draws if None.
    """

    seed: int
    values: Mapping[str, Value] = field(default_factory=dict)
    labels: NDArray[np.uint8] | None = None
    like: NDArray[np.float32] | None = None
    inside: NDArray[np.bool_] | None = None


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a generator is asked.

    Args:
        steps: Noise levels; ``evaluations`` tells the cost.
        strength: Of variations: 0 leaves the image, 1 draws another one.
    """

    steps: int = 18
    solver: SolverName = "stochastic"
    guidance_scale: float = 1.0
    strength: float = 0.4

    def evaluations(self, conditional: bool) -> int:
        """Evaluations of the network for one item."""
        once = 2 * self.steps - 1 if self.solver == "heun" else self.steps
        return once * (2 if conditional and self.guidance_scale != 1 else 1)


@dataclass(frozen=True, slots=True)
class Drawn:
    """A labelled volume of nobody: intensities in model units, on its own grid; ``label`` where there are classes."""

    image: Volume
    label: Volume | None


@dataclass(frozen=True, slots=True)
class Pinned:
    """A denoiser that holds on to an image while the noise is above a level, and lets go below it.

    Label channels are drawn all the way down, so that they come to fit the image before it begins to vary.
    """

    inner: GivenGenerator
    image: Tensor
    level: float

    @property
    def sigma_min(self) -> float:
        return self.inner.sigma_min

    @property
    def sigma_max(self) -> float:
        return self.inner.sigma_max

    @property
    def spread(self) -> float:
        return self.inner.spread

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        x0 = self.inner(x, sigma)
        held = (sigma > self.level).view(-1, 1, 1, 1, 1)
        return torch.cat([torch.where(held, self.image, x0[:, :1]), x0[:, 1:]], dim=1)


def draw(
    model: GenerativeModel,
    requests: Sequence[Request],
    sampling: Sampling,
    on_step: Callable[[int, int], None] | None = None,
) -> list[Drawn]:
    """Draw items, in one batch.

    On a processor a batch is no faster than its items one by one, and the last bits of a matrix product depend on it:
    they are drawn one by one there, and the same seed gives the same bits in any company.

    Args:
        requests: All with a label map or none, all with an image to vary or none.
        on_step: Called with (done, total) steps.
    Raises:
        ConfigError: requests of different kinds, or a condition that the generator does not have.
        GeometryError: a label map or image lies on another grid.
    """
    kinds = {(request.labels is None, request.like is None) for request in requests}
    if len(kinds) != 1:
        raise ConfigError(
            "a batch must ask for one kind of item: all with a label map or none, all a variation or none"
        )
    device = next(model.parameters()).device
    if device.type == "cpu" and len(requests) > 1:
        steps, count = sampling.steps, len(requests)
        drawn: list[Drawn] = []
        for number, request in enumerate(requests):
            told = None if on_step is None else _part(on_step, number * steps, count * steps)
            drawn += draw(model, [request], sampling, told)
        return drawn
    inside = np.stack([_inside(model.spec, request)[None] for request in requests])
    channels = _sample(model, requests, inside, sampling, on_step).cpu().numpy()
    return [
        decode(model.spec, each, mask[0], request.labels)
        for each, mask, request in zip(channels, inside, requests, strict=True)
    ]


def decode(
    spec: GeneratorSpec,
    channels: NDArray[np.floating],
    inside: NDArray[np.bool_],
    labels: NDArray[np.uint8] | None = None,
) -> Drawn:
    """What channels mean: an image in model units and its label map, cut to the box of wanted voxels.

    Args:
        channels: Shape (c, i, j, k).
        inside: Shape (i, j, k).
        labels: The label map if it was given; it is kept as it was.
    """
    modality = Modality(spec.modality)
    image = channels[0].astype(np.float64) * spec.intensity_std + spec.intensity_mean
    if modality is Modality.MR:
        image = image.clip(min=0)  # a magnitude
    found = labels if labels is not None else LabelCodec.of(spec).decode(channels[1:])
    box = _box(inside)
    start, size = tuple(part.start for part in box), tuple(part.stop - part.start for part in box)
    geometry = centred_grid(spec.shape, spec.spacing_mm).cropped(start, size)
    image_volume = Volume(np.ascontiguousarray(image[None][(slice(None), *box)], dtype=np.float32), geometry, modality)
    if not spec.labels:
        return Drawn(image_volume, None)
    return Drawn(image_volume, Volume(np.ascontiguousarray(found[None][(slice(None), *box)]), geometry, Modality.LABEL))


def level_of(spec: GeneratorSpec, strength: float) -> float:
    """The noise at which a variation of a strength begins: 0 the lowest level, 1 the highest, as steps are spread.

    Raises:
        ConfigError: not between 0 and 1.
    """
    if not 0 <= strength <= 1:
        raise ConfigError(f"strength: expected 0 to 1, got {strength:g}")
    low, high = spec.sigma_min ** (1 / RHO), spec.sigma_max ** (1 / RHO)
    return float((low + strength * (high - low)) ** RHO)


def draw_extent(spec: GeneratorSpec, seed: int) -> tuple[int, int, int]:
    """A size in voxels, of the distribution of sizes in training: near nobody's in particular."""
    rng = np.random.default_rng(derive_seed(seed, EXTENT_STREAM))
    size = rng.multivariate_normal(spec.extent_mean, np.asarray(spec.extent_covariance), method="eigh")
    i, j, k = np.clip(np.rint(size), spec.extent_low, spec.shape).astype(int)
    return int(i), int(j), int(k)


def _sample(
    model: GenerativeModel,
    requests: Sequence[Request],
    inside: NDArray[np.bool_],
    sampling: Sampling,
    on_step: Callable[[int, int], None] | None,
) -> Tensor:
    spec, device = model.spec, next(model.parameters()).device
    codec = LabelCodec.of(spec)
    given = [codec.encode(request.labels) for request in requests if request.labels is not None]
    labels = torch.from_numpy(np.stack(given)) if given else None
    conditions = model.conditions(
        [request.values for request in requests], labels=labels, inside=torch.from_numpy(inside)
    )
    bound = model.given(conditions, sampling.guidance_scale)
    denoiser: Denoiser = bound
    likes = [request.like for request in requests if request.like is not None]
    if likes:
        images = (torch.from_numpy(np.stack(likes)[:, None]).float() - spec.intensity_mean) / spec.intensity_std
        denoiser = Pinned(bound, images.to(device) * conditions.inside, level_of(spec, sampling.strength))
    shape = (len(requests), spec.channels, *spec.shape)
    # Generators of the CPU give the same noise on every machine.
    own = [torch.Generator().manual_seed(derive_seed(request.seed, NOISE_STREAM)) for request in requests]
    return sample(
        denoiser,
        shape,
        sigma_schedule(spec.sigma_min, spec.sigma_max, sampling.steps, rho=RHO),
        generators=own,
        solver=stochastic(own) if sampling.solver == "stochastic" else SOLVERS[sampling.solver],
        start=torch.zeros(shape, device=device),
        on_step=on_step,
    )


def _inside(spec: GeneratorSpec, request: Request) -> NDArray[np.bool_]:
    """The wanted voxels: a box of the drawn size in the middle of the grid."""
    if request.inside is not None:
        return request.inside
    return onto(np.ones(draw_extent(spec, request.seed), dtype=bool), spec.shape, constant=True)


def _box(inside: NDArray[np.bool_]) -> tuple[slice, slice, slice]:
    where = np.argwhere(inside)
    low, high = where.min(axis=0), where.max(axis=0) + 1
    i, j, k = (slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    return i, j, k


def _part(on_step: Callable[[int, int], None], before: int, total: int) -> Callable[[int, int], None]:
    return lambda done, _: on_step(before + done, total)
