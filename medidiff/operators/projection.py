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
from medidiff.operators.strips import view_matrix
from medidiff.operators.task import Task
from medidiff.operators.variation import total_variation

if TYPE_CHECKING:
    from medidiff.operators.astra_backend import AstraStrips

# Weights that are kept as a sparse matrix (12 bytes each, twice); beyond it they are made anew for every view.
MATRIX_WEIGHTS = 80_000_000
# The classical reconstruction that the network is shown: the same few steps as in training.
CLASSICAL_STEPS, CLASSICAL_DAMPING = 20, 0.02
# The weight was tuned on the two training scans; below the views named there it grows, as streaks do.
VARIATION_STEPS, VARIATION_WEIGHT, VARIATION_VIEWS, VARIATION_GROWTH = 300, 2e-4, 40, 1.5


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
            rays = self._project(columns)
        return rays.reshape(len(self.angles), self.detectors, b, c, k).permute(2, 3, 0, 1, 4).contiguous()

    def _adjoint(self, y: Tensor) -> Tensor:
        b, c, _, _, k = y.shape
        columns = y.permute(2, 3, 0, 1, 4).reshape(-1, b * c * k)
        if self._strips is not None:
            pixels = self._strips.adjoint(columns)
        elif self._keeps_matrix:
            pixels = self._matrix(y)[1] @ columns
        else:
            pixels = self._back(columns)
        return pixels.reshape(*self.in_shape[1:3], b, c, k).permute(2, 3, 0, 1, 4).contiguous()

    def _view(self, angle: float, dtype: Any) -> Any:
        plane = (self.in_shape[1], self.in_shape[2])
        return view_matrix(plane, angle, self.detectors, self.pitch, self.centre, dtype)

    def _project(self, columns: Tensor) -> Tensor:
        """View by view, weights made anew, on the CPU."""
        pixels = columns.detach().cpu().numpy()
        rays = [self._view(angle, pixels.dtype).T.dot(pixels)[:-1] for angle in self.angles]
        return torch.from_numpy(np.concatenate(rays)).to(columns.device)

    def _back(self, columns: Tensor) -> Tensor:
        rays = columns.detach().cpu().numpy().reshape(len(self.angles), self.detectors, -1)
        pixels = np.zeros((self.in_shape[1] * self.in_shape[2], rays.shape[2]), rays.dtype)
        for angle, view in zip(self.angles, rays, strict=True):
            # Whatever misses the detector is read from a bin of its own, which holds nothing.
            pixels += self._view(angle, rays.dtype).dot(np.concatenate([view, np.zeros_like(view[:1])]))
        return torch.from_numpy(pixels).to(columns.device)

    def _matrix(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """The whole operator and its transpose as sparse matrices of a dtype and device."""
        key = (like.dtype, like.device)
        if key not in self._matrices:
            from scipy.sparse import hstack

            dtype = torch.empty(0, dtype=like.dtype).numpy().dtype
            matrix = hstack([self._view(angle, dtype)[:, :-1] for angle in self.angles], format="csr")
            matrix.eliminate_zeros()
            self._matrices[key] = (_sparse(matrix.T.tocsr(), like), _sparse(matrix, like))
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
        """What the network is shown: total variation from ``classical``, shape (b, *in_shape).

        Geometries too large for a matrix get ``classical`` alone: hundreds of projections would take an hour.
        """
        start = self.classical(y)
        if not self._keeps_matrix or self._strips is not None:
            return start
        fewer = max(1.0, VARIATION_VIEWS / len(self.angles))
        return total_variation(self, y, VARIATION_WEIGHT * fewer**VARIATION_GROWTH, VARIATION_STEPS, start)

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
