"""Training a generator of labelled volumes: its configuration, its loss, and what the loop needs of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Float
from pydantic import Discriminator, Field, SerializerFunctionWrapHandler, Tag, model_serializer
from torch import Tensor, nn
from torch.nn import functional

from medidiff.config import Config
from medidiff.data.cohort import Cohort, People, load_people, people, split_sha256
from medidiff.data.procedural import Procedural, procedural_people
from medidiff.diffusion.generator import (
    GIVEN_ON_CARD,
    Conditions,
    GenerativeModel,
    GeneratorSpec,
    GridShape,
    load_generator,
    save_generator,
)
from medidiff.diffusion.network import build_network
from medidiff.errors import ConfigError
from medidiff.rng import derive_seed
from medidiff.training.distributed import ProcessesConfig
from medidiff.training.generative_data import (
    EncodedPerson,
    GenerativeBatch,
    GenerativeBatches,
    ItemConfig,
    encode_people,
)
from medidiff.training.generative_spec import LabelName, Source, measure_spec
from medidiff.training.loop import OptimizerConfig, run_identity
from medidiff.training.objective import AnyBatches, Plan
from medidiff.training.privacy_budget import Budget, DpConfig

# Label channels are smooth and soon learned; the image is what takes the time (its error is 3 to 8 times theirs).
IMAGE_WEIGHT = 2.0
# Means over blocks of so many voxels a side, and how often their error counts beside that of voxels: about as often as
# such means vary less between people than voxels do (of hippocampi 5, 11 and, over the whole volume, 58 times).
BLOCKS = ((4, 5.0), (8, 10.0))
WHOLE = 50.0


class GeneratorNetwork(Config):
    """Which network, and how wide."""

    kind: Literal["residual_unet", "monai_unet"] = "residual_unet"
    channels: tuple[int, ...] = (48, 128, 160)
    blocks: int = Field(1, ge=1)
    split: tuple[int, int, int] = (2, 2, 2)
    whole: bool = Field(False, description="means of large blocks enter every level and count in the loss; attention")

    def options(self, spec: GeneratorSpec) -> dict[str, Any]:
        """What ``build_network`` takes."""
        sizes = {"image": spec.channels, "side": spec.side, "embedding": spec.embedding}
        return {**self.model_dump(mode="json"), **sizes}


class NoiseConfig(Config):
    """Which noise levels are trained: log-normal, in units of the channels' own variance."""

    mean: float = 0.2
    std: float = Field(1.6, gt=0)
    low: float = Field(0.02, gt=0)
    high: float = Field(160.0, gt=0)

    def draw(self, count: int, generator: torch.Generator) -> Float[Tensor, " b"]:
        """Noise levels, one from each of ``count`` equally likely bands: batches differ less than by free draws."""
        device = generator.device
        bands = torch.randperm(count, generator=generator, device=device)
        share = (bands + torch.rand(count, generator=generator, device=device)) / count
        normal = torch.erfinv((2 * share - 1).clamp(-1 + 1e-6, 1 - 1e-6)) * 2**0.5
        return torch.exp(self.mean + self.std * normal).clamp(self.low, self.high)


def generative_loss(
    model: GenerativeModel,
    x0: Float[Tensor, "b c i j k"],
    conditions: Conditions,
    sigma: Float[Tensor, " b"],
    noise: Float[Tensor, "b c i j k"],
    inside: Tensor | None = None,
    *,
    blocks: bool = False,
) -> Float[Tensor, " b"]:
    """Squared error of the network's own output, one value an item, every noise level at unit weight.

    It counts voxels that were acquired, and label channels only where they were not given.

    Args:
        x0: Clean channels.
        conditions: What the network is told.
        sigma: Noise levels.
        noise: White, unit variance.
        inside: 1 where the loss counts, shape (b, 1, i, j, k); if None, what the conditions call acquired.
        blocks: Count the error of means of blocks as well. The best answer is the same; without it, what all voxels
            have in common, such as brightness, is a hundredth of the loss and is learned last.
    Source: Karras et al. (2022), table 1, sigma_data = 1; Hoogeboom et al. (2023), simple diffusion, sec. 3.2.
    """
    s = sigma.view(-1, 1, 1, 1, 1)
    inward = torch.rsqrt(1 + s**2)
    noisy = x0 + s * noise
    target = (x0 - noisy / (1 + s**2)) / (s * inward)
    error = model.raw(noisy * inward, sigma, conditions) - target
    counted = (conditions.inside if inside is None else inside).expand_as(error).clone()
    counted[:, :1] *= IMAGE_WEIGHT
    counted[:, 1:] *= (1 - conditions.labels_given).view(-1, 1, 1, 1, 1)
    loss = (error.square() * counted).flatten(1).sum(1) / counted.flatten(1).sum(1).clamp(min=1)
    return loss + _of_blocks(error * counted) if blocks else loss


