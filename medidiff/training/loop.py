"""The training loop: draws, steps, averages, and a state on disk that a killed run goes on from.

Everything random in a step is a function of (seed, step), so a run that is killed at any moment and resumed ends,
on a CPU, with bit-identical weights.
"""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from medidiff.config import Config, config_digest
from medidiff.diffusion.checkpoint import load_state, save_state
from medidiff.diffusion.ema import EMA
from medidiff.errors import CheckpointError
from medidiff.rng import derive_seed
from medidiff.training.distributed import Alone, Team
from medidiff.training.objective import AnyBatch, AnyBatches, Objective

# A stream of its own for the noise of the diffusion path, so that adding a degradation does not shift it.
PATH_STREAM = 1


class OptimizerConfig(Config):
    """AdamW with warm-up, a plateau, and a linear descent to zero over the last part of the run."""

    steps: int = Field(ge=1)
    lr: float = Field(3e-4, gt=0)
    warmup: int = Field(200, ge=0)
    descent: float = Field(0.4, ge=0, le=1, description="share of the steps over which the rate falls to zero")
    weight_decay: float = Field(0.01, ge=0)
    clip: float = Field(1.0, gt=0)
    ema: float = Field(0.999, ge=0, lt=1)

    def rate(self, step: int, first: int = 0) -> float:
        """Learning rate of a step; after ``first`` the warm-up is repeated (a run that goes on from weights alone)."""
        rise = min(1.0, (step - first + 1) / max(1, self.warmup))
        fall = min(1.0, (self.steps - step) / max(1.0, self.descent * self.steps))
        return self.lr * rise * fall


@dataclass(slots=True)
class Progress:
    """What a progress line shows.

    Args:
        told: What ``loss`` is, in words.
    """

    step: int
    steps: int
    loss: float
    seconds: float
    rate: float
    score: float | None = None
    told: str = "loss"


