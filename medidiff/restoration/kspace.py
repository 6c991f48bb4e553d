"""From under-sampled k-space to images: a strong classical image, then the network and the data in turn."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from medidiff.data.intensity import IntensityCodec
from medidiff.diffusion.denoiser import Condition, Denoiser, Preconditioned
from medidiff.diffusion.path import sigma_schedule
from medidiff.diffusion.sampler import SOLVERS, sample
from medidiff.diffusion.tiling import TiledDenoiser
from medidiff.errors import ConfigError
from medidiff.guidance import Posterior, condition_of
from medidiff.operators.base import toward_data
from medidiff.operators.kspace import CartesianKSpace
from medidiff.operators.likelihood import Likelihood
from medidiff.operators.task import Task
from medidiff.restoration.refine import alternate, with_phase
from medidiff.restoration.solve import SAMPLE_FROM, SAMPLE_TO, Settings
from medidiff.restoration.sparse import sparse_reconstruction
from medidiff.rng import generators

OnEvaluation = Callable[[int, int], None]

# The outer share of the samples in which noise is looked for: a head has next to nothing there.
OUTER_SHARE = 0.1
# Weight of the wavelets in the classical image, over the scale of the image, and its iterations; of 0.0005 to 0.008 the
# best on the training heads, where it hardly depends on noise, coils or acceleration.
SPARSE_WEIGHT, SPARSE_STEPS = 1e-3, 60
# What the network is told of the acceleration in its first and last evaluation: the sparse image leaves less to be put
# right than the conjugate gradients of training did. Chosen on the training heads, as is all that follows.
TOLD_FIRST, TOLD_LAST = 2.0, 1.2
# What is still wrong with an answer, in model units: with the noise of the data it gives the weight of the answer
# against them, 0.1 at 1% noise; within limits for what the network itself is sure of.
ANSWER_ERROR = 0.022
LEAST_PULL, MOST_PULL = 0.02, 1.0
# Wavelets in the steps between: without them 0.4 dB are lost after six evaluations (four-fold, a training head).
STEP_WEIGHT, STEP_STEPS = 5e-4, 10
# Conjugate-gradient steps from the network's answer toward the data, in samples.
DATA_STEPS = 12


@dataclass(frozen=True, slots=True)
class RestoredKSpace:
    """What came out, in the units of the k-space that went in.

    Args:
        image: Complex estimate, shape (1, 1, i, j, k).
        classical: Sparse in wavelets, without a network, likewise complex.
        misfit: Relative data-consistency error ``|A image - y| / |y|``.
        noise_std: Root mean squared modulus of the complex noise in a sample, given or estimated.
        samples: Posterior samples, magnitudes, each of shape (1, 1, i, j, k).
    """

    image: Tensor
    classical: Tensor
    misfit: float
    noise_std: float = 0.0
    samples: tuple[Tensor, ...] = ()

    @property
    def magnitude(self) -> Tensor:
        """Shape (1, 1, i, j, k), real."""
        return self.image.abs()


@torch.no_grad()
def restore_kspace(
    model: Preconditioned | None,
    operator: CartesianKSpace,
    y: Tensor,
    settings: Settings | None = None,
    *,
    noise_std: float | None = None,
    on_evaluation: OnEvaluation | None = None,
) -> RestoredKSpace:
    """Estimate the image from measured k-space.

    The network knows magnitudes alone. It is shown that of a classical image; its answer takes the phase of that image,
    which is smooth and survives under-sampling, and is moved toward the samples. That is shown to it again, and so on.

    Args:
        model: Prior; None for the classical image alone.
        operator: How k-space was sampled.
        y: Samples, zero where none was taken, shape (1, *operator.out_shape), complex, any units.
        settings: ``steps`` evaluations for the estimate, and as many for each of ``samples``.
        noise_std: Root mean squared modulus of the complex noise in ``y``, in its units; estimated if None, 0 makes the
            data binding.
    Raises:
        ConfigError: a negative or infinite noise level.
        InputError: the image is constant: no sample holds anything.
    """
    if noise_std is not None and not 0 <= noise_std < math.inf:
        raise ConfigError(f"noise_std must be a finite number, at least 0, got {noise_std:g}")
    settings = settings or Settings()
    codec = IntensityCodec.fit(operator.classical(y).abs().cpu().numpy())
    # k-space has no offset: the transform of one would be a spike in the middle.
    scale = codec.scale + codec.offset
    noise = (kspace_noise(operator, y) if noise_std is None else noise_std) / scale
    y = y / scale
    classical = strong_classical(operator, y)
    x, samples = classical, []
    if model is not None:
        count = settings.steps * (1 + settings.samples)

        def report(done: int, _: int, before: int = 0) -> None:
            if on_evaluation is not None:
                on_evaluation(before + done, count)

        told = told_accelerations(settings.steps, operator.acceleration)
        conditions = [_condition(acceleration, noise) for acceleration in told]
        x = alternate(
            model, classical, conditions, _data_step(operator, y, noise), tiling=settings.tiling, on_evaluation=report
        )
        for index in range(settings.samples):
            begun = settings.steps * (1 + index)
            samples.append(
                scale * _draw(model, operator, y, x, noise, settings, index, lambda d, t, b=begun: report(d, t, b))  # type: ignore[misc]
            )
    # Half of the complex noise lies in each part.
    likelihood = Likelihood(operator, y, noise / math.sqrt(2))
    if noise == 0:
        x = likelihood.project(x)
    return RestoredKSpace(
        scale * x, scale * classical, float(likelihood.misfit(x).max()), noise * scale, tuple(samples)
    )


def strong_classical(operator: CartesianKSpace, y: Tensor) -> Tensor:
    """The best image without a network, shape (1, 1, i, j, k), complex: sparse in wavelets, begun at CG-SENSE."""
    return sparse_reconstruction(operator, y, SPARSE_WEIGHT, steps=SPARSE_STEPS, start=operator.classical(y))


def answer_weight(noise: float) -> float:
    """Weight of the network's answer where the data have weight 1, as in DPIR: noise over error, squared.

    Args:
        noise: Root mean squared modulus of the complex noise, model units; half of it lies in each part.
    """
    return min(MOST_PULL, max(LEAST_PULL, noise**2 / 2 / ANSWER_ERROR**2))


def _data_step(operator: CartesianKSpace, y: Tensor, noise: float) -> Callable[[Tensor], Tensor]:
    """From the network's answer toward the samples, with a little of the wavelets: each mends what the other misses."""

    def step(answer: Tensor) -> Tensor:
        return sparse_reconstruction(
            operator, y, STEP_WEIGHT, steps=STEP_STEPS, start=answer, anchor=(answer, answer_weight(noise))
        )

    return step


