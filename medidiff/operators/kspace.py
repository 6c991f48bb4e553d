"""MRI as it is measured: coils see the image, the Fourier transform turns it into k-space, a mask says what was taken.

Complex throughout. Planes lie along the last axis and are transformed along (i, j), or whole volumes along all three.
The intended composition is ``Mask @ Fourier @ Coils``; without coils its Gram matrix is the mask, and is inverted
exactly. Noise is complex: ``noise_std`` is the root of its mean squared modulus, as in training.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from medidiff.errors import ConfigError, GeometryError
from medidiff.operators.base import Composition, LinearOperator, conjugate_gradients, per_item
from medidiff.operators.mask import MaskOperator
from medidiff.operators.task import Task

# The classical reconstruction that the network is shown: the same few steps as in training.
SENSE_STEPS, SENSE_DAMPING = 8, 0.01
# Where every sample was taken the network is still told of a little acceleration, as in training.
LEAST_ACCELERATION = 1.05


class Fourier(LinearOperator):
    """Orthonormal discrete Fourier transform along some axes; unitary.

    Args:
        in_shape: (c, i, j, k).
        axes: Among (i, j, k), i.e. 0, 1, 2; (0, 1) for planes along the last axis.
        centred: Frequency zero in the middle, and the image's origin too, as raw data are stored.
    """

    def __init__(self, in_shape: tuple[int, ...], axes: tuple[int, ...] = (0, 1), *, centred: bool = True) -> None:
        if not axes or not set(axes) <= {0, 1, 2} or len(set(axes)) != len(axes):
            raise GeometryError(f"Fourier axes are different ones of 0, 1 and 2, got {axes}")
        self.in_shape = self.out_shape = tuple(in_shape)
        self.axes, self.centred = tuple(axes), centred
        self._dim = tuple(axis - 3 for axis in axes)

    def _forward(self, x: Tensor) -> Tensor:
        return self._transform(torch.fft.fftn, x)

    def _adjoint(self, y: Tensor) -> Tensor:
        return self._transform(torch.fft.ifftn, y)

    def _transform(self, transform: Callable[..., Tensor], x: Tensor) -> Tensor:
        if not self.centred:
            return transform(x, dim=self._dim, norm="ortho")
        turned = transform(torch.fft.ifftshift(x, dim=self._dim), dim=self._dim, norm="ortho")
        out: Tensor = torch.fft.fftshift(turned, dim=self._dim)
        return out

    def solve_gram(self, r: Tensor, damping: float | Tensor) -> Tensor:
        return r / (1 + per_item(damping, r))


class Coils(LinearOperator):
    """What each receiver coil sees: the image times its sensitivity.

    Args:
        maps: Sensitivities, complex, shape (coils, i, j, k); k may be 1 for all planes. Best of unit root sum of
            squares, so that intensities stay what they are.
        planes: Number of planes k of the image; by default that of the maps.
    Source: Pruessmann et al. (1999), SENSE: sensitivity encoding for fast MRI, eq. (3).
    """

    def __init__(self, maps: Tensor, planes: int | None = None) -> None:
        if maps.ndim != 4 or not maps.is_complex():
            raise GeometryError(f"coil maps are complex (coils, i, j, k), got {maps.dtype} {tuple(maps.shape)}")
        coils, i, j, k = maps.shape
        if planes is not None and k not in (1, planes):
            raise GeometryError(f"coil maps have {k} planes, the image {planes}")
        self.maps = maps
        self.in_shape = (1, i, j, planes or k)
        self.out_shape = (coils, i, j, planes or k)

    def _forward(self, x: Tensor) -> Tensor:
        return self._seen(x) * x

    def _adjoint(self, y: Tensor) -> Tensor:
        return (self._seen(y).conj() * y).sum(1, keepdim=True)

    def _seen(self, like: Tensor) -> Tensor:
        return self.maps.to(device=like.device, dtype=like.dtype.to_complex())


class CartesianKSpace(LinearOperator):
    """Under-sampled Cartesian k-space, single or multi-coil, of planes along the last axis or of a whole volume.

    A volume whose read-out is complete is a stack of planes too: transformed along the read-out, every position on it
    is a plane of its own with the two phase axes. Only where samples are missing along all three axes are those needed.

    Args:
        in_shape: Image (1, i, j, k).
        mask: True where a sample was taken, shape (i, j) for all planes or (i, j, k), laid out as ``centred`` says.
        maps: Coil sensitivities as in ``Coils``; None for one coil that sees everything alike.
        centred: See ``Fourier``.
        axes: In k-space: (0, 1) for planes, (0, 1, 2) for a volume.
    Raises:
        GeometryError: mask or maps do not fit.
        ConfigError: nothing was sampled.
    """

    def __init__(
        self,
        in_shape: tuple[int, int, int, int],
        mask: Tensor,
        maps: Tensor | None = None,
        *,
        centred: bool = True,
        axes: tuple[int, ...] = (0, 1),
    ) -> None:
        if mask.ndim not in (2, 3) or in_shape[0] != 1:
            raise GeometryError(
                f"k-space takes an image (1, i, j, k) and a mask (i, j) or (i, j, k), got {in_shape} and "
                f"{tuple(mask.shape)}"
            )
        if not bool(mask.any()):
            raise ConfigError("no sample of k-space was taken: the mask is empty")
        taken = mask.bool() if mask.ndim == 3 else mask.bool()[..., None]
        coils = None if maps is None else Coils(maps, in_shape[3])
        self.in_shape = tuple(in_shape)
        measured = self.in_shape if coils is None else coils.out_shape
        sampled = Composition(MaskOperator(measured, taken), Fourier(measured, axes, centred=centred))
        self.out_shape = measured
        self.acceleration = max(LEAST_ACCELERATION, taken.numel() / int(taken.sum()))
        self.single_coil, self.maps = coils is None, maps
        self.taken, self.centred, self.axes = taken, centred, tuple(axes)
        self._chain = sampled if coils is None else Composition(sampled, coils)
        self._mask = sampled.second

    def _forward(self, x: Tensor) -> Tensor:
        return self._chain._forward(x)

    def _adjoint(self, y: Tensor) -> Tensor:
        return self._chain._adjoint(y)

    def solve_gram(self, r: Tensor, damping: float | Tensor) -> Tensor:
        """Closed form for one coil, where ``A A^H`` is the mask; conjugate gradients for several."""
        return self._mask.solve_gram(r, damping) if self.single_coil else super().solve_gram(r, damping)

    def classical(self, y: Tensor) -> Tensor:
        """Complex image without a prior: zero-filled for one coil, else a few steps of CG-SENSE plane by plane.

        Args:
            y: k-space, shape (b, *out_shape), complex.
        Returns:
            Shape (b, *in_shape), complex.
        Source: Pruessmann et al. (2001), Advances in sensitivity encoding with arbitrary k-space trajectories.
        """
        self._check(y, self.out_shape, "measurement")
        image = self._adjoint(y)
        if self.single_coil:
            return image

        if self.axes != (0, 1):
            return conjugate_gradients(
                lambda x: self._adjoint(self._forward(x)) + SENSE_DAMPING * x, image, steps=SENSE_STEPS, tolerance=0.0
            )

        def normal(planes: Tensor) -> Tensor:
            x = _from_planes(planes, len(y))
            return _to_planes(self._adjoint(self._forward(x))) + SENSE_DAMPING * planes

        # Planes are problems of their own, as they were in training.
        solved = conjugate_gradients(normal, _to_planes(image), steps=SENSE_STEPS, tolerance=0.0)
        return _from_planes(solved, len(y))

    def reference(self, y: Tensor) -> Tensor:
        """Magnitude of the classical image, shape (b, *in_shape), real: what the network is shown."""
        return self.classical(y).abs()

    def known(self, y: Tensor) -> Tensor:
        """Every voxel is known as far as k-space was sampled, shape (b, *in_shape), real."""
        share = torch.full((), 1 / self.acceleration, dtype=y.real.dtype, device=y.device)
        return share.expand(len(y), *self.in_shape)

    def task(self, noise_std: float = 0.0) -> Task:
        """What this operator did, in the numbers that a network reads."""
        return Task(acceleration=self.acceleration, noise=noise_std)


def _to_planes(x: Tensor) -> Tensor:
    """(b, c, i, j, k) to (b k, c, i, j)."""
    return x.movedim(-1, 1).flatten(0, 1)


def _from_planes(x: Tensor, batch: int) -> Tensor:
    """Undo ``_to_planes``."""
    planes: Tensor = x.unflatten(0, (batch, -1))
    return planes.movedim(1, -1)
