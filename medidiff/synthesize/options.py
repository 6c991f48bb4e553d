"""What a set is to be, and what was made."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from medidiff.config import Config
from medidiff.generation.draw import Sampling, SolverName
from medidiff.generation.metadata import MetadataModel

MOST_ITEMS = 10_000_000


class SynthesizeOptions(Config):
    """What a set is to be.

    Args:
        model: Name of a generator that ships, or a model file.
        count: Items in all.
        steps, solver: How the noise is walked down; more steps are slower and, up to about 30, truer.
        guidance_scale: How much conditions are stressed.
        conditions: What every item is asked to be.
        spread: Ask every item for numbers of its own (of all that the generator can be asked for), as common as they
            were in training: left to itself, a generator draws the middle of a range too often.
        labels: A folder of label maps, or one map: images are drawn for them, map after map, until there are ``count``.
        vary: A scan; the items are variations of it. The generator saw nothing of it, but the set then shows it, and no
            gate lets it out.
        strength: Of variations, above 0 (which would be the scan itself) to 1.
        upsample, spacing: A prior that restores (``brain-t1``) makes every item this fine, mm: the second stage of a
            cascade. What it adds is the posterior mean.
        batch: Items at once on a GPU; on a processor items are drawn one by one, and it changes nothing.
        name, description: Of the set; that maps or a scan were given is said after it in any case.
    """

    kind: Literal["synthesize"] = "synthesize"
    model: str = "hippocampus"
    count: int = Field(64, ge=1, le=MOST_ITEMS)
    seed: int = Field(0, ge=0, lt=1 << 63)
    steps: int = Field(18, ge=2, le=200)
    solver: SolverName = "stochastic"
    guidance_scale: float = Field(1.0, ge=0, le=20)
    conditions: dict[str, float | str] = Field(default_factory=dict)
    spread: bool = False
    labels: Path | None = None
    vary: Path | None = None
    strength: float = Field(0.4, gt=0, le=1)
    upsample: str | None = None
    spacing: float = Field(1.0, gt=0, le=10)
    metadata: MetadataModel = MetadataModel()
    batch: int = Field(8, ge=1)
    device: str | None = None
    name: str = Field("synthetic", pattern=r"^[A-Za-z][A-Za-z0-9 _-]{0,63}$")
    description: str = Field("", max_length=1900)

    @model_validator(mode="after")
    def _one_wish(self) -> SynthesizeOptions:
        if self.labels is not None and self.vary is not None:
            raise ValueError("give labels or vary, not both")
        return self

    @property
    def evaluations(self) -> int:
        """Of the network, an item."""
        return self.sampling.evaluations(bool(self.conditions) or self.draws_numbers)

    @property
    def draws_numbers(self) -> bool:
        """Whether ``spread`` has something to do: a given map or scan has numbers of its own."""
        return self.spread and self.labels is None and self.vary is None

    @property
    def sampling(self) -> Sampling:
        return Sampling(self.steps, self.solver, self.guidance_scale, self.strength)


@dataclass(frozen=True, slots=True)
class SynthesizeResult:
    """What was made.

    Args:
        folder: The set.
        items: In the set.
        made: By this run; an earlier one that was killed may have made the others.
        set_sha256: The hash of the whole set, which reports on it must name.
        seconds: Of this run.
        evaluations: Of the network, an item.
        preview: A picture of the first items, beside the set.
    """

    folder: Path
    items: int
    made: int
    set_sha256: str
    seconds: float
    evaluations: int
    preview: Path
