"""Who was trained on, as somebody could tell from the samples, or from the model."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from medidiff.audit.figures import even_figure, low_rate_figure
from medidiff.audit.options import AuditOptions
from medidiff.audit.sides import STEPS, Work
from medidiff.data.cohort import People, load_people
from medidiff.diffusion.generator import GivenGenerator, load_generator
from medidiff.errors import CheckpointError
from medidiff.generation.codes import LabelCodec
from medidiff.privacy.leakage.decision import auc
from medidiff.privacy.leakage.examine import Space, sample_attack
from medidiff.privacy.leakage.membership import together, white_box
from medidiff.synthetic.reports import Family, Metric

Array = NDArray[Any]


def membership(work: Work, spaces: Sequence[Space]) -> list[Metric]:
    """Attacks from the samples in every space, and on the model where there is one."""
    told = []
    for space in spaces:
        own, other, estimate = sample_attack(space, work.members, work.non_members)
        name = f"membership AUC (samples, {space.name})"
        note = "How near a person's nearest items are, less how near real others are. Nothing but the set is needed."
        told += [even_figure(name, Family.MEMBERSHIP, estimate, note), low_rate_figure(name, own, other)]
    if work.model is None:
        work.notes.append("The model itself was not attacked: it was not given. Only what its samples tell was tried.")
        return told
    work.tell(5, STEPS, "attacking the model")
    found = work.store.arrays("model", partial(_attack_model, work.model, work.who, work.options))
    levels = ", ".join(f"{sigma:g}" for sigma in work.options.sigmas)
    for attack, scores in found.items():
        own, other = np.split(together(scores), [len(work.members)])
        name = f"membership AUC ({attack})"
        each = [auc(row[: len(work.members)], row[len(work.members) :]).value for row in scores]
        note = f"White box, at noise levels {levels}: {', '.join(f'{value:.2f}' for value in each)} one by one."
        told += [even_figure(name, Family.MEMBERSHIP, auc(own, other), note), low_rate_figure(name, own, other)]
    return told


def _attack_model(path: Path, who: People, options: AuditOptions) -> dict[str, Array]:
    """Scores of every attack for everybody, on the model's own grid, with no condition told.

    Returns:
        By attack, shape (noise levels, people).
    Raises:
        CheckpointError: no generator, or one with label channels and people without label maps.
    """
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
