"""From one contrast of MR to another: what a person's T1 lets one expect of the FLAIR, and the other way round.

A translation shows what the given contrast determines, and the habits of the people whom the model learned from. What
the given contrast does not show is not in it: see docs/editing.md for what becomes of lesions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medidiff.data.intensity import IntensityCodec
from medidiff.diffusion.checkpoint import load_model
from medidiff.diffusion.denoiser import TASK_SIZE, Condition, Preconditioned
from medidiff.diffusion.path import sigma_schedule
from medidiff.diffusion.sampler import SOLVERS, posterior_mean, sample
from medidiff.diffusion.tiling import TiledDenoiser, Tiling
from medidiff.errors import ConfigError, InputError
from medidiff.operators.task import NOTHING_KNOWN
from medidiff.restoration.solve import SAMPLE_FROM, SAMPLE_TO
from medidiff.rng import generators
from medidiff.volume import Volume

Array = NDArray[Any]

# MR has no unit; a translated scan has this where the brightest of the wanted contrast is expected.
BRIGHT = 1000.0


@dataclass(frozen=True, slots=True)
class Translator:
    """A model that was trained on pairs of contrasts.

    Args:
        model: Its network.
        contrasts: Names of the contrasts, in the order in which it was told of them.
    """

    model: Preconditioned
    contrasts: tuple[str, ...]

    @classmethod
    def load(cls, path: Path, device: torch.device | str = "cpu") -> Translator:
        """Read a model file.

        Raises:
            CheckpointError: it is none.
            ConfigError: the model was not trained on contrasts.
        """
        model, card = load_model(path, device)
        return cls(model, contrasts_of(card, path))

    @torch.no_grad()
    def __call__(
        self, scan: Volume, wanted: str, *, steps: int | None = None, seed: int = 0, tiling: Tiling | None = None
    ) -> Volume:
        """The scan in another contrast, on its own grid, arbitrary units.

        Args:
            scan: One frame, skull-stripped as in training.
            wanted: Name of the contrast.
            steps: Draw a sample in so many evaluations; the posterior mean, in one, if None.
            seed: Of the sample.
            tiling: How a large scan is cut.
        Raises:
            ConfigError: the model never saw that contrast.
            InputError: several frames.
        """
        if wanted not in self.contrasts:
            raise ConfigError(f"this model knows {', '.join(self.contrasts)}, not {wanted!r}")
        if len(scan.data) != 1:
            raise InputError(f"one frame is translated at a time, got {len(scan.data)}")
        conformed = scan.reoriented()
        frame = conformed.data[0].astype(np.float32)
        given = IntensityCodec.fit(frame, scan.modality).encode(frame)
        device = next(self.model.parameters()).device
        x = torch.from_numpy(np.ascontiguousarray(given))[None, None].to(device)
        condition = translation_condition(x, [self.contrasts.index(wanted)])
        denoiser = TiledDenoiser(self.model, condition, tiling or Tiling())
        if steps is None:
            found = posterior_mean(denoiser, x.shape, device=device)
        else:
            sigmas = sigma_schedule(SAMPLE_TO * denoiser.spread, SAMPLE_FROM * denoiser.spread, steps)
            found = sample(
                denoiser, x.shape, sigmas, generators=generators(seed, 1), solver=SOLVERS["multistep"], start=0 * x
            )
        # Where nothing was scanned, nothing can be translated: a stripped skull stays stripped.
        data = BRIGHT * found[0].float().cpu().numpy().clip(min=0) * (frame > 0)
        return Volume(data, conformed.geometry, scan.modality).like(scan.geometry)


def translation_condition(given: Tensor, wanted: Sequence[int | None]) -> Condition:
    """What the network is told: the given scan, shape (b, 1, i, j, k), and the number of the contrast that is wanted.

    A number of None leaves the network to guess.
    """
    task = torch.zeros(len(given), TASK_SIZE)
    for item, number in enumerate(wanted):
        if number is not None:
            task[item, number] = 1.0
    scale = torch.full((len(given),), NOTHING_KNOWN.scale)
    return Condition(torch.zeros_like(given), given, task.to(given), scale.to(given))


def contrasts_of(card: Mapping[str, Any], path: Path) -> tuple[str, ...]:
    """The contrasts that a model's card names.

    Raises:
        ConfigError: it names none.
    """
    found = card.get("contrasts")
    if not isinstance(found, list) or len(found) < 2 or not all(isinstance(name, str) for name in found):
        raise ConfigError(
            f"{path}: this model was not trained on pairs of contrasts; see configs/translate-from-07.yaml"
        )
    return tuple(found)
