"""Simulated CT for training: planes are projected from few sides, and brought back classically.

An acquisition costs more than a training step, so a bank of them is made once a run (each when it is first drawn, and
the same whenever it is), and steps cut patches from it. Where a model is given, the bank also holds what that model
makes of each acquisition once its answer has been brought back to the data: the references of its later looks.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from hashlib import blake2b
from pathlib import Path

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional

from medidiff.config import Config
from medidiff.data.intensity import CT_AIR_HU, CT_WINDOW_HU
from medidiff.diffusion.checkpoint import load_model, write_tensors
from medidiff.io.atomic import atomic_file
from medidiff.io.source import file_sha256
from medidiff.operators.projection import ParallelBeam, views
from medidiff.operators.task import Task
from medidiff.restoration.looks import later_look, look_again
from medidiff.rng import derive_seed
from medidiff.training.batches import Batch, collate
from medidiff.training.degrade import Degraded
from medidiff.training.volumes import TrainingVolume

# Air, which attenuates nothing, in the model units of a conformed CT.
AIR = (-1000.0 - CT_AIR_HU) / CT_WINDOW_HU
# Streams of their own, so that a change to the steps leaves the bank what it is.
BANK_STREAM, STEP_STREAM = 2, 3


class ProjectionConfig(Config):
    """Acquisitions and patches of a CT training run."""

    size: int = Field(24, ge=1, description="patches in a batch")
    patch: int = Field(112, ge=16, description="side of a patch in the plane")
    acquisitions: int = Field(240, ge=1, description="simulated for a run")
    planes: int = Field(4, ge=1, description="of each acquisition")
    sides: tuple[int, int] = Field((112, 256), description="length of a plane's longer side, by resizing")
    enlarge: float = Field(1.8, gt=0, description="greatest enlargement")
    views: tuple[int, int] = Field((15, 100), description="log-uniform")
    arc: tuple[float, float] = Field((90.0, 170.0), description="degrees of a limited arc")
    limited_share: float = Field(0.2, ge=0, le=1, description="share of acquisitions with a limited arc")
    photons: tuple[float, float] = Field((1e5, 1e7), description="before the patient, log-uniform")
    first_look: float = Field(0.4, ge=0, le=1, description="share of patches with the classical reference, given looks")
    looks_from: Path | None = Field(None, description="model file whose looks are references too")
    looks: int = Field(2, ge=1, description="of that model")

    @model_validator(mode="after")
    def _rises(self) -> ProjectionConfig:
        for name in ("sides", "views", "arc", "photons"):
            low, high = getattr(self, name)
            if not 0 < low <= high:
                raise ValueError(f"{name} must rise from above 0, got {low} and {high}")
        return self


@dataclass(frozen=True, slots=True)
class Acquisition:
    """Planes as they were, and as references of each look; shapes (i, j, planes), half precision."""

    truth: Tensor
    references: tuple[Tensor, ...]
    known: float
    task: Task


class ProjectionBatches:
    """Endless batches of single planes; ``batches[step]`` is always the same for the same seed.

    Values are attenuation over that of water, divided by 2.048: model units whose zero is air.

    Args:
        folder: Where acquisitions are kept, so that a run that is resumed need not make them again.
    """

    def __init__(
        self,
        volumes: Sequence[TrainingVolume],
        config: ProjectionConfig,
        seed: int,
        device: torch.device,
        folder: Path | None = None,
    ) -> None:
        self.config, self.seed, self.device = config, seed, device
        self.volumes = list(volumes)
        weights = np.array([volume.weight for volume in volumes])
        self._weights = weights / weights.sum()
        self._bank: dict[int, Acquisition] = {}
        self._folder = None
        if folder is not None:
            self._folder = folder / f"acquisitions-{self._identity(volumes)}"
            self._folder.mkdir(parents=True, exist_ok=True)
        self._model = None
        if config.looks_from is not None:
            self._model = load_model(config.looks_from, device)[0]

    def _identity(self, volumes: Sequence[TrainingVolume]) -> str:
        """What the bank depends on: its own part of the config, the seed, the scans, and the model that looks."""
        digest = blake2b(digest_size=8)
        parts = self.config.model_dump(mode="json", exclude={"size", "first_look", "acquisitions"})
        digest.update(repr((sorted(parts.items()), self.seed)).encode())
        for volume in volumes:
            digest.update(repr((tuple(volume.data.shape), volume.weight, float(volume.data.float().sum()))).encode())
        if self.config.looks_from is not None:
            digest.update(file_sha256(self.config.looks_from).encode())
        return digest.hexdigest()

    def __getitem__(self, step: int) -> Batch:
        rng = np.random.default_rng([self.seed, STEP_STREAM, step])
        return collate([self._item(rng) for _ in range(self.config.size)], self.device)

    def _item(self, rng: np.random.Generator) -> Degraded:
        taken = self.acquisition(int(rng.integers(self.config.acquisitions)))
        look = 0
        if len(taken.references) > 1 and rng.random() >= self.config.first_look:
            look = int(rng.integers(1, len(taken.references)))
        plane, side = int(rng.integers(self.config.planes)), self.config.patch
        i, j = (int(rng.integers(0, n - side + 1)) for n in taken.truth.shape[:2])
        box = (slice(i, i + side), slice(j, j + side), slice(plane, plane + 1))
        flips = [axis for axis in range(2) if rng.random() < 0.5]
        turned = rng.random() < 0.5

        def cut(x: Tensor) -> Tensor:
            # A plane that is flipped or turned was projected from other sides, and is as good as any.
            part = x[box].float().flip(flips)
            return (part.transpose(0, 1) if turned else part).contiguous()

        truth, reference = cut(taken.truth), cut(taken.references[look])
        task = taken.task if look == 0 else later_look(taken.task)
        return Degraded(truth, reference, torch.full_like(truth, taken.known), task)

    def acquisition(self, index: int) -> Acquisition:
        """One member of the bank, made when it is first asked for."""
        if index not in self._bank:
            path = None if self._folder is None else self._folder / f"{index:05d}.safetensors"
            if path is not None and path.exists():
                self._bank[index] = _load(path, self.device)
            else:
                with torch.no_grad():
                    self._bank[index] = self._acquire(index)
                if path is not None:
                    _save(path, self._bank[index])
        return self._bank[index]

    def _acquire(self, index: int) -> Acquisition:
        config = self.config
        rng = np.random.default_rng([self.seed, BANK_STREAM, index])
        generator = torch.Generator(device=self.device).manual_seed(derive_seed(self.seed, BANK_STREAM, index))
        fine = _finer(self._planes(rng))
        truth = functional.avg_pool2d(fine.movedim(2, 0)[:, None], 2)[:, 0].movedim(0, 2).contiguous()
        count = round(float(np.exp(rng.uniform(*np.log(config.views)))))
        arc = float(rng.uniform(*config.arc)) if rng.random() < config.limited_share else 180.0
        operator = ParallelBeam((1, *truth.shape), views(count, arc, float(rng.uniform(0, 180))))
        # A scanner sees finer structure than pixels: the same rays through pixels of half the size.
        finer = ParallelBeam((1, *fine.shape), operator.angles, detectors=operator.detectors, pitch=2.0)
        clean = finer.forward(fine[None, None]) / 2
        # What a person attenuates along the longest ray, in powers of e: from a child's chest to a large abdomen.
        longest = float(rng.uniform(3, 8))
        photons = float(np.exp(rng.uniform(*np.log(config.photons))))
        unit = longest / float(clean.max().clamp_min(1e-3))
        std = torch.exp(unit * clean / 2) / photons**0.5 / unit
        y = clean + std * torch.randn(clean.shape, generator=generator, device=self.device)
        noise_std = float(std.square().mean().sqrt())
        references = [operator.reference(y)]
        if self._model is not None:
            references += look_again(self._model, operator, y, noise_std, looks=config.looks)
        return Acquisition(
            truth.half(),
            tuple(one[0, 0].half() for one in references),
            float(operator.known(y).flatten()[0]),
            operator.task(noise_std),
        )

    def _planes(self, rng: np.random.Generator) -> Tensor:
        """Scattered planes of a random scan, resized and a little recoloured, shape (i, j, planes)."""
        config = self.config
        volume = self.volumes[int(rng.choice(len(self.volumes), p=self._weights))]
        chosen = np.sort(rng.choice(volume.data.shape[2], config.planes, replace=False))
        block = volume.data[:, :, torch.from_numpy(chosen).to(volume.data.device)].float()
        longer = max(block.shape[:2])
        low, high = config.sides
        side = rng.uniform(min(low, config.enlarge * longer), min(high, config.enlarge * longer))
        size = [max(8, round(n * side / longer)) for n in block.shape[:2]]
        resized = functional.interpolate(
            block.movedim(2, 0)[:, None], size=size, mode="bicubic", antialias=True, align_corners=False
        )
        x = (resized[:, 0].movedim(0, 2) - AIR).clamp_min(0)
        x = x * float(np.exp(rng.normal(0, 0.06)))
        if rng.random() < 0.3:
            # Another tube voltage: bone and contrast agent stand out more, or less, than water does.
            x = x ** float(np.exp(rng.normal(0, 0.12)))
        # A plane smaller than the patch is laid into air, somewhere.
        pad = []
        for n in reversed(x.shape[:2]):
            missing = max(0, config.patch - n)
            before = int(rng.integers(0, missing + 1))
            pad += [before, missing - before]
        return functional.pad(x, (0, 0, *pad))


def _finer(planes: Tensor) -> Tensor:
    """Pixels of half the size, by cubic interpolation, shape (2 i, 2 j, planes)."""
    x = planes.movedim(2, 0)[:, None]
    finer = functional.interpolate(x, scale_factor=2, mode="bicubic", align_corners=False)
    return finer[:, 0].movedim(0, 2).clamp_min(0).contiguous()


def _save(path: Path, taken: Acquisition) -> None:
    tensors = {"truth": taken.truth} | {f"look-{n}": one for n, one in enumerate(taken.references)}
    record = json.dumps({"known": taken.known, "task": asdict(taken.task)})
    with atomic_file(path) as temporary:
        write_tensors(temporary, {name: one.cpu() for name, one in tensors.items()}, {"record": record})


def _load(path: Path, device: torch.device) -> Acquisition:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        record = json.loads(file.metadata()["record"])
        tensors = {name: file.get_tensor(name).to(device) for name in file.keys()}  # noqa: SIM118
    looks = tuple(tensors[f"look-{n}"] for n in range(len(tensors) - 1))
    return Acquisition(tensors["truth"], looks, record["known"], Task(**record["task"]))
