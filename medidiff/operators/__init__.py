"""Operators: what a scanner does to anatomy. They know nothing of diffusion."""

from medidiff.operators.base import Adjoint, Composition, Identity, LinearOperator, conjugate_gradients
from medidiff.operators.blur import BlurOperator
from medidiff.operators.kspace import CartesianKSpace, Coils, Fourier
from medidiff.operators.likelihood import Likelihood
from medidiff.operators.mask import MaskOperator
from medidiff.operators.motion import MovedSlices
from medidiff.operators.projection import ParallelBeam
from medidiff.operators.resample import ResampleOperator
from medidiff.operators.separable import SeparableOperator
from medidiff.operators.slices import MeasuredProfile, SliceOperator, SliceProfile
from medidiff.operators.stacks import StackedOperator, slice_axis, stack_operator

__all__ = [
    "Adjoint",
    "BlurOperator",
    "CartesianKSpace",
    "Coils",
    "Composition",
    "Fourier",
    "Identity",
    "Likelihood",
    "LinearOperator",
    "MaskOperator",
    "MeasuredProfile",
    "MovedSlices",
    "ParallelBeam",
    "ResampleOperator",
    "SeparableOperator",
    "SliceOperator",
    "SliceProfile",
    "StackedOperator",
    "conjugate_gradients",
    "slice_axis",
    "stack_operator",
]