@dataclass(slots=True)
class Trainer:
    """Owns the model, its average, the optimiser and the place on disk.

    Args:
        objective: What is trained: the model, its loss, its file.
        folder: Where the state, the loss curve and the model are written.
        identity: Digest of all that determines the result; a state of another identity is not resumed.
        team: The processes that train together; only its first writes files.
    """

    # What is told of a step.
    told: ClassVar[str] = "loss"

    objective: Objective
    optimizer: OptimizerConfig
    batches: AnyBatches
    folder: Path
    identity: str
    seed: int
    device: torch.device
    compile: bool = False
    bfloat16: bool = False
    team: Team = field(default_factory=Alone)
    first: int = 0
    step: int = 0
    history: list[tuple[int, float, float | None]] = field(default_factory=list)
    model: nn.Module = field(init=False)
    ema: EMA = field(init=False)
    adam: torch.optim.AdamW = field(init=False)
    _joined: Any = field(init=False, repr=False)

    def __post_init__(self) -> None:
        with torch.random.fork_rng(devices=[]):
            # Initial weights come from torch's global generator; it is borrowed and given back.
            torch.random.default_generator.manual_seed(derive_seed(self.seed, 0))
            self.model = self.objective.build()
        layout = torch.channels_last_3d if self.device.type == "cuda" else torch.contiguous_format
        self.model.to(self.device, memory_format=layout)  # type: ignore[call-overload]
        self._joined = self.team.prepare(self.model, "raw")
        self.ema = EMA(self.model, self.optimizer.ema)
        self.adam = torch.optim.AdamW(
            self.model.parameters(), lr=self.optimizer.lr, betas=(0.9, 0.99), weight_decay=self.optimizer.weight_decay
        )

    def run(
        self,
        *,
        max_seconds: float = math.inf,
        checkpoint_every: float = 180.0,
        validate_every: int = 0,
        validate: Callable[[Any], float] | None = None,
        on_progress: Callable[[Progress], None] | None = None,
        report_every: int = 20,
    ) -> bool:
        """Train until the last step or the time limit; the state is on disk in either case.

        Returns:
            True if the last step was reached.
        """
        if self.compile:
            network: Any = self.model.network
            network.compile(dynamic=False)
        begin = saved = time.monotonic()
        window: list[Tensor] = []
        while self.step < self.optimizer.steps:
            window.append(self._advance(self.batches[self.step]))
            now, score, averaged = time.monotonic(), None, None
            if validate is not None and validate_every and self.step % validate_every == 0:
                averaged = self.averaged()
                score = validate(averaged) if self.team.rank == 0 else None  # the others wait at the next decision
            if self.step % report_every == 0 or averaged is not None:
                loss = float(self.team.mean(torch.stack(window).mean()))
                window.clear()
                self.history.append((self.step, loss, score))
                if on_progress is not None:
                    rate = self.optimizer.rate(self.step, self.first)
                    on_progress(Progress(self.step, self.optimizer.steps, loss, now - begin, rate, score, self.told))
            if self.team.decide(now - saved > checkpoint_every):
                self.save()
                saved = time.monotonic()
            if self.team.decide(now - begin > max_seconds):
                break
        self.save()
        return self.step >= self.optimizer.steps

    def _advance(self, batch: AnyBatch) -> Tensor:
        """One optimiser step; returns the loss without waiting for the device."""
        generator = torch.Generator(self.device).manual_seed(derive_seed(self.seed, self.step, PATH_STREAM))
        levels = self.objective.draw(len(batch.truth), generator)
        noise = torch.randn(batch.truth.shape, generator=generator, device=self.device)
        # All was drawn for the whole batch; here it is cut to what this process sees.
        mine = self.team.share(len(batch.truth))
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16 or self.device.type == "cuda"):
            losses = self.objective.losses(self._joined, batch[mine], levels[mine], noise[mine])
        # Where the batch does not divide evenly, every item still weighs the same.
        loss: Tensor = losses.mean() * (len(losses) * self.team.size / len(batch.truth))
        self.adam.zero_grad(set_to_none=True)
        self.team.backward(loss)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.optimizer.clip)
        for group in self.adam.param_groups:
            group["lr"] = self.optimizer.rate(self.step, self.first)
        self.adam.step()
        self.ema.update(self.model, self.step - self.first)
        self.step += 1
        return loss.detach()

    def averaged(self) -> nn.Module:
        """The averaged model as one of its own, for validation and for use."""
        model = self.objective.build().to(self.device)
        average = {name: self.team.whole(tensor) for name, tensor in self.ema.tensors().items()}
        model.load_state_dict(average)
        return model.eval().requires_grad_(False)

    @property
    def state_path(self) -> Path:
        return self.folder / "state.safetensors"

    def save(self) -> None:
        """Write the state and the loss curve, each in one rename."""
        moments = {name: self.adam.state[p] for name, p in self.model.named_parameters() if p in self.adam.state}
        groups: dict[str, dict[str, Tensor]] = {
            "model": dict(self.model.named_parameters()),
            "ema": self.ema.tensors(),
            "first_moment": {name: state["exp_avg"] for name, state in moments.items()},
            "second_moment": {name: state["exp_avg_sq"] for name, state in moments.items()},
        }
        whole = {
            group: {name: self.team.whole(tensor) for name, tensor in members.items()}
            for group, members in groups.items()
        }
        if self.team.rank == 0:
            save_state(self.state_path, whole, self._record())
            self._write_curve()

    def _record(self) -> dict[str, Any]:
        """What a state says beside its tensors."""
        return {"step": self.step, "first": self.first, "identity": self.identity, "history": self.history}

    def resume(self) -> None:
        """Go on from the state on disk.

        Raises:
            CheckpointError: there is none, or it belongs to another configuration.
        """
        groups, record = load_state(self.state_path)
        if record.get("identity") != self.identity:
            raise CheckpointError(
                f"{self.state_path}: this state belongs to another configuration or code version; "
                "use another output folder, or start afresh without --resume"
            )
        try:
            self._restore(groups, record)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(f"{self.state_path}: the training state is incomplete ({error!r})") from error

    def _restore(self, groups: dict[str, dict[str, Tensor]], record: dict[str, Any]) -> None:
        parameters = dict(self.model.named_parameters())
        with torch.no_grad():
            for name, parameter in parameters.items():
                self.team.fill(parameter, groups["model"][name])
                self.team.fill(self.ema.average[name], groups["ema"][name])
        for name, parameter in parameters.items():
            if name in groups.get("first_moment", {}):
                self.adam.state[parameter] = {
                    "step": torch.tensor(float(record["step"] - record["first"])),
                    "exp_avg": self.team.like(groups["first_moment"][name], parameter),
                    "exp_avg_sq": self.team.like(groups["second_moment"][name], parameter),
                }
        self.step, self.first = int(record["step"]), int(record["first"])
        self.history = [(int(s), float(loss), score) for s, loss, score in record["history"]]
        if not float(self.team.mean(torch.tensor(float(self.step)))) == self.step:
            raise ValueError("not every process found the same step: the output folder must be one for all machines")

    def begin_from(self, weights: Path, step: int = 0) -> None:
        """Start from the weights of a model file, as at ``step`` of the schedule: fine-tuning, or another machine."""
        given = self.objective.read(weights, self.device)
        parameters = dict(self.model.named_parameters())
        if {n: p.shape for n, p in given.named_parameters()} != {n: p.shape for n, p in parameters.items()}:
            raise CheckpointError(f"{weights}: these are the weights of another network than the config's")
        for name, parameter in given.named_parameters():
            self.team.fill(parameters[name], parameter)
        self.ema = EMA(self.model, self.optimizer.ema)
        self.step = self.first = step

    def export(self, path: Path, card: dict[str, Any]) -> None:
        """Write the averaged model as the file that is used afterwards."""
        average = {name: self.team.whole(tensor) for name, tensor in self.ema.tensors().items()}
        if self.team.rank == 0:
            self.objective.write(path, average, card)

    def _write_curve(self) -> None:
        from medidiff.io.atomic import atomic_file

        with atomic_file(self.folder / "curve.csv") as temporary, temporary.open("w", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(("step", self.told, self.objective.score_name))
            writer.writerows(
                (s, f"{loss:.6f}", "" if score is None else f"{score:.4f}") for s, loss, score in self.history
            )


def run_identity(*configs: Config) -> str:
    """Digest of everything that determines the weights."""
    return "-".join(config_digest(config)[:16] for config in configs)
