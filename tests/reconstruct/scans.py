"""Thick scans on grids of every kind, and readers other than ours to look at what became of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from medidiff.geometry import Geometry
from medidiff.volume import Volume

Array = NDArray[Any]

# What the README promises.
CONSISTENCY = 0.01


def rotation(axis: tuple[float, float, float], degrees: float) -> Array:
    """Rodrigues' formula."""
    x, y, z = np.asarray(axis) / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = np.radians(degrees)
    return np.asarray(np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross)


def affine(directions: Array, spacing: tuple[float, float, float]) -> Array:
    result = np.eye(4)
    result[:3, :3] = directions * spacing
    result[:3, 3] = (-31.25, 17.5, -8.75)
    return result


RAS = np.eye(3)
LPS = np.diag([-1.0, -1.0, 1.0])
SAGITTAL = np.array([[0, 0, -1.0], [1, 0, 0], [0, -1, 0]])  # i to A, j to I, slices to L
CORONAL = np.array([[-1.0, 0, 0], [0, 0, 1], [0, -1, 0]])  # i to L, j to I, slices to A
OBLIQUE = rotation((1, 2, 3), 28) @ LPS


@dataclass(frozen=True)
class Case:
    """A scan's grid: how its axes point, and which of them is thick."""

    directions: Array
    axis: int = 2
    thick: float = 4.0
    fine: float = 1.0
    suffix: str = ".nii.gz"

    @property
    def geometry(self) -> Geometry:
        spacing, shape = [self.fine] * 3, [24, 28, 32]
        spacing[self.axis], shape[self.axis] = self.thick, 9
        return Geometry(affine(self.directions, tuple(spacing)), tuple(shape))


CASES = {
    "axial": Case(RAS),
    "negative pixdim": Case(LPS),
    "left-handed": Case(np.diag([-1.0, 1.0, 1.0])),
    "sagittal": Case(SAGITTAL),
    "coronal": Case(CORONAL),
    "oblique": Case(OBLIQUE),
    "oblique sagittal": Case(rotation((3, -1, 1), 17) @ SAGITTAL),
    "thick along i": Case(OBLIQUE, axis=0),
    "thick along j": Case(CORONAL, axis=1, thick=2.5, fine=0.5),
    "unpacked": Case(OBLIQUE, suffix=".nii"),
    "mgz": Case(OBLIQUE, suffix=".mgz"),
    "nrrd": Case(rotation((0, 1, 1), -20) @ SAGITTAL, suffix=".nrrd"),
}


def scan(geometry: Geometry, seed: int = 0, scale: float = 1000.0) -> Volume:
    """A bright, off-centre blob and texture, seen in thick slices."""
    i, j, k = np.meshgrid(*(np.linspace(-1, 1, n) for n in geometry.shape), indexing="ij")
    blob = np.exp(-(((i - 0.2) / 0.4) ** 2 + ((j + 0.3) / 0.4) ** 2 + ((k - 0.25) / 0.5) ** 2))
    noise = np.random.default_rng(seed).normal(0, 0.02, geometry.shape)
    data = scale * np.clip(0.05 + blob + noise, 0, None)
    return Volume(data[None].astype(np.float32), geometry)


def read_again(path: Path) -> tuple[Array, Array]:
    """Voxels and affine, read by others than us: nibabel for MGZ, SimpleITK for the rest."""
    if path.suffix == ".mgz":
        image: Any = nibabel.load(path)
        return np.asarray(image.dataobj, dtype=np.float64), np.asarray(image.affine)
    image = sitk.ReadImage(str(path))
    matrix = np.eye(4)
    matrix[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    matrix[:3, 3] = image.GetOrigin()
    return sitk.GetArrayFromImage(image).T.astype(np.float64), np.diag([-1.0, -1.0, 1.0, 1.0]) @ matrix


def nrmse(a: Array, b: Array) -> float:
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def grouped(data: Array, axis: int, factor: int) -> Array:
    """The mean of every ``factor`` planes: what touching slices are."""
    moved = np.moveaxis(data, axis, -1)
    return np.moveaxis(moved.reshape(*moved.shape[:-1], -1, factor).mean(-1), -1, axis)
