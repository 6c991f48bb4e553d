"""How much privacy a run of DP-SGD has spent, computed twice.

Every step adds Gaussian noise to a sum over people, each of whom was drawn with a known probability and clipped to a
known length. What n such steps spend is a number: epsilon at a given delta. Two programs that share no code compute it
from the privacy loss distribution: Opacus' PRV accountant and the one below. The larger of the two is what is claimed.
Opacus' RDP accountant is told beside them: it is an upper bound too, but a loose one where delta is as large as a few
hundred people allow.

Two sets of people are neighbours if one of them has one person more.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.signal import fftconvolve
from scipy.special import ndtr, ndtri

from medidiff.errors import ConfigError

# Two accountants that differ by more than this are not two witnesses of one number.
AGREEMENT = 0.05
# Of delta, what is spent on cutting off tails and on rounding.
TAIL_SHARE = 1e-4
MOST_BINS = 1 << 22


@dataclass(frozen=True, slots=True)
class Spent:
    """What so many steps have spent, at one delta.

    Args:
        prv: By Opacus' PRV accountant, its upper bound.
        pld: By ``pld_epsilon``, an upper bound.
        rdp: By Opacus' RDP accountant, an upper bound.
    """

    prv: float
    pld: float
    rdp: float

    @property
    def epsilon(self) -> float:
        """What may be claimed."""
        return max(self.prv, self.pld)

    @property
    def disagreement(self) -> float:
        """Of the two tight accountants, as a share of the smaller."""
        low = min(self.prv, self.pld)
        return self.epsilon / low - 1 if low > 0 else 0.0


def spent(noise_multiplier: float, sampling: float, steps: int, delta: float) -> Spent:
    """What ``steps`` steps spend.

    Args:
        noise_multiplier: Standard deviation of the noise over the length that a person's gradient is clipped to.
        sampling: Probability with which a person takes part in a step.
    Raises:
        ConfigError: Opacus is not installed.
    """
    if steps == 0:
        return Spent(0.0, 0.0, 0.0)
    prv, rdp = _opacus("prv"), _opacus("rdp")
    prv.history = rdp.history = [(noise_multiplier, sampling, steps)]
    with _quiet():
        rough = float(rdp.get_epsilon(delta))
        fine = float(prv.get_epsilon(delta, eps_error=min(0.01, max(rough, 0.01) / 200)))
    return Spent(prv=fine, pld=pld_epsilon(noise_multiplier, sampling, steps, delta), rdp=rough)


def noise_for(epsilon: float, delta: float, sampling: float, steps: int) -> float:
    """The smallest noise multiplier, to about one percent, with which ``steps`` steps spend at most ``epsilon``.

    Raises:
        ConfigError: Opacus is not installed, no noise is enough, or the two accountants disagree.
    """
    _opacus("prv")
    from opacus.accountants.utils import get_noise_multiplier

    try:
        with _quiet():
            noise = float(
                get_noise_multiplier(
                    target_epsilon=epsilon, target_delta=delta, sample_rate=sampling, steps=steps, accountant="prv",
                    epsilon_tolerance=epsilon / 400, eps_error=epsilon / 400,
                )
            )  # fmt: skip
    except ValueError as error:
        raise ConfigError(f"no noise makes {steps} steps spend as little as epsilon {epsilon:g}: {error}") from error
    while (found := spent(noise, sampling, steps, delta)).epsilon > epsilon:
        noise *= 1.003
    if found.disagreement > AGREEMENT:
        raise ConfigError(
            f"two accountants disagree by {100 * found.disagreement:.0f}% (PRV {found.prv:.3f}, PLD {found.pld:.3f}) "
            f"at sampling {sampling:g}, {steps} steps: choose another sampling rate or number of steps"
        )
    return noise


def pld_epsilon(noise_multiplier: float, sampling: float, steps: int, delta: float) -> float:
    """Epsilon of the composition, from above: losses are rounded up, and what is cut off counts as a breach.

    Both neighbourhoods are computed, a person more and a person less; the larger epsilon counts.
    Source: Koskela et al. (2020), Computing Tight Differential Privacy Guarantees Using FFT; Zhu et al. (2022), Optimal
    Accounting of Differential Privacy via Characteristic Function (the dominating pairs).
    """
    if not (0 < sampling <= 1 and noise_multiplier > 0 and steps > 0 and 0 < delta < 1):
        raise ConfigError(
            "an accountant needs noise > 0, 0 < sampling <= 1, steps >= 1 and 0 < delta < 1, got "
            f"{noise_multiplier}, {sampling}, {steps} and {delta}"
        )
    pairs = [_losses(noise_multiplier, sampling, steps, delta, removed) for removed in (True, False)]
    return max(_epsilon(*_compose(*pair, steps, delta * TAIL_SHARE), delta) for pair in pairs)


@dataclass(frozen=True, slots=True)
class _Losses:
    """Probabilities of losses ``(first + n) * width``, n = 0, 1, ..."""

    masses: NDArray[np.float64]
    first: int
    width: float


def _losses(noise: float, sampling: float, steps: int, delta: float, removed: bool) -> tuple[_Losses, float]:
    """Losses of one step, rounded up to a grid, and the probability of what lies beyond it.

    One output x of the mechanism is N(0, noise^2) without the person, and with probability ``sampling`` N(1, noise^2)
    with them. The loss is the log ratio of the two densities where the larger set (``removed``) or the smaller is true.
    """
    tail = -float(ndtri(delta * TAIL_SHARE / (2 * steps))) * noise
    low, high = -tail, tail + 1

    z = (2 * np.array([low, high]) - 1) / (2 * noise**2)
    absent = math.log1p(-sampling) if sampling < 1 else -math.inf
    ends = np.logaddexp(absent, math.log(sampling) + z) * (1 if removed else -1)
    bottom, top = float(ends.min()), float(ends.max())
    # Rounding up adds half a width a step: a thousandth of what a step may add, as far as memory allows.
    width = max(1e-3 / steps, (top - bottom) * math.sqrt(steps) / MOST_BINS, 1e-6)
    first, last = math.floor(bottom / width), math.ceil(top / width)
    edges = np.arange(first, last + 1) * width
    at = _invert(edges if removed else -edges, noise, sampling).clip(low, high)
    below = ndtr(at / noise)
    if removed:
        below = (1 - sampling) * below + sampling * ndtr((at - 1) / noise)
    # Where the smaller set is true, the loss falls as x rises.
    distribution = below if removed else 1 - below
    masses: NDArray[np.float64] = np.diff(distribution, prepend=0.0).clip(0)
    return _Losses(masses, first, width), max(0.0, 1 - float(distribution[-1]))


def _invert(losses: NDArray[np.floating[Any]], noise: float, sampling: float) -> NDArray[np.float64]:
    """The output x at which the log ratio is as given; -inf where it is always larger."""
    inner = (np.exp(losses) - (1 - sampling)) / sampling
    possible = inner > 0
    return np.where(possible, noise**2 * np.log(np.where(possible, inner, 1.0)) + 0.5, -np.inf)


def _compose(losses: _Losses, beyond: float, steps: int, tail: float) -> tuple[_Losses, float]:
    """The sum of ``steps`` such losses by repeated squaring; what is cut off on top counts as beyond."""
    result, lost = _Losses(np.ones(1), 0, losses.width), 0.0
    power, lost_power = losses, beyond
    share = tail / (2 * steps.bit_length())
    left = steps
    while left:
        if left & 1:
            result, cut = _cut(_convolve(result, power), share)
            lost += lost_power + cut
        left >>= 1
        if left:
            power, cut = _cut(_convolve(power, power), share / (2 * left))
            lost_power = 2 * lost_power + cut
    return result, lost


def _convolve(a: _Losses, b: _Losses) -> _Losses:
    return _Losses(fftconvolve(a.masses, b.masses).clip(0), a.first + b.first, a.width)


def _cut(losses: _Losses, share: float) -> tuple[_Losses, float]:
    """Cut tails of at most ``share`` each: the lower one is rounded up, the upper one is told."""
    up = np.cumsum(losses.masses)
    down = np.cumsum(losses.masses[::-1])[::-1]
    start = int(np.searchsorted(up, share))
    stop = len(down) - int(np.searchsorted(down[::-1], share))
    masses = losses.masses[start:stop].copy()
    masses[0] += up[start - 1] if start else 0.0
    return _Losses(masses, losses.first + start, losses.width), float(down[stop]) if stop < len(down) else 0.0


def _epsilon(losses: _Losses, beyond: float, delta: float) -> float:
    """The smallest epsilon at which the breach is at most delta."""
    at = (losses.first + np.arange(len(losses.masses))) * losses.width

    def breach(epsilon: float) -> float:
        above = at > epsilon
        return beyond + float((losses.masses[above] * -np.expm1(epsilon - at[above])).sum())

    low, high = 0.0, float(at[-1])
    if high <= 0 or breach(0.0) <= delta:
        return 0.0
    while high - low > losses.width / 4:
        middle = (low + high) / 2
        low, high = (middle, high) if breach(middle) > delta else (low, middle)
    return high


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Opacus' warning that RDP could be a little tighter: it is not what is claimed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


def _opacus(name: str) -> Any:
    try:
        from opacus.accountants import create_accountant
    except ImportError as error:
        raise ConfigError("private training needs Opacus: pip install 'medidiff[dp]'") from error
    return create_accountant(mechanism=name)
