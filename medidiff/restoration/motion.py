"""How a head moved while its slices were taken, found together with what it looks like.

In turns, the image is made of all slices but some, and those are laid onto it. Slices that take part in the image that
they are compared with would find that they are right where they are: with fewer measurements than voxels there is
always an image that agrees with everything.
Source: slice-to-volume reconstruction as in Kuklisova-Murgasova et al. (2012), Reconstruction of fetal brain MRI with
intensity matching and complete outlier removal, Med. Image Anal. 16, 1550; leaving out what is registered is ours.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from medidiff.errors import ConfigError
from medidiff.geometry import Geometry
from medidiff.operators import MaskOperator, StackedOperator
from medidiff.operators.base import LinearOperator
from medidiff.operators.motion import MovedSlices
from medidiff.operators.slices import SliceProfile
from medidiff.operators.smooth import SEEN, spanned
from medidiff.restoration.register import Stack, find_motion, pooled

Array = NDArray[Any]

# Voxel size at which the image is made while the motion is looked for, mm; the last result is made at full size.
WORKING = 2.0
# One after the other: the voxel size (mm) at which slices are laid onto the image. Chosen on a training head.
LEVELS = (8.0, 8.0, 4.0, 4.0, 4.0, 2.0, 2.0)
ROUNDS = 3
# Slices that each move on their own are left out of the image in so many turns.
TURNS = 4


def groups_of(slices: int, shots: int) -> Array:
    """Which slices moved together: interleaved shots (every ``shots``-th slice), or 0 for each slice by itself.

    Raises:
        ConfigError: more shots than slices.
    """
    if not 0 <= shots <= slices or shots == 1:
        raise ConfigError(
            f"--shots must be 2 or more, at most the {slices} slices of a stack, or 0 for each by itself; got {shots}"
        )
    return np.arange(slices) % shots if shots else np.arange(slices)


def find_movements(
    stacks: Sequence[Stack],
    image: Geometry,
    groups: Sequence[Array],
    on_round: Callable[[int, int], None] | None = None,
) -> list[Array]:
    """Rigid position of the head during each slice of each stack.

    Args:
        stacks: Slices, where the header (or a registration of whole stacks) says.
        image: Grid that holds them all.
        groups: For each stack, which slices moved together, shape (slices,).
        on_round: Called with rounds done and rounds in all.
    Returns:
        For each stack (slices, 6) as for ``MovedSlices``. Their mean over all slices is zero: where the head as a whole
        was is known to nobody.
    """
    blocks = [max(1, round(WORKING / s)) for s in image.spacing]
    _, grid = pooled(torch.zeros(1, 1, *image.shape), image, blocks)
    small = [_coarse(stack) for stack in stacks]
    motions = [np.zeros((len(group), 6)) for group in groups]
    for number, level in enumerate(LEVELS):
        for stack, turn in _turns(groups):
            picture, inside = _without(small, grid, motions, stack, turn)
            found = find_motion(
                picture, grid, small[stack], motions[stack], groups[stack],
                inside=inside, levels=(level,), rounds=ROUNDS,
            )  # fmt: skip
            motions[stack] = np.where(turn[:, None], found, motions[stack])
        middle = np.concatenate(motions).mean(axis=0)
        motions = [motion - middle for motion in motions]
        if on_round is not None:
            on_round(number + 1, len(LEVELS))
    return motions


def _turns(groups: Sequence[Array]) -> list[tuple[int, Array]]:
    """Stack, and which of its slices are left out and laid onto the rest."""
    if len(groups) > 1:
        return [(number, np.ones(len(group), dtype=bool)) for number, group in enumerate(groups)]
    (group,) = groups
    turns = min(int(group.max()) + 1, TURNS)
    return [(0, group % turns == turn) for turn in range(turns)]


def _without(
    stacks: Sequence[Stack], grid: Geometry, motions: Sequence[Array], left: int, turn: Array
) -> tuple[torch.Tensor, torch.Tensor]:
    """The image that all slices make but those, and 1 where they reach."""
    parts: list[LinearOperator] = []
    measured = []
    for number, (stack, motion) in enumerate(zip(stacks, motions, strict=True)):
        if number == left and turn.all():
            continue
        operator: LinearOperator = moved(stack, grid, motion)
        y = stack.y
        if number == left:
            shape = [1, 1, 1, 1]
            shape[stack.axis + 1] = -1
            mask = MaskOperator(operator.out_shape, torch.from_numpy(~turn).view(shape))
            operator, y = mask @ operator, mask.forward(y)
        parts.append(operator)
        measured.append(y)
    operator = StackedOperator(parts)
    y = operator.join(measured)
    picture = spanned(operator, y)
    ones = operator.adjoint(torch.ones_like(y))
    # Between the slices that are left the image is spanned; beyond the outermost there is nothing to see.
    reach = torch.nn.functional.max_pool3d((ones > SEEN).to(y), 9, stride=1, padding=4)
    return picture, reach


def moved(stack: Stack, grid: Geometry, motion: Array) -> MovedSlices:
    """What a stack measures of an image on ``grid`` while the head moves."""
    distance = stack.geometry.spacing[stack.axis]
    profile = SliceProfile.of(distance, stack.thickness, stack.form, min(distance, *grid.spacing))
    return MovedSlices(1, grid, stack.geometry, stack.axis, profile, motion)


def _coarse(stack: Stack) -> Stack:
    blocks = [max(1, round(WORKING / s)) for s in stack.geometry.spacing]
    blocks[stack.axis] = 1
    y, geometry = pooled(stack.y, stack.geometry, blocks)
    return replace(stack, y=y, geometry=geometry)