def told_accelerations(steps: int, acceleration: float) -> list[float]:
    """What the network is told in each evaluation: less and less is wrong."""
    first, last = (min(told, acceleration) for told in (TOLD_FIRST, TOLD_LAST))
    return [first * (last / first) ** (n / max(1, steps - 1)) for n in range(steps)]


def _condition(acceleration: float, noise: float) -> Callable[[Tensor], Condition]:
    """The condition of the network for an image of which so much is wrong as after such an acceleration."""
    task = Task(acceleration=acceleration, noise=noise)

    def condition(reference: Tensor) -> Condition:
        return condition_of(reference, torch.full_like(reference, 1 / acceleration), task)

    return condition


def _draw(
    model: Preconditioned,
    operator: CartesianKSpace,
    y: Tensor,
    estimate: Tensor,
    noise: float,
    settings: Settings,
    index: int,
    on_step: OnEvaluation,
) -> Tensor:
    """One posterior sample, a magnitude, shape (1, 1, i, j, k), begun at the estimate."""
    condition = _condition(min(TOLD_FIRST, operator.acceleration), noise)(estimate.abs())
    prior = TiledDenoiser(model, condition, settings.tiling)

    def in_phase(prior: Denoiser, likelihood: Likelihood, x: Tensor, sigma: Tensor) -> Tensor:
        """The prior knows magnitudes, the data are complex: its answer takes the phase of the estimate."""
        answer = with_phase(prior(x, sigma), estimate)
        return toward_data(operator, answer, likelihood.y, answer_weight(noise), steps=DATA_STEPS).abs()

    return sample(
        Posterior(prior, Likelihood(operator, y), in_phase),
        (1, *operator.in_shape),
        sigma_schedule(SAMPLE_TO * prior.spread, SAMPLE_FROM * prior.spread, settings.steps),
        generators=[generators(settings.seed, index + 1)[index]],
        solver=SOLVERS[settings.solver],
        start=condition.reference,
        on_step=on_step,
    )


def kspace_noise(operator: CartesianKSpace, y: Tensor) -> float:
    """Root mean squared modulus of the complex noise, from the samples of the highest frequencies.

    The median of a squared modulus of complex Gaussian noise is ``ln 2`` times its mean, and anatomy in a few samples
    does not move it.

    Args:
        operator: How k-space was sampled.
        y: Samples, shape (b, *operator.out_shape).
    """
    shape = operator.in_shape[1:3]
    axes = [torch.fft.fftshift(torch.fft.fftfreq(n)) if operator.centred else torch.fft.fftfreq(n) for n in shape]
    radius = torch.hypot(axes[0][:, None], axes[1][None, :])
    taken = operator.taken.any(dim=-1).cpu()
    outer = taken & (radius >= torch.quantile(radius[taken], 1 - OUTER_SHARE))
    samples = y[:, :, outer.to(y.device)]
    # Where masks differ from plane to plane, some of these were not taken.
    power = samples[samples != 0].abs().square()
    return math.sqrt(float(power.median()) / math.log(2)) if power.numel() else 0.0
