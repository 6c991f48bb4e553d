"""CT as it is measured: line integrals of attenuation along parallel rays, plane by plane.

Planes lie along the last axis, all under the same angles: sparse views, a limited arc, or a full half turn. Lengths
are in pixels of the image; ``Attenuation`` says what that means in Hounsfield units and millimetres.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from medidiff.errors import ConfigError, GeometryError
from medidiff.operators.base import LinearOperator, conjugate_gradients
from medidiff.operators.task import Task

if TYPE_CHECKING:
    from medidiff.operators.astra_backend import AstraStrips

# Weights that are kept as a sparse matrix (12 bytes each, twice); beyond it they are made anew for every view.
MATRIX_WEIGHTS = 40_000_000
# The classical reconstruction that the network is shown: the same few steps as in training.
CLASSICAL_STEPS, CLASSICAL_DAMPING = 20, 0.02


class ParallelBeam(LinearOperator):
    """Parallel-beam projections of planes along the last axis.

    A measurement is the integral over a pixel-wide strip, averaged over the strip's width: exact for an image of square
    pixels, and the same numbers forth and back, so that the adjoint is exact.

    Args:
        in_shape: Image (c, i, j, k).
        angles: Direction of the detector axis for each view, radians; at angle 0 the detector lies along i, and the
            rays run along j.
        detectors: Detector bins; by default as many as see the whole plane from every side.
        pitch: Distance of detector bins, pixels of the image.
        centre: Where the rotation axis meets the detector, bins from its middle.
        backend: ``"torch"``, or ``"astra"`` where that is installed: the same numbers in single precision on the CPU.

    ``forward`` gives line integrals, shape (b, c, views, detectors, k), image units times pixels.
    Raises:
        ConfigError: no view, no detector, numbers that are not finite, or no such backend.
    Source: De Man & Basu (2004), Distance-driven projection and backprojection in three dimensions, sec. 2 (the
        footprint of a pixel); Long, Fessler & Balter (2010), IEEE Trans. Med. Imaging 29, 1839 (its trapezoid).
    """

    def __init__(
        self,
        in_shape: tuple[int, int, int, int],
        angles: Sequence[float],
        *,
        detectors: int | None = None,
        pitch: float = 1.0,
        centre: float = 0.0,
        backend: Literal["torch", "astra"] = "torch",
    ) -> None:
        if min(in_shape) < 1:
            raise GeometryError(f"projections are taken of an image (c, i, j, k), got {tuple(in_shape)}")
        if not len(angles) or not all(math.isfinite(angle) for angle in (*angles, centre)):
            raise ConfigError(f"projections need at least one finite angle and a finite centre, got {len(angles)}")
        if not 0 < pitch < math.inf or (detectors is not None and detectors < 1):
            raise ConfigError(f"a detector has at least one bin and a positive pitch, got {detectors} and {pitch:g}")
        self.angles = tuple(float(angle) for angle in angles)
        self.pitch, self.centre = float(pitch), float(centre)
        self.detectors = detectors or whole_plane(in_shape[1:3], self.pitch, self.centre)
        self.in_shape = tuple(in_shape)
        self.out_shape = (in_shape[0], len(self.angles), self.detectors, in_shape[3])
        self.backend = backend
        self._matrices: dict[Any, tuple[Tensor, Tensor]] = {}
        self._strips: AstraStrips | None = None
        if backend == "astra":
            self._strips = self._by_astra()

    def _by_astra(self) -> AstraStrips:
        from medidiff.operators.astra_backend import AstraStrips

        plane = (self.in_shape[1], self.in_shape[2])
        return AstraStrips(plane, self.angles, self.detectors, self.pitch, self.centre)

    def __getstate__(self) -> dict[str, Any]:
        # What can be computed again is neither copied nor pickled.
        return {**self.__dict__, "_matrices": {}, "_strips": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self.backend == "astra":
            self._strips = self._by_astra()

    @property
    def _keeps_matrix(self) -> bool:
        return 3 * len(self.angles) * self.in_shape[1] * self.in_shape[2] <= MATRIX_WEIGHTS

    def _forward(self, x: Tensor) -> Tensor:
        b, c, i, j, k = x.shape
        columns = x.permute(2, 3, 0, 1, 4).reshape(i * j, b * c * k)
        if self._strips is not None:
            rays = self._strips.forward(columns)
        elif self._keeps_matrix:
            rays = self._matrix(x)[0] @ columns
        else:
            rays = torch.stack([self._project(angle, columns) for angle in self.angles]).flatten(0, 1)
        return rays.reshape(len(self.angles), self.detectors, b, c, k).permute(2, 3, 0, 1, 4).contiguous()

    def _adjoint(self, y: Tensor) -> Tensor:
        b, c, _, _, k = y.shape
        columns = y.permute(2, 3, 0, 1, 4).reshape(-1, b * c * k)
        if self._strips is not None:
            pixels = self._strips.adjoint(columns)
        elif self._keeps_matrix:
            pixels = self._matrix(y)[1] @ columns
        else:
            views = columns.unflatten(0, (len(self.angles), self.detectors))
            pixels = sum(
                (self._back(angle, view) for angle, view in zip(self.angles, views, strict=True)),
                torch.zeros((), dtype=y.dtype, device=y.device),
            )
        return pixels.reshape(*self.in_shape[1:3], b, c, k).permute(2, 3, 0, 1, 4).contiguous()

    def _project(self, angle: float, columns: Tensor) -> Tensor:
        bins, weights = self._footprints(angle)
        rays = torch.zeros(self.detectors + 1, columns.shape[1], dtype=columns.dtype, device=columns.device)
        for index, weight in zip(bins, weights, strict=True):
            rays.index_add_(0, index.to(columns.device), weight.to(columns)[:, None] * columns)
        return rays[:-1]

    def _back(self, angle: float, view: Tensor) -> Tensor:
        bins, weights = self._footprints(angle)
        # Whatever misses the detector is read from a bin of its own, which holds nothing.
        padded = torch.cat([view, view.new_zeros(1, view.shape[1])])
        parts = [
            weight.to(view)[:, None] * padded[index.to(view.device)]
            for index, weight in zip(bins, weights, strict=True)
        ]
        return torch.stack(parts).sum(0)

    def _footprints(self, angle: float) -> tuple[Tensor, Tensor]:
        """Which bins each pixel falls into from one side, and with what weight.

        Returns:
            Bins, shape (m, pixels), ``detectors`` standing for a miss; weights, same shape, float64.
        """
        ni, nj = self.in_shape[1:3]
        cosine, sine = math.cos(angle), math.sin(angle)
        x, y = torch.arange(ni, dtype=torch.float64), torch.arange(nj, dtype=torch.float64)
        # Pixel centres on the detector axis, then in bins from the edge of the first.
        position = ((x - (ni - 1) / 2) * cosine)[:, None] + ((y - (nj - 1) / 2) * sine)[None, :]
        place = position.flatten() / self.pitch + self.detectors / 2 + self.centre
        outer = (abs(cosine) + abs(sine)) / 2 / self.pitch
        inner = abs(abs(cosine) - abs(sine)) / 2 / self.pitch
        first = torch.floor(place - outer).long()
        bins, weights = [], []
        for step in range(math.ceil(2 * outer) + 1):
            bin_ = first + step
            share = _trapezoid(bin_ + 1 - place, inner, outer) - _trapezoid(bin_ - place, inner, outer)
            hit = (bin_ >= 0) & (bin_ < self.detectors)
            bins.append(torch.where(hit, bin_, self.detectors))
            # A pixel has area 1, and a bin averages over its width.
            weights.append(torch.where(hit, share / self.pitch, 0.0))
        return torch.stack(bins), torch.stack(weights)

    def _matrix(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """The whole operator and its transpose as sparse matrices of a dtype and device."""
        key = (like.dtype, like.device)
        if key not in self._matrices:
            from scipy.sparse import csr_matrix

            rows, columns, values = [], [], []
            pixels = np.arange(self.in_shape[1] * self.in_shape[2], dtype=np.int32)
            for view, angle in enumerate(self.angles):
                bins, weights = (part.numpy() for part in self._footprints(angle))
                hit = (bins < self.detectors) & (weights > 0)
                rows.append((view * self.detectors + bins[hit]).astype(np.int32))
                columns.append(np.broadcast_to(pixels, bins.shape)[hit])
                values.append(weights[hit])
            shape = (len(self.angles) * self.detectors, len(pixels))
            matrix = csr_matrix((np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))), shape)
            self._matrices[key] = (_sparse(matrix, like), _sparse(matrix.T.tocsr(), like))
        return self._matrices[key]

    @property
    def wanted_views(self) -> float:
        """How many views over a half turn would fix a plane of this size (Crowther's count, pi / 2 a pixel)."""
        return math.pi / 2 * max(self.in_shape[1:3])

    def classical(self, y: Tensor, *, steps: int = CLASSICAL_STEPS, damping: float = CLASSICAL_DAMPING) -> Tensor:
        """Damped least squares by a few conjugate gradients from zero, shape (b, *in_shape).

        Args:
            y: Line integrals, shape (b, *out_shape).
            damping: Relative to the largest eigenvalue of the normal operator, about ``views`` times the chord.
        Source: Hestenes & Stiefel (1952); few steps regularise (Hansen 2010, Discrete Inverse Problems, ch. 6).
        """
        self._check(y, self.out_shape, "measurement")
        return self._normal_solve(self._adjoint(y), damping * len(self.angles), steps)

    def consistent(self, x0: Tensor, y: Tensor, damping: float, *, steps: int) -> Tensor:
        """Bring an estimate back to the data: a few steps towards ``min |A x - y|^2 + damping |x - x0|^2``.

        Args:
            x0: Estimate, shape (b, *in_shape).
            y: Line integrals, shape (b, *out_shape).
            damping: Variance of the noise in ``y`` over that of the error in ``x0``.
        """
        self._check(x0, self.in_shape, "input")
        return x0 + self._normal_solve(self._adjoint(y - self._forward(x0)), damping, steps)

    def _normal_solve(self, right: Tensor, shift: float, steps: int) -> Tensor:
        """``(A^H A + shift I)^-1 right`` by conjugate gradients; planes are problems of their own."""

        def normal(planes: Tensor) -> Tensor:
            x = _from_planes(planes, len(right))
            return _to_planes(self._adjoint(self._forward(x))) + shift * planes

        return _from_planes(conjugate_gradients(normal, _to_planes(right), steps=steps, tolerance=0.0), len(right))

    def reference(self, y: Tensor) -> Tensor:
        """What the network is shown: ``classical``, shape (b, *in_shape)."""
        return self.classical(y)

    def known(self, y: Tensor) -> Tensor:
        """Every pixel is known as far as views were taken, shape (b, *in_shape)."""
        share = min(1.0, len(self.angles) / self.wanted_views)
        return torch.full((), share, dtype=y.dtype, device=y.device).expand(len(y), *self.in_shape)

    def task(self, noise_std: float = 0.0) -> Task:
        """What this operator did, in the numbers that a network reads.

        Noise is that of the filtered back-projection of white noise (Kak & Slaney 1988, ch. 5): views average it, the
        ramp filter makes it worse.
        """
        return Task(
            sparse_views=sparseness(len(self.angles), self.wanted_views),
            noise=noise_std * math.pi / math.sqrt(12 * len(self.angles)),
            missing=self.missing_arc,
        )

    @property
    def missing_arc(self) -> float:
        """Share of the half turn that no view lies in, beyond the usual distance between views."""
        if len(self.angles) < 2:
            return 0.0
        turned = np.sort(np.mod(self.angles, math.pi))
        gaps = np.diff(np.append(turned, turned[0] + math.pi))
        usual = float(np.median(gaps))
        return float(max(0.0, gaps.max() - usual) / math.pi) if gaps.max() > 2 * usual else 0.0


def sparseness(views: int, wanted: float) -> float:
    """Doublings of the views that would fix the plane, in sixths: 0 where there are enough, about 0.5 for an eighth."""
    return max(0.0, math.log2(wanted / views)) / 6


def whole_plane(shape: Sequence[int], pitch: float = 1.0, centre: float = 0.0) -> int:
    """Detector bins that see a plane from every side."""
    return math.ceil(math.hypot(*shape) / pitch + 2 * abs(centre)) + 1


def views(count: int, arc_degrees: float = 180.0, start_degrees: float = 0.0) -> list[float]:
    """Angles of equally spaced views over an arc, its end left out, radians."""
    if count < 1 or not 0 < arc_degrees <= 360:
        raise ConfigError(f"expected at least one view over an arc up to 360 degrees, got {count} over {arc_degrees:g}")
    return [math.radians(start_degrees + arc_degrees * index / count) for index in range(count)]


def _trapezoid(u: Tensor, inner: float, outer: float) -> Tensor:
    """Area of a pixel's footprint up to ``u``: 0 at ``-outer``, 1 at ``outer``, a straight line within ``inner``."""
    reach, slope = outer + inner, outer - inner
    a = u.abs().clamp(max=outer)
    # Half the area within the flat top grows straight, that of the flank as a parabola.
    flank = (a - inner).clamp_min(0)
    half = a / reach - (flank**2 / (2 * slope * reach) if slope > 1e-12 else 0.0)
    return 0.5 + torch.sign(u) * half


def _sparse(matrix: Any, like: Tensor) -> Tensor:
    """A SciPy matrix as a tensor beside ``like``."""
    rows, columns = (torch.from_numpy(part.astype(np.int32)) for part in (matrix.indptr, matrix.indices))
    values = torch.from_numpy(matrix.data).to(like.dtype)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
        # Built from a valid matrix: checking every entry again would take as long as building it.
        return torch.sparse_csr_tensor(
            rows, columns, values, matrix.shape, device=like.device, dtype=like.dtype, check_invariants=False
        )


def _to_planes(x: Tensor) -> Tensor:
    """(b, c, i, j, k) to (b k, c, i, j)."""
    return x.movedim(-1, 1).flatten(0, 1)


def _from_planes(x: Tensor, batch: int) -> Tensor:
    """Undo ``_to_planes``."""
    planes: Tensor = x.unflatten(0, (batch, -1))
    return planes.movedim(1, -1)
