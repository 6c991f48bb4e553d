"""Operators: what a scanner does to anatomy. They know nothing of diffusion."""

from medidiff.operators.base import Adjoint, Composition, Identity, LinearOperator, conjugate_gradients
from medidiff.operators.kspace import CartesianKSpace, Coils, Fourier
from medidiff.operators.likelihood import Likelihood
from medidiff.operators.mask import MaskOperator
from medidiff.operators.slices import SliceOperator, SliceProfile

__all__ = [
    "Adjoint",
    "CartesianKSpace",
    "Coils",
    "Composition",
    "Fourier",
    "Identity",
    "Likelihood",
    "LinearOperator",
    "MaskOperator",
    "SliceOperator",
    "SliceProfile",
    "conjugate_gradients",
]
