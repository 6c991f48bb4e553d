"""Every operator there is, small enough for dense algebra; the contract suite runs over all of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from medidiff.geometry import Geometry
from medidiff.operators import (
    Adjoint,
    BlurOperator,
    CartesianKSpace,
    Coils,
    Composition,
    Fourier,
    Identity,
    LinearOperator,
    MaskOperator,
    MeasuredProfile,
    MovedSlices,
    ParallelBeam,
    ResampleOperator,
    SeparableOperator,
    SliceOperator,
    SliceProfile,
    StackedOperator,
    stack_operator,
)
from medidiff.operators.motion import rigid_matrices
from medidiff.operators.projection import views
from medidiff.operators.sampling import partial_fourier_mask
from medidiff.restoration.chain import Chain, Turned

GRID = (2, 5, 6, 12)


@dataclass(frozen=True)
class Case:
    """How to make an operator, and what else it promises.

    Args:
        surjective: Any measurement can be reproduced exactly, so that projection has a meaning.
        field: Real operators map real to real; complex ones complex to complex.
    """

    make: Callable[[], LinearOperator]
    surjective: bool = True
    field: Literal["real", "complex"] = "real"

    def dtype(self, precision: torch.dtype = torch.float64) -> torch.dtype:
        """Type of images and measurements at a (real) precision."""
        return precision.to_complex() if self.field == "complex" else precision

    def images(self, operator: LinearOperator, seed: int, precision: torch.dtype = torch.float64) -> Tensor:
        """Three random images."""
        return random_batch(operator.in_shape, seed, dtype=self.dtype(precision))

    def measurements(self, operator: LinearOperator, seed: int, precision: torch.dtype = torch.float64) -> Tensor:
        """Three random measurements."""
        return random_batch(operator.out_shape, seed, dtype=self.dtype(precision))


def _slices(axis: int, factor: float, thickness: float, kind: str = "box", count: int | None = None) -> Case:
    shape = [2, 4, 4, 4]
    shape[axis + 1] = 12
    return Case(lambda: SliceOperator(tuple(shape), axis, SliceProfile(factor, thickness, kind), count))  # type: ignore[arg-type]


def _two_axes() -> LinearOperator:
    first = SliceOperator((2, 6, 4, 12), 2, SliceProfile(4, 4))
    return SliceOperator((2, 6, 4, 3), 0, SliceProfile(2, 2)) @ first


def _holes(shape: tuple[int, ...] = GRID) -> Tensor:
    """About a third is missing, scattered."""
    return torch.rand(shape, generator=torch.Generator().manual_seed(99)) > 0.35


MEASURED = MeasuredProfile((-3.0, -1.5, 0.0, 1.0, 2.5), (0.0, 0.8, 1.0, 1.1, 0.2))
IMAGE = Geometry(np.diag([1.5, 1.0, 1.2, 1.0]), (6, 8, 10))


def turned(geometry: Geometry, degrees: tuple[float, float, float], shift: float = 0.3) -> Geometry:
    """The same grid, turned about its centre and moved."""
    centre = geometry.to_world((np.asarray(geometry.shape) - 1) / 2)
    motion = np.array([[*np.radians(degrees), shift, -shift, 2 * shift]])
    return Geometry(rigid_matrices(motion, centre)[0] @ geometry.affine, geometry.shape)


def sagittal(slices: int) -> Geometry:
    """Slices across the first axis of the image, their own axes in another order, one of them backwards."""
    affine = np.zeros((4, 4))
    affine[0, 2], affine[1, 0], affine[2, 1], affine[3, 3] = 3.0, 1.0, -1.2, 1.0
    affine[:3, 3] = (0.0, 0.0, 9 * 1.2)
    return Geometry(affine, (8, 10, slices))


def _moving(axis: int, kind: str = "box") -> LinearOperator:
    shape = [6, 8, 10]
    shape[axis] = 3
    spacing = [1.5, 1.0, 1.2]
    spacing[axis] *= 3
    stack = Geometry(np.diag([*spacing, 1.0]), (shape[0], shape[1], shape[2]))
    motion = 0.2 * np.random.default_rng(5).normal(size=(3, 6))
    return MovedSlices(2, IMAGE, stack, axis, SliceProfile(3, 3, kind), motion)  # type: ignore[arg-type]


def _three_stacks() -> LinearOperator:
    axial = IMAGE.resampled(2, 3, 3.6)
    return StackedOperator(
        [
            stack_operator(IMAGE, axial, 2, 3.6),
            stack_operator(IMAGE, sagittal(3), 2, 3.0, profile="gaussian"),
            stack_operator(IMAGE, turned(IMAGE.resampled(1, 3, 2.5), (4, -3, 6)), 1, 2.5),
        ]
    )


def _chain() -> Chain:
    first = BlurOperator((1, 9, 4, 5), {1: 1.2})
    second = SliceOperator((1, 9, 4, 5), 0, SliceProfile(3, 3))
    return Chain([first, second, MaskOperator((1, 3, 4, 5), torch.arange(5) != 2)], 1e-3)


PLANES = (1, 6, 5, 3)
LINES = torch.tensor([1, 0, 1, 1, 0, 1], dtype=torch.bool)[:, None].expand(6, 5)


def _maps(coils: int, planes: int = 1) -> Tensor:
    """Random sensitivities of unit root sum of squares."""
    raw = torch.randn(coils, 6, 5, planes, dtype=torch.complex128, generator=torch.Generator().manual_seed(98))
    return raw / raw.abs().square().sum(0).sqrt()


def _complex(make: Callable[[], LinearOperator], surjective: bool = True) -> Case:
    return Case(make, surjective, "complex")


CASES: dict[str, Case] = {
    "identity": Case(lambda: Identity(GRID)),
    "holes": Case(lambda: MaskOperator(GRID, _holes())),
    "lost-slices": Case(lambda: MaskOperator(GRID, torch.arange(12) % 5 != 2)),
    "touching-i": _slices(0, 4, 4),
    "touching-j": _slices(1, 3, 3),
    "touching-k": _slices(2, 2, 2),
    "not-whole": _slices(2, 2.7, 2.7),
    "gaps": _slices(2, 4, 2.5),
    "thin": _slices(2, 3, 0.4),
    "overlap": _slices(0, 2.5, 3.1),
    "gaussian": _slices(2, 3, 3, "gaussian"),
    "gaussian-gaps": _slices(1, 4.4, 3, "gaussian"),
    "gaussian-overlap": _slices(2, 3, 3.6, "gaussian"),
    "one-slice": _slices(2, 12, 12, count=1),
    "finer-than-wanted": _slices(2, 1, 1),
    "fewer-than-fit": _slices(2, 3, 3, count=2),
    "two-axes": Case(_two_axes),
    "measured-profile": Case(
        lambda: SliceOperator((2, 4, 4, 12), 2, SliceProfile(3, MEASURED.fwhm, "measured", MEASURED))
    ),
    "separable": Case(lambda: SeparableOperator(GRID, {0: random_batch((5,), 21, 3), 2: random_batch((12,), 22, 4)})),
    "blur": Case(lambda: BlurOperator(GRID, {0: 1.4, 1: 1.1})),
    "blur-everywhere": Case(lambda: BlurOperator(GRID, {0: 0.8, 1: 1.2, 2: 0.3})),
    "blurred-slices": Case(
        lambda: SliceOperator(GRID, 2, SliceProfile(3, 3)) @ BlurOperator(GRID, {0: 1.1, 1: 1.1}), surjective=False
    ),
    "lost-slices-of-a-stack": Case(
        lambda: MaskOperator((2, 5, 6, 4), torch.arange(4) != 2) @ SliceOperator(GRID, 2, SliceProfile(3, 3)), False
    ),
    "resample-turned": Case(
        lambda: ResampleOperator(2, IMAGE, turned(IMAGE.cropped((1, 1, 2), (4, 6, 5)), (5, -8, 12))), surjective=False
    ),
    "resample-linear": Case(
        lambda: ResampleOperator(2, IMAGE, turned(sagittal(4), (3, 0, 0)), "linear"), surjective=False
    ),
    "resample-straight": Case(lambda: ResampleOperator(2, IMAGE, sagittal(4)), surjective=False),
    "oblique-stack": Case(
        lambda: stack_operator(IMAGE, turned(IMAGE.resampled(2, 3, 3.6), (7, 4, -5)), 2, 3.6, channels=2), False
    ),
    "coarse-in-plane": Case(
        lambda: stack_operator(IMAGE, IMAGE.resampled(2, 3, 3.6).resampled(0, 3, 3.0), 2, 4.0, profile=MEASURED), False
    ),
    "stacks": Case(_three_stacks, surjective=False),
    "chain": Case(_chain, surjective=False),
    "chain-turned": Case(lambda: Turned(_chain(), 0), surjective=False),
    "moving-i": Case(lambda: _moving(0), surjective=False),
    "moving-j": Case(lambda: _moving(1, "gaussian"), surjective=False),
    "moving-k": Case(lambda: _moving(2), surjective=False),
    "fourier": _complex(lambda: Fourier(PLANES)),
    "fourier-corner": _complex(lambda: Fourier(PLANES, centred=False)),
    "fourier-volume": _complex(lambda: Fourier((2, 4, 3, 5), (0, 1, 2))),
    "one-coil": _complex(lambda: CartesianKSpace(PLANES, LINES)),
    "one-coil-corner": _complex(lambda: CartesianKSpace(PLANES, LINES, centred=False)),
    "masks-by-plane": _complex(lambda: CartesianKSpace(PLANES, _holes(PLANES[1:]))),
    "coils": _complex(lambda: Coils(_maps(3, 3)), surjective=False),
    "coils-for-all-planes": _complex(lambda: Coils(_maps(3), 3), surjective=False),
    "multi-coil": _complex(lambda: CartesianKSpace(PLANES, LINES, _maps(4)), surjective=False),
    "half-fourier": _complex(
        lambda: CartesianKSpace(PLANES, torch.from_numpy(partial_fourier_mask(PLANES[1:3], 0.7, axis=1)), _maps(2)),
        False,
    ),
    "volume": _complex(lambda: CartesianKSpace(PLANES, _holes(PLANES[1:]), axes=(0, 1, 2))),
    "volume-coils": _complex(lambda: CartesianKSpace(PLANES, _holes(PLANES[1:]), _maps(3, 3), axes=(0, 1, 2)), False),
    "mask-fourier-coils": _complex(
        lambda: MaskOperator((2, 6, 5, 3), LINES[..., None]) @ Fourier((2, 6, 5, 3)) @ Coils(_maps(2, 3)), False
    ),
    "few-views": Case(lambda: ParallelBeam((2, 5, 6, 3), views(3)), surjective=False),
    "limited-arc": Case(lambda: ParallelBeam((1, 6, 5, 2), views(2, 100, 20), detectors=7, centre=0.4), False),
    "coarse-detector": Case(lambda: ParallelBeam((1, 4, 7, 2), views(4), pitch=1.7), surjective=False),
    # More equations than unknowns: no image reproduces arbitrary measurements.
    "adjoint": Case(lambda: SliceOperator((2, 4, 4, 12), 2, SliceProfile(3, 3)).H, surjective=False),
    "normal": Case(lambda: SliceOperator((2, 3, 3, 8), 2, SliceProfile(2.5, 2)).N, surjective=False),
    "composed-adjoint": Case(lambda: Adjoint(Composition(Identity((2, 3, 4, 4)), Identity((2, 3, 4, 4))))),
}


def dense(operator: LinearOperator, dtype: torch.dtype = torch.float64) -> Tensor:
    """The operator as a matrix, shape (measurements, voxels), double precision."""
    voxels = torch.Size(operator.in_shape).numel()
    basis = torch.eye(voxels, dtype=dtype).reshape(voxels, *operator.in_shape)
    return operator.forward(basis).reshape(voxels, -1).T


def random_batch(shape: tuple[int, ...], seed: int, count: int = 3, dtype: torch.dtype = torch.float64) -> Tensor:
    wide = torch.complex128 if dtype.is_complex else torch.float64
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed), dtype=wide).to(dtype)
