"""Thick slices: what a 2D acquisition does to a head along one axis.

Slice ``n`` is a weighted mean of the fine voxels around its centre; the weights are the slice profile. Slices may
touch, leave gaps or overlap, and their distance need not be a whole number of fine voxels. The operator is one
small matrix along one axis, so that its Gram matrix is inverted exactly: projection onto the measurements has a
closed form, whatever the factor.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.interpolate import make_interp_spline
from scipy.special import erf
from torch import Tensor

from medidiff.errors import ConfigError, GeometryError
from medidiff.operators.base import LinearOperator
from medidiff.operators.task import Task

Profile = Literal["box", "gaussian"]
Kind = Literal["box", "gaussian", "measured"]
FWHM_TO_STD = 1 / (2 * math.sqrt(2 * math.log(2)))
# Slice excitation falls off fast; beyond three standard deviations the weight is below 1.2% of the peak.
GAUSSIAN_CUTOFF_STD = 3.0
# Strongly overlapping slices make the Gram matrix nearly singular. This floor under its eigenvalues bounds what noise
# can grow to, and costs about 1e-6 of the data where slices touch.
RELATIVE_DAMPING = 1e-6


@dataclass(frozen=True, slots=True)
class MeasuredProfile:
    """A slice profile as it was measured: weights at some distances from the slice's centre, straight lines between.

    Args:
        offsets: Distances from the centre, rising, mm (or voxels, where it is said).
        weights: Not negative, not all zero; their scale does not matter.
    Raises:
        ConfigError: these are no such numbers.
    """

    offsets: tuple[float, ...]
    weights: tuple[float, ...]

    def __post_init__(self) -> None:
        offsets, weights = np.asarray(self.offsets), np.asarray(self.weights)
        if len(offsets) != len(weights) or len(offsets) < 3:
            raise ConfigError(
                f"a measured profile has a weight for each offset, at least three; got {len(offsets)} offsets and "
                f"{len(weights)} weights"
            )
        if not (np.isfinite(offsets).all() and np.isfinite(weights).all() and (np.diff(offsets) > 0).all()):
            raise ConfigError("the offsets of a measured profile must rise, and all its numbers must be finite")
        if (weights < 0).any() or weights.max() <= 0:
            raise ConfigError("the weights of a measured profile must not be negative, nor all zero")

    @property
    def fwhm(self) -> float:
        """Full width at half maximum, in the unit of the offsets."""
        offsets, weights = self._closed()
        above = weights >= weights.max() / 2
        first, last = int(np.argmax(above)), len(above) - 1 - int(np.argmax(above[::-1]))
        rise = np.interp(weights.max() / 2, weights[[first - 1, first]], offsets[[first - 1, first]])
        fall = np.interp(weights.max() / 2, weights[[last + 1, last]], offsets[[last + 1, last]])
        return float(fall - rise)

    def scaled(self, unit: float) -> MeasuredProfile:
        """The same profile with its offsets in units of so many of the old."""
        return MeasuredProfile(tuple(float(o) / unit for o in self.offsets), self.weights)

    def cumulative(self, positions: NDArray[Any]) -> NDArray[Any]:
        """Integral of the profile up to each position, exact for the straight lines."""
        offsets, weights = self._closed()
        slopes = np.diff(weights) / np.diff(offsets)
        area = np.concatenate([[0], np.cumsum((weights[1:] + weights[:-1]) / 2 * np.diff(offsets))])
        place = np.clip(positions, offsets[0], offsets[-1])
        piece = np.clip(np.searchsorted(offsets, place, side="right") - 1, 0, len(slopes) - 1)
        within = place - offsets[piece]
        return np.asarray(area[piece] + within * (weights[piece] + slopes[piece] * within / 2))

    def is_like_gaussian(self) -> bool:
        """Whether a Gaussian of the same width describes it better than a box."""
        offsets, weights = self._closed()
        middle = float(np.sum(offsets * weights) / np.sum(weights))
        fine = np.linspace(offsets[0], offsets[-1], 401)
        own = np.interp(fine, offsets, weights / weights.max())
        box = (np.abs(fine - middle) <= self.fwhm / 2).astype(float)
        bell = np.exp(-0.5 * ((fine - middle) / (self.fwhm * FWHM_TO_STD)) ** 2)
        return bool(np.sum((own - bell) ** 2) < np.sum((own - box) ** 2))

    def _closed(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """With a fall to zero at either end, one step of the table wide where the table ends above zero."""
        offsets, weights = np.asarray(self.offsets, float), np.asarray(self.weights, float)
        step = 1e-3 * (offsets[-1] - offsets[0])
        return (
            np.concatenate([[offsets[0] - step], offsets, [offsets[-1] + step]]),
            np.concatenate([[0.0], weights, [0.0]]),
        )


@dataclass(frozen=True, slots=True)
class SliceProfile:
    """How slices lie on a fine grid, in units of fine voxels.

    Args:
        factor: Distance between slice centres.
        thickness: Full width at half maximum of the profile; equal to ``factor`` when slices touch.
        kind: ``"box"`` (ideal 2D slice, or averaging), ``"gaussian"`` (a short excitation pulse) or ``"measured"``.
        measured: The profile itself where it was measured, offsets in fine voxels.
    """

    factor: float
    thickness: float
    kind: Kind = "box"
    measured: MeasuredProfile | None = None

    def __post_init__(self) -> None:
        if not (1 <= self.factor < math.inf and 0 < self.thickness < math.inf):
            raise ConfigError(f"slices need factor >= 1 and thickness > 0, got {self.factor} and {self.thickness}")
        if self.kind not in ("box", "gaussian", "measured") or (self.kind == "measured") != (self.measured is not None):
            raise ConfigError(f"a slice profile is 'box', 'gaussian' or a measured one, got {self.kind!r}")

    @classmethod
    def of(cls, distance: float, thickness: float, form: Profile | MeasuredProfile, voxel: float) -> SliceProfile:
        """A profile in fine voxels from millimetres; a measured form has a thickness of its own.

        Args:
            distance: Between slice centres, mm.
            thickness: Full width at half maximum, mm.
            form: The profile, offsets in mm where it was measured.
            voxel: Size of a fine voxel, mm.
        """
        if isinstance(form, MeasuredProfile):
            own = form.scaled(voxel)
            return cls(distance / voxel, own.fwhm, "measured", own)
        return cls(distance / voxel, thickness / voxel, form)

    @property
    def looks_gaussian(self) -> bool:
        """What a network, which knows two forms, is told."""
        return self.kind == "gaussian" or (self.measured is not None and self.measured.is_like_gaussian())


class SliceOperator(LinearOperator):
    """Average fine voxels into slices along one axis.

    Args:
        in_shape: Fine grid (c, i, j, k).
        axis: Axis of the slices among (i, j, k): 0, 1 or 2.
        profile: Distance, thickness and form of the slices.
        count: Number of slices; by default as many as fit (at least one).
    The stack of slices has the same centre as the fine grid.
    Source: Greenspan (2009), The Computer Journal 52, 43 (slice-select profile as the point spread function).
    """

    def __init__(
        self, in_shape: tuple[int, int, int, int], axis: int, profile: SliceProfile, count: int | None = None
    ) -> None:
        if axis not in (0, 1, 2):
            raise GeometryError(f"the slice axis must be 0, 1 or 2, got {axis}")
        fine = in_shape[axis + 1]
        slices = max(1, round(fine / profile.factor)) if count is None else count
        self.axis, self.profile = axis, profile
        self.in_shape = tuple(in_shape)
        out = list(in_shape)
        out[axis + 1] = slices
        self.out_shape = tuple(out)
        self.centres = slice_centres(fine, slices, profile.factor)
        self.weights = torch.from_numpy(slice_weights(fine, self.centres, profile))
        gram = self.weights @ self.weights.T
        self._eigenvalues, self._eigenvectors = torch.linalg.eigh(gram)
        self._floor = float(self._eigenvalues[-1]) * RELATIVE_DAMPING

    def _forward(self, x: Tensor) -> Tensor:
        return self._along(x, self.weights)

    def _adjoint(self, y: Tensor) -> Tensor:
        return self._along(y, self.weights.T)

    def solve_gram(self, r: Tensor, damping: float | Tensor = 0.0) -> Tensor:
        """Closed form through the eigenvectors of the slice Gram matrix."""
        shift = torch.as_tensor(damping, dtype=torch.float64)
        if shift.numel() > 1:
            return torch.cat([self.solve_gram(item[None], s) for item, s in zip(r, shift, strict=True)])
        inverse = self._eigenvectors / (self._eigenvalues + max(float(shift), self._floor)) @ self._eigenvectors.T
        return self._along(r, inverse)

    def reference(self, y: Tensor) -> Tensor:
        """The strong classical answer: cubic spline through the slices, then exact projection onto them.

        Args:
            y: Slices, shape (b, *out_shape).
        Returns:
            An image on the fine grid that reproduces the slices, shape (b, *in_shape).
        """
        self._check(y, self.out_shape, "measurement")
        return self._along(y, self.reference_matrix)

    @property
    def reference_matrix(self) -> Tensor:
        """Slices to reference image along the axis, shape (fine, slices), float64."""
        spline = torch.from_numpy(spline_matrix(self.centres, self.in_shape[self.axis + 1]))
        inverse = self._eigenvectors / (self._eigenvalues + self._floor) @ self._eigenvectors.T
        identity = torch.eye(len(self.centres), dtype=torch.float64)
        corrected: Tensor = spline + self.weights.T @ inverse @ (identity - self.weights @ spline)
        return corrected

    def known(self, y: Tensor) -> Tensor:
        """How directly each voxel was measured, shape (b, *in_shape); see ``closeness``."""
        shape = [1] * (len(self.in_shape) + 1)
        shape[self.axis + 2] = -1
        return self.closeness().to(y).view(shape).expand(len(y), *self.in_shape)

    def task(self, noise_std: float = 0.0) -> Task:
        """What this operator did, in the numbers that a network reads."""
        return slice_task(self.profile, noise_std)

    def closeness(self) -> Tensor:
        """1 at the centre of a slice, 0 halfway between two: where the data is most direct, shape (fine,)."""
        fine = np.arange(self.in_shape[self.axis + 1])
        distance = np.abs(fine[:, None] - self.centres).min(axis=1)
        return torch.from_numpy(np.clip(1 - 2 * distance / self.profile.factor, 0, 1))

    def _along(self, x: Tensor, matrix: Tensor) -> Tensor:
        """Apply a matrix along the slice axis."""
        moved = x.movedim(self.axis + 2, -1)
        out: Tensor = (moved @ matrix.T.to(x)).movedim(-1, self.axis + 2)
        return out


def slice_task(profile: SliceProfile, noise_std: float = 0.0) -> Task:
    """The task that a slice profile poses."""
    return Task(
        factor=profile.factor,
        thickness=profile.thickness / profile.factor,
        gaussian=float(profile.looks_gaussian),
        noise=noise_std,
    )


def slice_centres(fine: int, slices: int, factor: float) -> NDArray[Any]:
    """Centres of the slices in fine voxel indices; the stack is centred on the grid."""
    return np.asarray((fine - 1) / 2 + (np.arange(slices) - (slices - 1) / 2) * factor)


def slice_weights(fine: int, centres: NDArray[Any], profile: SliceProfile) -> NDArray[Any]:
    """Weights of the fine voxels in each slice, shape (slices, fine); every row sums to one.

    The profile is integrated over each voxel, so that fractional edges are exact.

    Raises:
        GeometryError: a slice lies wholly outside the grid.
    """
    edges = np.arange(fine + 1) - 0.5 - np.asarray(centres)[:, None]
    if profile.measured is not None:
        cumulative = profile.measured.cumulative(edges)
    elif profile.kind == "box":
        cumulative = np.clip(edges, -profile.thickness / 2, profile.thickness / 2)
    else:
        std = profile.thickness * FWHM_TO_STD
        reach = GAUSSIAN_CUTOFF_STD * std
        cumulative = erf(np.clip(edges, -reach, reach) / (math.sqrt(2) * std))
    weights = np.diff(cumulative, axis=1)
    total = weights.sum(axis=1, keepdims=True)
    if (total <= 0).any():
        raise GeometryError(f"a slice lies outside the grid of {fine} fine voxels")
    return np.asarray(weights / total)


def spline_matrix(centres: NDArray[Any], fine: int) -> NDArray[Any]:
    """Cubic spline interpolation from slice centres to fine voxels as a matrix (fine, slices).

    Beyond the outermost centres the edge value is held: extrapolating a cubic invents values.
    """
    count = len(centres)
    if count == 1:
        return np.ones((fine, 1))
    positions = np.clip(np.arange(fine), centres[0], centres[-1])
    spline = make_interp_spline(centres, np.eye(count), k=min(3, count - 1))
    return np.asarray(spline(positions))
