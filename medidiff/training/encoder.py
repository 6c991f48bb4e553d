"""Training the small encoder whose features sets are compared by (``medidiff.metrics.features``).

Contrastive: two views of one scan, moved by some voxels and with other noise, shall be alike; every other scan of the
batch, *and the same scan otherwise degraded*, shall differ. So the features tell people apart, and a sharp scan from a
blurred, noisy, shaded or distorted one of the same person, and not one position from another.

Source: Chen et al. (2020), A Simple Framework for Contrastive Learning of Visual Representations (SimCLR), with
degradations as negatives instead of augmentations as positives.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from medidiff.config import Config, config_digest
from medidiff.data.cohort import Cohort, load_people, people, split_sha256
from medidiff.diffusion.checkpoint import load_state, save_state, write_model
from medidiff.errors import CheckpointError
from medidiff.metrics.features import CENTRE, FORMAT, SPREAD, ResNetOptions
from medidiff.metrics.sets import corruptions
from medidiff.progress import OnProgress
from medidiff.rng import derive_seed
from medidiff.training.volumes import Source, load_volumes

Array = NDArray[Any]
_PROJECTED = 64
_STATE = "encoder-state.safetensors"


class HeadConfig(Config):
    """Whole heads, of which patches are shown beside the people of the cohort."""

    root: Path
    files: tuple[Source, ...]
    share: float = Field(0.25, ge=0, lt=1, description="of the scans in a batch")


class EncoderTrainConfig(Config):
    """A whole training run."""

    kind: Literal["train-encoder"] = "train-encoder"
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    seed: int = Field(0, ge=0)
    people: Cohort
    heads: HeadConfig | None = None
    shape: tuple[int, int, int] = (40, 56, 40)
    margin: int = Field(3, ge=0, description="voxels that a view may be moved by")
    network: ResNetOptions = ResNetOptions()
    scans: int = Field(8, ge=2, description="different scans in a batch; each is there in two degradations, two views")
    steps: int = Field(400, ge=1)
    lr: float = Field(2e-3, gt=0)
    weight_decay: float = Field(1e-3, ge=0)
    temperature: float = Field(0.2, gt=0)
    bfloat16: bool = Field(False, description="only for a processor with AVX512-BF16; without, far slower")
    card: dict[str, str] = Field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class EncoderTrainResult:
    """What a run left on disk: a model file, whether or not it reached its last step, and the loss of late."""

    model: Path
    steps: int
    finished: bool
    loss: float


def train_encoder(
    config: EncoderTrainConfig,
    output: Path,
    *,
    resume: bool = False,
    max_minutes: float | None = None,
    on_progress: OnProgress | None = None,
) -> EncoderTrainResult:
    """Train an encoder and write ``output / NAME.safetensors``.

    Args:
        resume: Go on from the state in ``output``, if there is one.
        max_minutes: Stop after so many minutes; there is a model all the same, and its card says after which step.
    Raises:
        ConfigError: the people or heads are not there.
        CheckpointError: ``resume``, and the state is of another configuration.
    """
    output.mkdir(parents=True, exist_ok=True)
    run = _Run(config, output / _STATE)
    if resume and run.path.exists():
        run.resume()
    finished = run.go(float("inf") if max_minutes is None else 60 * max_minutes, on_progress)
    loss = float(np.mean(run.losses[-20:]))
    model = output / f"{config.name}.safetensors"
    run.export(model, loss)
    return EncoderTrainResult(model, run.step, finished, loss)


@dataclass(slots=True)
class _Run:
    """Network, optimiser and place on disk. All that is random in a step follows from (seed, step)."""

    config: EncoderTrainConfig
    path: Path
    step: int = 0
    losses: list[float] = field(default_factory=list)
    views: Views = field(init=False)
    encoder: torch.nn.Module = field(init=False)
    projection: torch.nn.Module = field(init=False)
    adam: torch.optim.AdamW = field(init=False)
    loss: torch.nn.Module = field(init=False)

    def __post_init__(self) -> None:
        from monai.losses.contrastive import ContrastiveLoss

        config = self.config
        self.views = Views(config)
        with torch.random.fork_rng(devices=[]):
            # Initial weights come from torch's global generator; it is borrowed and given back.
            torch.random.default_generator.manual_seed(derive_seed(config.seed, 0))
            self.encoder = config.network.build()
            width = _width(config.network)
            layers = torch.nn.Linear(width, width), torch.nn.ReLU(), torch.nn.Linear(width, _PROJECTED)
            self.projection = torch.nn.Sequential(*layers)
        self.loss = ContrastiveLoss(temperature=config.temperature)
        parameters = [*self.encoder.parameters(), *self.projection.parameters()]
        self.adam = torch.optim.AdamW(parameters, lr=config.lr, weight_decay=config.weight_decay)

    def go(self, max_seconds: float, on_progress: OnProgress | None) -> bool:
        begin = saved = time.monotonic()
        self.encoder.train()
        while self.step < self.config.steps:
            self.losses.append(self._advance(*self.views.draw(self.step)))
            self.step += 1
            now = time.monotonic()
            if on_progress is not None:
                on_progress(self.step, self.config.steps, f"loss {np.mean(self.losses[-20:]):.3f}")
            if now - saved > 60:
                self._save()
                saved = now
            if now - begin > max_seconds:
                break
        self._save()
        return self.step >= self.config.steps

    def _advance(self, first: Tensor, second: Tensor) -> float:
        config = self.config
        rise = min(1.0, (self.step + 1) / max(1, config.steps // 20))
        rate = config.lr * rise * 0.5 * (1 + np.cos(np.pi * self.step / config.steps))
        for group in self.adam.param_groups:
            group["lr"] = rate
        with torch.autocast("cpu", torch.bfloat16, enabled=config.bfloat16):
            projected = self.projection(self.encoder(torch.cat([first, second])))
        loss = self.loss(*projected.float().chunk(2))
        self.adam.zero_grad(set_to_none=True)
        loss.backward()
        self.adam.step()
        return float(loss.detach())

    def export(self, path: Path, loss: float) -> None:
        """The encoder alone, in half precision, with mean and spread of its features over the people trained on."""
        rounded = {name: tensor.half() for name, tensor in self.encoder.state_dict().items()}
        self.encoder.load_state_dict({name: tensor.float() for name, tensor in rounded.items()})
        self.encoder.eval()
        with torch.no_grad():
            clean = torch.from_numpy(self.views.clean())
            features = torch.cat([self.encoder(one[None]) for one in clean])
        spread = features.std(dim=0).clamp_min(1e-3)
        tensors = {**self.encoder.state_dict(), CENTRE: features.mean(dim=0), SPREAD: spread}
        tensors = {name: tensor for name, tensor in tensors.items() if not name.endswith("num_batches_tracked")}
        card = {
            **self.config.card,
            "name": self.config.name,
            "steps": self.step,
            "planned_steps": self.config.steps,
            "loss": round(loss, 4),
            "features": int(spread.numel()),
            "training_split_sha256": self.views.split,
        }
        write_model(path, FORMAT, self.config.network.model_dump(mode="json"), tensors, card)

    def _save(self) -> None:
        # The place of each moment is the place of its parameter: the optimiser knows no names.
        moments = {
            str(place): state for place, state in self.adam.state_dict()["state"].items() if isinstance(state, dict)
        }
        groups: dict[str, dict[str, Tensor]] = {
            "encoder": self.encoder.state_dict(),
            "projection": self.projection.state_dict(),
            **{f"adam-{place}": state for place, state in moments.items()},
        }
        record = {"step": self.step, "losses": self.losses, "identity": _identity(self.config)}
        save_state(self.path, groups, record)

    def resume(self) -> None:
        """Raises CheckpointError: the state is of another configuration."""
        groups, record = load_state(self.path)
        if record.get("identity") != _identity(self.config):
            raise CheckpointError(f"{self.path}: of another configuration; name another folder, or remove it")
        self.encoder.load_state_dict(groups["encoder"])
        self.projection.load_state_dict(groups["projection"])
        state = self.adam.state_dict()
        state["state"] = {
            int(name.removeprefix("adam-")): values for name, values in groups.items() if name.startswith("adam-")
        }
        self.adam.load_state_dict(state)
        self.step, self.losses = int(record["step"]), [float(value) for value in record["losses"]]


class Views:
    """Batches of pairs: scans degraded in two ways each, in two views each.

    Args:
        config: Who is shown, and how.
    """

    def __init__(self, config: EncoderTrainConfig) -> None:
        self._config = config
        persons = people(config.people)
        self.split = split_sha256(persons)
        i, j, k = (n + 2 * config.margin for n in config.shape)
        self._wide = (i, j, k)
        self._people = load_people(persons, self._wide).images[:, 0]
        heads = config.heads
        self._heads = load_volumes(heads.root, heads.files, torch.device("cpu")) if heads else []

    def clean(self) -> Array:
        """Everybody of the cohort, in the middle, as they are: shape (n, 1, i, j, k)."""
        margin = self._config.margin
        box = tuple(slice(margin, margin + n) for n in self._config.shape)
        return np.ascontiguousarray(self._people[(slice(None), None, *box)])

    def draw(self, step: int) -> tuple[Tensor, Tensor]:
        """The two views of a step, shape (2 * scans, 1, i, j, k) each; items of one place belong together."""
        config = self._config
        rng = np.random.default_rng(derive_seed(config.seed, step))
        chosen = rng.choice(len(self._people), size=config.scans, replace=config.scans > len(self._people))
        pairs: list[tuple[Array, Array]] = []
        for person in chosen:
            use_head = self._heads and rng.random() < config.heads.share if config.heads else False
            wide = self._patch(rng) if use_head else self._people[person]
            first, second = rng.choice(len(DEGRADATIONS), size=2, replace=False)
            pairs += [self._pair(wide, DEGRADATIONS[kind], rng) for kind in (first, second)]
        views = (np.stack([pair[place] for pair in pairs])[:, None] for place in (0, 1))
        first_view, second_view = (torch.from_numpy(view.astype(np.float32)) for view in views)
        return first_view, second_view

    def _pair(self, wide: Array, degrade: Degradation, rng: np.random.Generator) -> tuple[Array, Array]:
        degraded, std = degrade(wide, rng)
        return self._view(degraded, std, rng), self._view(degraded, std, rng)

    def _view(self, wide: Array, std: float, rng: np.random.Generator) -> Array:
        start = rng.integers(0, 2 * self._config.margin, size=3, endpoint=True)
        view = wide[tuple(slice(s, s + n) for s, n in zip(start, self._config.shape, strict=True))]
        return corruptions.noise(view, std, rng) if std else view

    def _patch(self, rng: np.random.Generator) -> Array:
        weights = np.array([head.weight for head in self._heads])
        head = self._heads[rng.choice(len(self._heads), p=weights / weights.sum())]
        centre = head.foreground[rng.integers(len(head.foreground))]
        start = [
            int(np.clip(c - n // 2, 0, max(0, size - n)))
            for c, n, size in zip(centre, self._wide, head.data.shape, strict=True)
        ]
        patch = head.data[tuple(slice(s, s + n) for s, n in zip(start, self._wide, strict=True))].float().numpy()
        lacking = [(0, n - have) for n, have in zip(self._wide, patch.shape, strict=True)]
        return np.pad(patch, lacking, mode="edge")


# What one does to a scan before its two views are taken: the scan, and the noise that each view gets for itself.
Degradation = Callable[[Array, np.random.Generator], tuple[Array, float]]


def _nothing(image: Array, rng: np.random.Generator) -> tuple[Array, float]:
    del rng
    return image, 0.0


def _noisy(image: Array, rng: np.random.Generator) -> tuple[Array, float]:
    return image, float(np.exp(rng.uniform(np.log(0.01), np.log(0.15))))


def _blurred(image: Array, rng: np.random.Generator) -> tuple[Array, float]:
    return corruptions.blur(image, float(rng.uniform(0.3, 1.5))), 0.0


def _thick(image: Array, rng: np.random.Generator) -> tuple[Array, float]:
    return corruptions.thick_slices(image, float(rng.uniform(1.5, 4.0)), int(rng.integers(3))), 0.0


def _shaded(image: Array, rng: np.random.Generator) -> tuple[Array, float]:
    return corruptions.bias_field(image, float(rng.uniform(0.03, 0.3)), rng), 0.0


def _recast(image: Array, rng: np.random.Generator) -> tuple[Array, float]:
    return corruptions.gamma(image, float(rng.uniform(-0.5, 0.5))), 0.0


def _distorted(image: Array, rng: np.random.Generator) -> tuple[Array, float]:
    return corruptions.elastic(image, None, float(rng.uniform(0.4, 3.0)), rng)[0], 0.0


def _scrambled(image: Array, rng: np.random.Generator) -> tuple[Array, float]:
    # Texture without anatomy: what a generator draws that has hardly begun, as sharp and as noisy as people.
    return corruptions.scrambled(image, float(rng.uniform(0.2, 1.0)), rng), 0.0


DEGRADATIONS: tuple[Degradation, ...] = (
    _nothing,
    _noisy,
    _blurred,
    _thick,
    _shaded,
    _recast,
    _distorted,
    _scrambled,
)


def _identity(config: EncoderTrainConfig) -> str:
    """Digest of all that determines the weights; what the card says does not."""
    return config_digest(config.model_copy(update={"card": {}}))


def _width(network: ResNetOptions) -> int:
    return network.block_inplanes[3] * (4 if network.block == "bottleneck" else 1)
