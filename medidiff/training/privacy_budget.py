"""What a training run may give away of anybody in it: the ``dp`` block, its noise, and what was spent."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from pydantic import Field

from medidiff.config import Config
from medidiff.errors import ConfigError
from medidiff.privacy.accountants import Spent, noise_for, spent

# Delta is the chance that the guarantee does not hold at all; a tenth of a person is the most that is tolerable.
DELTA_SHARE = 0.1
# Biases, gains and nothing else: few numbers need little noise, and every layer has some.
# Source: Bu et al. (2022), Differentially Private Bias-Term Fine-tuning of Foundation Models.
FEW = ("*.bias", "*.gain")


class DpConfig(Config):
    """Differential privacy of every person in training.

    Args:
        epsilon: What the whole run may spend.
        delta: At most 1 / (10 n); that if None.
        sampling: Probability with which a person takes part in a step.
        clip: Longest gradient that a person may contribute.
        draws: Noise levels, noises and distortions of a person whose mean loss makes that gradient.
        trainable: Patterns of the names of the parameters that are trained; the rest stays as it was pre-trained.
    """

    epsilon: float = Field(gt=0, le=100)
    delta: float | None = Field(None, gt=0, lt=1)
    sampling: float = Field(0.25, gt=0, lt=1)
    clip: float = Field(1.0, gt=0)
    draws: int = Field(4, ge=1)
    trainable: tuple[str, ...] = Field(FEW, min_length=1)

    def delta_for(self, people: int) -> float:
        """Delta for so many people.

        Raises:
            ConfigError: the one that was asked for is larger than 1 / (10 n).
        """
        most = DELTA_SHARE / people
        if self.delta is None:
            return most
        if self.delta > most * (1 + 1e-9):
            raise ConfigError(f"dp.delta: at most 1/(10 n) = {most:.3g} for {people} people, got {self.delta:g}")
        return self.delta


def with_budget(text: str, block: DpConfig | None) -> DpConfig:
    """The ``dp`` block as ``--dp epsilon=8,clip=0.5`` changes it.

    Raises:
        ConfigError: no such setting, no number, or no epsilon anywhere.
    """
    from pydantic import ValidationError

    given: dict[str, str] = {}
    for part in text.split(","):
        name, equals, value = part.strip().partition("=")
        if not equals or name not in ("epsilon", "delta", "sampling", "clip", "draws"):
            raise ConfigError(f"--dp: expected epsilon=8, perhaps with delta, sampling, clip or draws, got {part!r}")
        given[name] = value
    known = {} if block is None else block.model_dump()
    try:
        return DpConfig.model_validate(known | given)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise ConfigError(f"--dp: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None


@dataclass(frozen=True, slots=True)
class Budget:
    """What a run may spend, and the noise with which it does.

    Args:
        config: The ``dp`` block.
        people: How many may be drawn.
        noise_multiplier: Standard deviation of the noise over ``config.clip``.
    """

    config: DpConfig
    people: int
    noise_multiplier: float

    @classmethod
    def plan(cls, config: DpConfig, people: int, steps: int) -> Budget:
        """The least noise with which ``steps`` steps stay within epsilon.

        Raises:
            ConfigError: delta is too large, Opacus is not installed, or no noise is enough.
        """
        return cls(config, people, noise_for(config.epsilon, config.delta_for(people), config.sampling, steps))

    def spent(self, steps: int) -> Spent:
        """What the steps that were really taken have spent."""
        config = self.config
        return spent(self.noise_multiplier, config.sampling, steps, config.delta_for(self.people))

    def card(self, steps: int) -> dict[str, Any]:
        """What the model's card says: the guarantee, and what a reader needs to compute it again."""
        found, config = self.spent(steps), self.config
        accountant = (
            f"PRV (Opacus) {found.prv:.3f}, privacy loss distribution (medidiff) {found.pld:.3f}; "
            f"RDP (Opacus), looser: {found.rdp:.3f}"
        )
        guarantee = {
            "epsilon": round_up(found.epsilon),
            "delta": config.delta_for(self.people),
            "people": self.people,
            "accountant": accountant,
        }
        mechanism = {
            "noise_multiplier": self.noise_multiplier,
            "sampling": config.sampling,
            "steps": steps,
            "clip": config.clip,
            "draws": config.draws,
            "neighbours": "one person more or less",
        }
        return {"differential_privacy": guarantee, "dp_sgd": mechanism}


def round_up(epsilon: float) -> float:
    """Four decimals, never less than it was."""
    return math.ceil(epsilon * 1e4) / 1e4
