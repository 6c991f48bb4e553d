"""The use case *train*: a config in, a model file out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field, model_validator

from medidiff.config import Config
from medidiff.errors import ConfigError
from medidiff.training.batches import BatchConfig, Batches
from medidiff.training.contrasts import ContrastBatches, ContrastConfig, load_person
from medidiff.training.distributed import ProcessesConfig, Team, join_team
from medidiff.training.generative import GenerativeTrainConfig, generative_plan
from medidiff.training.loop import OptimizerConfig, Progress, Trainer, run_identity
from medidiff.training.objective import PathConfig, Plan, Restoration
from medidiff.training.projections import AIR, ProjectionBatches, ProjectionConfig
from medidiff.training.validate import SliceValidation
from medidiff.training.validate_projections import ProjectionValidation
from medidiff.training.volumes import Source, conform, crop_to_head, list_files, load_volumes


class NetworkConfig(Config):
    """Which network, and how wide."""

    kind: Literal["residual_unet", "monai_unet"] = "residual_unet"
    channels: tuple[int, ...] = (64, 128, 128)
    blocks: int = Field(2, ge=1)
    split: tuple[int, int, int] = (2, 2, 2)
    planar: bool = Field(False, description="planes along the last axis never meet (residual_unet)")

    @property
    def options(self) -> dict[str, Any]:
        """What ``build_network`` takes; an option that only one network has is left out where it is off."""
        return self.model_dump(mode="json", exclude=None if self.planar else {"planar"})


class DataConfig(Config):
    """Where the scans are, and who is in training and who in validation."""

    root: Path
    train: tuple[Source, ...] = Field((), description="needed unless contrasts name the scans")
    validation: str | None = Field(None, description="one head below the root, never trained on")


class ValidationConfig(Config):
    """What is done to the validation scan, and how often it is looked at."""

    every: int = Field(500, ge=1, description="steps")
    factor: float = Field(4.0, ge=1)
    profile: Literal["box", "gaussian"] = "box"
    views: int = Field(40, ge=1, description="CT: over a half turn")
    noise_std: float = Field(0.05, ge=0, description="CT: of the line integrals, model units times pixels")
    planes: int = Field(8, ge=1, description="CT: spread over the scan")


class TrainConfig(Config):
    """A whole training run."""

    kind: Literal["train"] = "train"
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    seed: int = Field(0, ge=0)
    data: DataConfig
    network: NetworkConfig = NetworkConfig()
    batches: BatchConfig = BatchConfig()
    projections: ProjectionConfig | None = Field(None, description="CT: planes from few views, instead of batches")
    contrasts: ContrastConfig | None = Field(None, description="translation between contrasts, instead of batches")
    path: PathConfig = PathConfig()
    optimizer: OptimizerConfig
    validation: ValidationConfig = ValidationConfig()
    bfloat16: bool = Field(False, description="half precision on a processor that has it (AVX512-BF16): 1.6x as fast")
    processes: ProcessesConfig = ProcessesConfig()
    begin_from: Path | None = Field(None, description="model file whose weights are gone on from")
    card: dict[str, str] = Field(default_factory=dict, description="what the model card says of data and limits")

    @model_validator(mode="after")
    def _one_kind_of_data(self) -> TrainConfig:
        if self.contrasts is None and not self.data.train:
            raise ValueError("data.train names no scan")
        if self.contrasts is not None and (self.data.train or self.data.validation or self.projections):
            raise ValueError("contrasts names its own scans: leave out data.train, data.validation and projections")
        return self

    @property
    def made_of(self) -> BatchConfig | ProjectionConfig | ContrastConfig:
        """What a batch holds."""
        return self.contrasts or self.projections or self.batches


AnyTrainConfig = TrainConfig | GenerativeTrainConfig


@dataclass(frozen=True, slots=True)
class TrainOptions:
    """What may differ between two runs of the same config without changing the weights."""

    output: Path
    resume: bool = False
    begin_from: Path | None = None
    begin_step: int = 0
    max_minutes: float | None = None
    device: str | None = None
    compile: bool = False
    checkpoint_minutes: float = 3.0


@dataclass(frozen=True, slots=True)
class TrainResult:
    """What a run left on disk.

    Args:
        validation_psnr_db, baseline_psnr_db: Of a prior, and of the classical answer beside it.
        held_out_loss: Of a generator, on people it was not trained on.
        privacy: What a private run has spent: epsilon, delta, people, accountant.
    """

    model: Path
    steps: int
    finished: bool
    validation_psnr_db: float | None = None
    baseline_psnr_db: float | None = None
    held_out_loss: float | None = None
    privacy: dict[str, Any] | None = None


def train(
    config: AnyTrainConfig, options: TrainOptions, on_progress: Callable[[Progress], None] | None = None
) -> TrainResult:
    """Train a prior or a generator and write it to ``options.output / <name>.safetensors``.

    Raises:
        ConfigError: the data named in the config is not there, the validation scan is among the training files, or
            there are not the processes that the config says.
        CheckpointError: ``resume`` without a fitting state.
    """
    with join_team(config.processes, options.device) as team:
        return _train(config, options, team, on_progress if team.rank == 0 else None)


def _train(
    config: AnyTrainConfig, options: TrainOptions, team: Team, on_progress: Callable[[Progress], None] | None
) -> TrainResult:
    device = team.device
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True
        torch.backends.cuda.matmul.allow_tf32 = True
    plan = make_plan(config, device, options.output)
    options.output.mkdir(parents=True, exist_ok=True)
    trainer = _kind_of_trainer(plan)(
        objective=plan.objective,
        optimizer=config.optimizer,
        batches=plan.batches,
        folder=options.output,
        identity=plan.identity,
        seed=config.seed,
        device=device,
        compile=options.compile,
        bfloat16=config.bfloat16,
        team=team,
    )
    weights = options.begin_from or config.begin_from
    if plan.budget and weights != config.begin_from:
        raise ConfigError("private training begins from what its configuration names: others may have seen the people")
    if weights is not None:
        trainer.begin_from(weights, options.begin_step)
    if options.resume and trainer.state_path.exists():
        trainer.resume()
    finished = trainer.run(
        max_seconds=float("inf") if options.max_minutes is None else 60 * options.max_minutes,
        checkpoint_every=60 * options.checkpoint_minutes,
        validate=plan.validate,
        validate_every=plan.every,
        on_progress=on_progress,
    )
    averaged = trainer.averaged()
    first = team.rank == 0
    score = plan.validate(averaged) if plan.validate and first else None
    baseline = plan.baseline() if plan.baseline and first else None
    model = options.output / f"{config.name}.safetensors"
    card = plan.card(trainer.step, score, baseline)
    trainer.export(model, card | ({"processes": team.size} if team.size > 1 else {}))
    scores = {plan.objective.score_name: score, "baseline_psnr_db": baseline}
    privacy = card["differential_privacy"] if plan.budget else None
    return TrainResult(model, trainer.step, finished, **scores, privacy=privacy)


def _kind_of_trainer(plan: Plan) -> Callable[..., Trainer]:
    if plan.budget is None:
        return Trainer
    from medidiff.training.private import PrivateTrainer

    return partial(PrivateTrainer, budget=plan.budget)


def make_plan(config: AnyTrainConfig, device: torch.device, folder: Path | None = None) -> Plan:
    """All that the loop needs, made from a config: here data are read for the first time."""
    if isinstance(config, GenerativeTrainConfig):
        return generative_plan(config, device)
    _keep_validation_apart(config.data)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
    validation = _validation(config, device)
    return Plan(
        objective=Restoration(config.network.options, config.path),
        batches=make_batches(config, device, folder),
        identity=identity(config),
        validate=validation,
        baseline=validation.baseline if validation else None,
        every=config.validation.every,
        card=lambda steps, score, baseline: _card(config, steps, score, baseline),
    )


def _keep_validation_apart(data: DataConfig) -> None:
    if data.validation is None:
        return
    held_out = (data.root / data.validation).resolve()
    for record in list_files(data.root, data.train):
        if record["path"].resolve() == held_out:
            raise ConfigError(f"the validation scan {data.validation} is also a training file; keep that person apart")


def make_batches(
    config: TrainConfig, device: torch.device, folder: Path | None = None
) -> Batches | ProjectionBatches | ContrastBatches:
    """What the run is trained on; ``folder`` keeps what is costly to simulate."""
    if config.contrasts is not None:
        people = [load_person(config.data.root, files, device) for files in config.contrasts.people]
        return ContrastBatches(people, config.contrasts, config.seed)
    volumes = load_volumes(config.data.root, config.data.train, device)
    if config.projections is not None:
        return ProjectionBatches(volumes, config.projections, config.seed, device, folder)
    return Batches(volumes, config.batches, config.seed, device)


def identity(config: TrainConfig) -> str:
    """Digest of all that determines the weights; where the data lies, and what the card says, does not."""
    here = config.data.model_copy(update={"root": Path()})
    parts = run_identity(config.network, config.optimizer, config.path, here, config.made_of)
    return f"{parts}-{config.seed}{'-bfloat16' if config.bfloat16 else ''}"


def _validation(config: TrainConfig, device: torch.device) -> SliceValidation | ProjectionValidation | None:
    if config.data.validation is None:
        return None
    record = {"path": config.data.root / config.data.validation, "kind": "image", "weight": 1.0, "zoom": 1.0}
    truth = crop_to_head(conform(record)["data"])
    if config.projections is not None:
        planes = np.linspace(0, truth.shape[2] - 1, config.validation.planes + 2).round().astype(int)[1:-1]
        attenuation = torch.from_numpy((truth[:, :, planes] - AIR).clip(min=0)).to(device)
        looks = config.projections.looks if config.projections.looks_from is not None else 1
        return ProjectionValidation(attenuation, config.validation.views, config.validation.noise_std, looks)
    multiple = 16
    truth = truth[tuple(slice(0, n // multiple * multiple) for n in truth.shape)]
    from medidiff.operators.slices import SliceProfile

    profile = SliceProfile(config.validation.factor, config.validation.factor, config.validation.profile)
    return SliceValidation(torch.from_numpy(truth.copy()).to(device), profile)


def _card(config: TrainConfig, steps: int, score: float | None, baseline: float | None) -> dict[str, Any]:
    about: dict[str, Any] = {**config.card, "name": config.name, "steps": steps}
    about["patches"] = steps * config.made_of.size
    if config.contrasts is not None:
        return about | {"contrasts": list(config.contrasts.contrasts)}
    if config.projections is not None:
        return about | {
            "validation": {"views": config.validation.views, "psnr_db": score, "classical_psnr_db": baseline}
        }
    return about | {
        "validation": {
            "factor": config.validation.factor,
            "profile": config.validation.profile,
            "psnr_db": score,
            "cubic_plus_projection_psnr_db": baseline,
        },
    }
