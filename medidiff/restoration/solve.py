"""The one inverse problem solver: measurements and a prior in, mean and samples out. It knows no file."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from medidiff.diffusion.denoiser import Preconditioned
from medidiff.diffusion.path import sigma_schedule
from medidiff.diffusion.sampler import SOLVERS, posterior_mean, sample
from medidiff.diffusion.tiling import TiledDenoiser, Tiling
from medidiff.errors import ConfigError
from medidiff.guidance import Posterior, condition_from, rule
from medidiff.operators.likelihood import Likelihood
from medidiff.operators.slices import SliceOperator
from medidiff.operators.task import Task
from medidiff.progress import OnProgress, silent
from medidiff.rng import generators

# Noise of the first and last sampling level over the expected residual. The first lies where the network is blind: a
# residual is far larger at low spatial frequencies than on average, so from 8 down samples come out too smooth.
SAMPLE_FROM, SAMPLE_TO = 80.0, 0.02
# Rounds of clipping and projecting; each roughly halves what is left of the disagreement.
NONNEGATIVE_ROUNDS = 24
# Relative disagreement at which the rounds end, and beyond which agreement with the data goes before positivity.
CONSISTENT, NOT_CONSISTENT = 1e-3, 4e-3


class Measurement(Protocol):
    """A linear operator that can tell a network what it did."""

    in_shape: tuple[int, ...]
    out_shape: tuple[int, ...]

    def forward(self, x: Tensor) -> Tensor: ...
    def adjoint(self, y: Tensor) -> Tensor: ...
    def solve_gram(self, r: Tensor, damping: float | Tensor) -> Tensor: ...
    def reference(self, y: Tensor) -> Tensor: ...
    def known(self, y: Tensor) -> Tensor: ...
    def task(self, noise_std: float = 0.0) -> Task: ...


@dataclass(frozen=True, slots=True)
class Settings:
    """How to restore.

    Args:
        samples: Posterior samples to draw; 0 gives the mean alone, in one evaluation.
        steps: Evaluations a sample.
        solver: One of ``SOLVERS``.
        guidance: One of ``medidiff.guidance.RULES``.
        seed: For the samples.
        noise_std: Noise in the measurements, model units; 0 makes the data binding.
        lower: Smallest possible value, model units; None if values may be negative.
        tiling: How a large volume is cut.
    """

    samples: int = 0
    steps: int = 8
    solver: str = "multistep"
    guidance: str = "projection"
    seed: int = 0
    noise_std: float = 0.0
    lower: float | None = None
    tiling: Tiling = field(default_factory=Tiling)

    def __post_init__(self) -> None:
        if self.samples < 0 or not 1 <= self.steps <= 1000:
            raise ConfigError(f"samples must be >= 0 and steps 1 to 1000, got {self.samples} and {self.steps}")
        if self.solver not in SOLVERS:
            raise ConfigError(f"unknown solver {self.solver!r}; expected one of {', '.join(SOLVERS)}")
        rule(self.guidance)


@dataclass(frozen=True, slots=True)
class Restored:
    """What came out, model units.

    Args:
        mean: Posterior mean, shape (b, c, i, j, k).
        samples: One tensor a sample, each like ``mean``.
        misfit: Relative data-consistency error of the mean.
    """

    mean: Tensor
    samples: tuple[Tensor, ...]
    misfit: float


@torch.no_grad()
def restore(
    model: Preconditioned, operator: Measurement, y: Tensor, settings: Settings, on_step: OnProgress | None = None
) -> Restored:
    """Restore measurements of shape (1, *operator.out_shape), on their device.

    The mean is one evaluation of the network, projected onto the data; each sample takes ``steps`` more.
    """
    if isinstance(operator, SliceOperator) and operator.axis != 2:
        return _turned(model, operator, y, settings, on_step)
    likelihood = Likelihood(operator, y, settings.noise_std)  # type: ignore[arg-type]
    condition = condition_from(operator, y, settings.noise_std)
    prior = TiledDenoiser(model, condition, settings.tiling)
    posterior = Posterior(prior, likelihood, rule(settings.guidance))
    shape = (1, *operator.in_shape)
    report = on_step or silent
    total = 1 + settings.samples * settings.steps
    report(0, total, "posterior mean")
    mean = _bounded(posterior_mean(posterior, shape, device=y.device), likelihood, settings)
    report(1, total, "posterior mean")
    samples = []
    sigmas = sigma_schedule(SAMPLE_TO * prior.spread, SAMPLE_FROM * prior.spread, settings.steps)
    for index in range(settings.samples):
        begun = 1 + index * settings.steps

        def step(done: int, _: int, begun: int = begun, index: int = index) -> None:
            report(begun + done, total, f"sample {index + 1} of {settings.samples}")

        drawn = sample(
            posterior,
            shape,
            sigmas,
            # Noise is drawn on the CPU, so that a seed means the same on every device.
            generators=[generators(settings.seed, index + 1)[index]],
            solver=SOLVERS[settings.solver],
            start=condition.reference,
            on_step=step,
        )
        samples.append(_bounded(drawn, likelihood, settings))
    return Restored(mean, tuple(samples), float(likelihood.misfit(mean).max()))


def _turned(
    model: Preconditioned, operator: SliceOperator, y: Tensor, settings: Settings, on_step: OnProgress | None
) -> Restored:
    """Restore with the slices along the last axis, where the network met them in training, and turn back.

    Left along another axis, slices cost more than 1 dB: the network sharpens the wrong direction.
    """
    axis = operator.axis + 2
    channels, *fine = operator.in_shape
    fine.append(fine.pop(operator.axis))
    same = SliceOperator((channels, *fine), 2, operator.profile, count=operator.out_shape[operator.axis + 1])  # type: ignore[arg-type]
    done = restore(model, same, y.movedim(axis, -1).contiguous(), settings, on_step)
    mean, *samples = (x.movedim(-1, axis).contiguous() for x in (done.mean, *done.samples))
    return Restored(mean, tuple(samples), done.misfit)


def _bounded(x: Tensor, likelihood: Likelihood, settings: Settings) -> Tensor:
    """Values that a scanner can produce; to go back to data that do not bind would bring their noise back."""
    if settings.lower is not None and settings.noise_std and settings.guidance != "projection":
        return x.clamp_min(settings.lower)
    return nonnegative(x, likelihood, settings.lower)


def nonnegative(x: Tensor, likelihood: Likelihood, lower: float | None) -> Tensor:
    """Alternate between values that a scanner can produce and images that reproduce the data.

    Both sets are convex and the truth lies in both, so every step brings the image nearer to the truth. Where the two
    cannot be reconciled in time, agreement with the data is kept, and a trace below ``lower`` is left.
    Source: Youla & Webb (1982), Image restoration by the method of convex projections, IEEE Trans. Med. Imaging 1, 81.
    """
    if lower is None or bool((x >= lower).all()):
        return x
    for _ in range(NONNEGATIVE_ROUNDS):
        clipped = x.clamp_min(lower)
        misfit = float(likelihood.misfit(clipped).max())
        if misfit <= CONSISTENT:
            return clipped
        x = likelihood.project(clipped)
    return clipped if misfit <= NOT_CONSISTENT else x
