"""What is compared: whose head, how thick the slices, which profile, along which axis."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from medidiff.errors import InputError
from medidiff.io import read_volume
from medidiff.metrics import NoiseFloor, head_mask, noise_floor, robust_range
from medidiff.operators.slices import Profile, SliceOperator, SliceProfile
from medidiff.volume import Volume

AXES = ("i", "j", "k")


@dataclass(frozen=True, slots=True)
class Group:
    """People of one kind who are scored together.

    Args:
        name: Short name, as on the command line.
        files: Glob below the folder of real volumes; each match is one person.
        about: What they are.
        last: Keep only so many of the last by file name (the others may be used for training).
        air: Whether there is air around, to be left out; crops have none.
        thorough: Every case; else x4 slices along k alone, because there are many people.
    """

    name: str
    files: str
    about: str
    last: int | None = None
    thorough: bool = True
    air: bool = True

    def people(self, root: Path) -> list[tuple[str, Path]]:
        """Names and files of the people.

        Raises:
            InputError: there are none.
        """
        paths = sorted(root.glob(self.files))
        paths = paths if self.last is None else paths[-self.last :]
        if not paths:
            raise InputError(f"{root} has no {self.files}: name the folder of real volumes with --data")
        width = len(str(len(paths)))
        return [(self.name if len(paths) == 1 else f"{self.name} {n:0{width}}", p) for n, p in enumerate(paths, 1)]

    def trained_on(self, globs: Sequence[str], root: Path) -> bool:
        """Whether a training set, given as globs below the same folder, holds one of these people."""
        own = {path for _, path in self.people(root)}
        return any(own & set(root.glob(pattern)) for pattern in globs)


GROUPS = {
    group.name: group
    for group in (
        Group("uih-b", "head-t1-dcm-qa-uih/uih-b_T1w_1mm.nii.gz", "T1, whole head"),
        Group("ms-flair", "brain-ms-ljubljana/cross_patient19_FLAIR_brain_MNI1mm.nii.gz", "FLAIR, skull-stripped"),
        Group("spine-t2", "spine-sct/t2.nii.gz", "T2, cervical spine"),
        Group(
            "hippocampus", "msd-hippocampus/images/*.nii.gz", "T1 crops, 40 people", last=40, thorough=False, air=False
        ),
    )
}
# The head for tuning the rivals; it is never scored.
TUNING = Group("uih-a", "head-t1-dcm-qa-uih/uih-a_T1w_1mm.nii.gz", "T1, whole head")


@dataclass(frozen=True, slots=True)
class Case:
    factor: float
    profile: Profile
    axis: int

    @property
    def name(self) -> str:
        return f"x{self.factor:g} {self.profile} {AXES[self.axis]}"

    def operator(self, shape: Sequence[int]) -> SliceOperator:
        """Touching slices; a Gaussian profile has its full width at half maximum equal to the slice distance."""
        i, j, k = shape
        return SliceOperator((1, i, j, k), self.axis, SliceProfile(self.factor, self.factor, self.profile))


@dataclass(frozen=True, slots=True)
class Truth:
    """One person's scan, where the person is in it, and what its own noise allows."""

    name: str
    group: Group
    volume: Volume
    mask: NDArray[np.bool_]
    data_range: float
    noise: NoiseFloor
    x: torch.Tensor = field(repr=False)

    @classmethod
    def load(cls, path: Path, name: str, group: Group, *, crop: int | None = None) -> Truth:
        """Read a head, its axes nearest to R, A, S.

        Args:
            crop: Keep only the middle so many voxels along each axis (a quick run).
        """
        volume = read_volume(path).reoriented()
        if volume.data.shape[0] > 1:
            raise InputError(f"the benchmark takes one 3D volume, {name} has {volume.data.shape[0]} frames")
        mask = np.ones(volume.geometry.shape, dtype=bool)
        if group.air:
            mask = head_mask(volume.data, spacing=volume.geometry.spacing)
        if crop is not None:
            start = tuple(max(0, (n - crop) // 2) for n in volume.geometry.shape)
            window = tuple(slice(s, s + crop) for s in start)
            mask = np.ascontiguousarray(mask[window])
            data = np.ascontiguousarray(volume.data[(slice(None), *window)])
            geometry = volume.geometry.cropped((start[0], start[1], start[2]), mask.shape)
            volume = Volume(data, geometry, volume.modality)
        data = volume.data.astype(np.float32)
        return cls(
            name, group, Volume(data, volume.geometry, volume.modality), mask, robust_range(data, mask),
            noise_floor(data, mask), torch.from_numpy(data)[None],
        )  # fmt: skip


def cases(
    factors: Sequence[float], profiles: Sequence[Profile], axes: Sequence[int], *, thorough: bool = True
) -> Iterator[Case]:
    for profile, factor, axis in product(profiles, factors, axes):
        if thorough or (factor == 4 and axis == 2):
            yield Case(factor, profile, axis)