def _of_blocks(error: Float[Tensor, "b c i j k"]) -> Float[Tensor, " b"]:
    """Weighted squared error of means."""
    loss = WHOLE * error.mean((2, 3, 4)).square().mean(1)
    for side, weight in BLOCKS:
        loss = loss + weight * functional.avg_pool3d(error, side).square().flatten(1).mean(1)
    return loss


class HeldOut(Config):
    """People whom the run never trains on: their loss is watched, beside that of as many training people."""

    people: Cohort
    every: int = Field(500, ge=1, description="steps")


def _which(value: Any) -> str:
    kind = value.get("kind") if isinstance(value, dict) else getattr(value, "kind", None)
    return "procedural" if kind == "procedural" else "cohort"


Learners = Annotated[Annotated[Cohort, Tag("cohort")] | Annotated[Procedural, Tag("procedural")], Discriminator(_which)]


class GenerativeTrainConfig(Config):
    """A whole training run of a generator."""

    kind: Literal["train-generator"] = "train-generator"
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    seed: int = Field(0, ge=0)
    people: Learners
    shape: GridShape = Field(description="voxels of the grid")
    modality: Literal["MR", "CT"] = "MR"
    suffix: str = Field("T1w", pattern=r"^[A-Za-z0-9]{1,16}$")
    labels: tuple[LabelName, ...] = ()
    clip_voxels: float = Field(4.0, gt=0.5)
    conditions: tuple[Source, ...] = ()
    network: GeneratorNetwork = GeneratorNetwork()
    items: ItemConfig = ItemConfig()
    noise: NoiseConfig = NoiseConfig()
    optimizer: OptimizerConfig
    bfloat16: bool = Field(False, description="half precision on a processor that has it (AVX512-BF16): 1.7x as fast")
    held_out: HeldOut | None = None
    processes: ProcessesConfig = ProcessesConfig()
    begin_from: Path | None = Field(None, description="generator file whose weights are gone on from")
    dp: DpConfig | None = Field(None, description="differential privacy of everybody in training")
    card: dict[str, Any] = Field(default_factory=dict, description="what the model card says of data and limits")

    @property
    def missing_on_card(self) -> list[str]:
        """What ``synthesize`` will ask of the card and training cannot know."""
        return [key for key in GIVEN_ON_CARD if not self.card.get(key)]

    @model_serializer(mode="wrap")
    def _without_absent(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A run without privacy keeps the digest it has always had."""
        values: dict[str, Any] = handler(self)
        return {name: value for name, value in values.items() if name != "dp" or value is not None}


@dataclass(frozen=True, slots=True)
class Generation:
    """What the training loop needs to train a generator: an ``Objective``."""

    network: Mapping[str, Any]
    spec: GeneratorSpec
    noise: NoiseConfig

    @property
    def score_name(self) -> str:
        return "held_out_loss"

    def build(self) -> nn.Module:
        return GenerativeModel(build_network(**self.network), self.spec)

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        return self.noise.draw(count, generator)

    def losses(self, model: Any, batch: GenerativeBatch, levels: Tensor, noise: Tensor) -> Tensor:
        return generative_loss(
            model, batch.truth, batch.conditions, levels, noise, blocks=bool(self.network.get("whole"))
        )

    def read(self, path: Path, device: torch.device) -> nn.Module:
        return load_generator(path, device)[0]

    def write(self, path: Path, tensors: Mapping[str, Tensor], card: Mapping[str, Any]) -> None:
        save_generator(path, self.network, self.spec, tensors, card)


def generative_plan(config: GenerativeTrainConfig, device: torch.device) -> Plan:
    """All that the loop needs to train a generator.

    Raises:
        ConfigError: there are not the people that the config names, or somebody is in training and held out.
    """
    if config.dp is not None:
        check_private(config)
    everybody = gather(config)
    spec = (
        _public_spec(config)
        if config.dp is not None
        else measure_spec(
            everybody,
            config.labels,
            config.conditions,
            suffix=config.suffix,
            modality=config.modality,
            clip_voxels=config.clip_voxels,
            sigma_min=config.noise.low,
            sigma_max=config.noise.high,
        )
    )
    budget = None if config.dp is None else Budget.plan(config.dp, len(everybody), config.optimizer.steps)
    batches = GenerativeBatches(everybody, spec, config.conditions, config.items, config.seed, device)
    held_out = None if config.held_out is None else _held_out(config, config.held_out, spec)
    about = {**config.card, "name": config.name, **_who(config, everybody)}

    def card(steps: int, score: float | None, _: float | None) -> dict[str, Any]:
        validation = dict(config.card.get("validation", {}))
        if score is not None:
            validation["held_out_loss"] = round(score, 4)
        about_steps = {"items": steps * config.items.size} if budget is None else budget.card(steps)
        return about | {"steps": steps, **about_steps, "validation": validation}

    return Plan(
        objective=Generation(config.network.options(spec), spec, config.noise),
        batches=batches if config.dp is None else by_person(batches, config.dp.draws),
        identity=identity(config),
        validate=held_out,
        baseline=None,
        every=0 if config.held_out is None else config.held_out.every,
        card=card,
        budget=budget,
    )


def gather(config: GenerativeTrainConfig) -> People:
    """Those who are learned from, on the grid."""
    if isinstance(config.people, Procedural):
        return procedural_people(config.people, config.shape)
    return load_people(people(config.people), config.shape)


def _who(config: GenerativeTrainConfig, everybody: People) -> dict[str, Any]:
    """What the card says of who was learned from."""
    if isinstance(config.people, Procedural):
        return {"people": 0, "procedural": len(everybody)}
    return {"people": len(everybody), "training_split_sha256": split_sha256(everybody.persons)}


def check_private(config: GenerativeTrainConfig) -> None:
    """Refuse what would tell something of the people outside of the bound.

    Raises:
        ConfigError: weights to begin from are missing, or held-out people would be measured without noise.
    """
    if config.begin_from is None or not config.begin_from.is_file():
        raise ConfigError(
            f"begin_from: private training begins from weights of public or made-up data, found {config.begin_from}; "
            "train them first, e.g. `medidiff train configs/hippocampus-procedural.yaml`"
        )
    if config.held_out is not None:
        raise ConfigError("held_out: a loss would be told without noise; leave it out of private training")


def _public_spec(config: GenerativeTrainConfig) -> GeneratorSpec:
    """How channels are standardised and what can be asked for, from the weights that the run begins from.

    Raises:
        ConfigError: they are of another grid, or of other labels or conditions than the config's.
    """
    if config.begin_from is None:
        raise ConfigError("begin_from: there are no weights to begin from")
    spec = load_generator(config.begin_from)[0].spec
    found = (spec.shape, {entry.value for entry in spec.labels}, [entry.name for entry in spec.conditions])
    wanted = (config.shape, {entry.value for entry in config.labels}, [entry.name for entry in config.conditions])
    if found != wanted:
        raise ConfigError(f"begin_from: expected grid, label values and conditions {wanted}, its generator has {found}")
    return spec


def by_person(batches: GenerativeBatches, draws: int) -> AnyBatches:
    """The batches of a private run: what a step shows of each person."""
    from medidiff.training.private import PersonBatches

    return PersonBatches(batches, draws)


def identity(config: GenerativeTrainConfig) -> str:
    """Digest of all that determines the weights; where the people's files lie, and what the card says, does not."""
    nowhere = Path()
    places = [name for name in ("images", "labels", "dataset") if getattr(config.people, name, None) is not None]
    who = config.people.model_copy(update=dict.fromkeys(places, nowhere))
    made_of: dict[str, Any] = {
        "people": who,
        "card": {},
        "held_out": None,
        "processes": ProcessesConfig(),
        "begin_from": None,
    }
    return run_identity(config.model_copy(update=made_of))


@dataclass(frozen=True, slots=True)
class DenoisingError:
    """The loss on given people, unbent, at fixed noise levels with fixed noise: only the model changes it."""

    items: tuple[EncodedPerson, ...]
    spec: GeneratorSpec
    sigmas: tuple[float, ...] = (0.1, 0.3, 1.0, 3.0, 10.0)
    seed: int = 0

    def __call__(self, model: GenerativeModel) -> float:
        return float(self.by_person(model).mean())

    @torch.no_grad()
    def by_person(self, model: GenerativeModel) -> Float[Tensor, "n s"]:
        """Of every person (rows) at every noise level (columns)."""
        return torch.stack([self._of(model, place) for place in range(len(self.items))])

    def _of(self, model: GenerativeModel, place: int) -> Tensor:
        item = self.items[place]
        device = next(model.parameters()).device
        told = model.conditions([{}], inside=item.inside[None])
        x0 = item.channels[None].to(device)
        losses = []
        for level, sigma in enumerate(self.sigmas):
            generator = torch.Generator().manual_seed(derive_seed(self.seed, place, level))
            noise = torch.randn(x0.shape, generator=generator).to(device)
            losses.append(generative_loss(model, x0, told, torch.full((1,), sigma, device=device), noise)[0])
        return torch.stack(losses)


def _held_out(config: GenerativeTrainConfig, held_out: HeldOut, spec: GeneratorSpec) -> DenoisingError:
    apart = people(held_out.people)
    training = people(config.people) if isinstance(config.people, Cohort) else []
    both = {p.image.resolve() for p in apart} & {p.image.resolve() for p in training}
    if both:
        raise ConfigError(f"held_out: {len(both)} of its people are in training as well; keep them apart")
    return DenoisingError(tuple(encode_people(load_people(apart, config.shape), spec, config.conditions)), spec)
