"""Training that nobody in it can be found out by: DP-SGD with the person as the unit.

In each step every person takes part by a draw of their own. All draws of a person's noise levels and distortions make
one gradient, which is clipped once; Gaussian noise is added to the sum over people. What the weights then tell of
anybody is bounded, whatever is done with them afterwards.

A person's draws are one batch, so their gradient is an ordinary one: exact for every network, and as fast as training
without privacy. What is learned of the data before the first step (how intensities are standardised, which conditions
may be asked for) would be outside of the bound: it all comes with the weights that the run begins from.

Source: Abadi et al. (2016), Deep Learning with Differential Privacy, algorithm 1; Dockhorn et al. (2023),
Differentially Private Diffusion Models, sec. 3.2 (noise multiplicity); McMahan et al. (2018), Learning Differentially
Private Recurrent Language Models (the person as the unit).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatch
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from medidiff.errors import CheckpointError, ConfigError
from medidiff.rng import derive_seed
from medidiff.training.generative_data import GenerativeBatch, GenerativeBatches
from medidiff.training.loop import PATH_STREAM, Trainer
from medidiff.training.privacy_budget import Budget

try:
    from medidiff.training.private_noise import KEY_BYTES, KeyedOptimizer, new_key, taking_part
except ImportError as error:
    raise ConfigError("private training needs Opacus: pip install 'medidiff[dp]'") from error

OfPerson = Callable[[int], GenerativeBatch]


class PersonBatches:
    """What a step shows of a person: so many draws of the same one. ``batches[step](person)`` is always the same."""

    def __init__(self, batches: GenerativeBatches, draws: int) -> None:
        self.batches, self.draws = batches, draws

    def __len__(self) -> int:
        return len(self.batches.items)

    def __getitem__(self, step: int) -> OfPerson:
        return partial(self._of, step)

    def _of(self, step: int, person: int) -> GenerativeBatch:
        seeds = [derive_seed(self.batches.seed, step, person, draw) for draw in range(self.draws)]
        return self.batches.of_person(person, seeds)


@dataclass(slots=True)
class PrivateTrainer(Trainer):
    """The training loop with a person's gradient clipped and the sum noised.

    What is told of a step is the length of the noisy gradient: a loss of the people in it would be outside of the
    bound. The state on disk holds the key of the noise, and is as confidential as the scans.
    """

    told: ClassVar[str] = "noisy gradient"

    budget: Budget = field(kw_only=True)
    key: bytes = field(default_factory=new_key, kw_only=True, repr=False)
    parameters: list[nn.Parameter] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        Trainer.__post_init__(self)
        if self.team.size > 1:
            raise ConfigError(f"private training runs in one process, found {self.team.size}: start it plainly")
        self.parameters = choose_trainable(self.model, self.budget.config.trainable)

    def _advance(self, batch: Any) -> Tensor:
        of_person: OfPerson = batch
        config, noisy = self.budget.config, self._optimizer()
        noisy.zero_grad()
        for person in taking_part(self.key, self.step, self.budget.people, config.sampling):
            noisy.contribute(self.gradient(of_person(person), person))
        for group in self.adam.param_groups:
            group["lr"] = self.optimizer.rate(self.step, self.first)
        noisy.finish(self.step)
        self.ema.update(self.model, self.step - self.first)
        self.step += 1
        return torch.stack([p.grad.square().sum() for p in self.parameters if p.grad is not None]).sum().sqrt()

    def gradient(self, batch: GenerativeBatch, person: int) -> Sequence[Tensor]:
        """Of the mean loss over the draws of one person, with respect to what is trained."""
        generator = torch.Generator(self.device).manual_seed(derive_seed(self.seed, self.step, PATH_STREAM, person))
        levels = self.objective.draw(len(batch), generator)
        noise = torch.randn(batch.truth.shape, generator=generator, device=self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16 or self.device.type == "cuda"):
            loss = self.objective.losses(self.model, batch, levels, noise).mean()
        return torch.autograd.grad(loss, self.parameters)

    def _optimizer(self) -> KeyedOptimizer:
        config = self.budget.config
        return KeyedOptimizer(
            self.adam,
            self.key,
            noise_multiplier=self.budget.noise_multiplier,
            max_grad_norm=config.clip,
            expected_batch_size=config.sampling * self.budget.people,
        )

    def _record(self) -> dict[str, Any]:
        return Trainer._record(self) | {"key": self.key.hex()}

    def _restore(self, groups: dict[str, dict[str, Tensor]], record: dict[str, Any]) -> None:
        key = bytes.fromhex(record["key"])
        if len(key) != KEY_BYTES:
            raise CheckpointError(f"{self.state_path}: the key of the noise is damaged")
        Trainer._restore(self, groups, record)
        self.key = key


def choose_trainable(model: nn.Module, patterns: Sequence[str]) -> list[nn.Parameter]:
    """Freeze all parameters but those whose names fit a pattern.

    Raises:
        ConfigError: a pattern fits none.
    """
    names = [name for name, _ in model.named_parameters()]
    for pattern in patterns:
        if not any(fnmatch(name, pattern) for name in names):
            raise ConfigError(f"dp.trainable: no parameter's name fits {pattern!r}; such as {', '.join(names[:3])}")
    chosen = []
    for name, parameter in model.named_parameters():
        wanted = any(fnmatch(name, pattern) for pattern in patterns)
        parameter.requires_grad_(wanted)
        if wanted:
            chosen.append(parameter)
    return chosen
