"""The attacks that need the model: its channels and conditions meet the people here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medidiff.audit.options import AuditOptions
from medidiff.data.cohort import People, load_people
from medidiff.errors import CheckpointError

Array = NDArray[Any]


def attack_model(path: Path, who: People, options: AuditOptions) -> dict[str, Array]:
    """Scores of every attack for everybody, on the model's own grid, with no condition told.

    Returns:
        By attack, shape (noise levels, people).
    Raises:
        CheckpointError: no generator, or one with label channels and people without label maps.
    """
    import torch

    from medidiff.diffusion.generator import GivenGenerator, load_generator
    from medidiff.generation.codes import LabelCodec
    from medidiff.privacy.leakage.membership import white_box

    model, _ = load_generator(path)
    spec = model.spec
    on_grid = who if who.images.shape[2:] == spec.shape else load_people(who.persons, spec.shape)
    if spec.labels and on_grid.labels is None:
        raise CheckpointError(f"{path}: the model has label channels, and the people named have no label maps")
    inside = on_grid.inside.astype(np.float32)
    channels = [(on_grid.images - spec.intensity_mean) / spec.intensity_std]
    if spec.labels and on_grid.labels is not None:
        codec = LabelCodec.of(spec)
        channels.append(np.stack([codec.encode(label[0]) for label in on_grid.labels]))
    x = torch.from_numpy(np.concatenate(channels, axis=1).astype(np.float32) * inside)
    where = torch.from_numpy(inside)

    def bind(some: slice) -> GivenGenerator:
        return model.given(model.conditions([{} for _ in range(*some.indices(len(x)))], inside=where[some]))

    return white_box(bind, x, options.sigmas, draws=options.draws, seed=options.seed, inside=where)
