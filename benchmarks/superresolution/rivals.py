"""The classical methods, each at its best: a function of the operator and the slices.

Where a library has the method it is used. Volumes are (1, 1, i, j, k) tensors, in the scan's own units.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.superresolution.tv import total_variation
from medidiff.operators.slices import SliceOperator, spline_matrix

Method = Callable[[SliceOperator, Tensor], Tensor]

# Beyond its edge SimpleITK returns a constant; the window reaches this many slices.
SINC_REACH = 6


def _along(x: Tensor, matrix: Tensor, axis: int) -> Tensor:
    return (x.movedim(axis + 2, -1) @ matrix.T.to(x)).movedim(-1, axis + 2)


def linear(operator: SliceOperator, y: Tensor) -> Tensor:
    """Linear interpolation between slice centres, edge values held."""
    fine = np.arange(operator.in_shape[operator.axis + 1])
    rows = [np.interp(fine, operator.centres, row) for row in np.eye(len(operator.centres))]
    return _along(y, torch.from_numpy(np.stack(rows, axis=1)), operator.axis)


def cubic(operator: SliceOperator, y: Tensor) -> Tensor:
    """Cubic spline through slice centres, edge values held."""
    fine = operator.in_shape[operator.axis + 1]
    return _along(y, torch.from_numpy(spline_matrix(operator.centres, fine)), operator.axis)


def projection(operator: SliceOperator, y: Tensor) -> Tensor:
    """Cubic spline, then the nearest image that reproduces the slices exactly: the strong baseline."""
    return operator.reference(y)


def sinc(operator: SliceOperator, y: Tensor) -> Tensor:
    """Windowed sinc (Lanczos) by SimpleITK; slices beyond the edge repeat the last one."""
    return _along(y, torch.from_numpy(sinc_matrix(operator)), operator.axis)


def sinc_matrix(operator: SliceOperator) -> NDArray[Any]:
    """What SimpleITK's resampling does to a unit pulse in each slice, shape (fine, slices).

    The fine grid meets the slices' grid along the other two axes, where a sinc is then one or zero; one matrix gives
    the numbers of the 3D filter without its thousand taps a voxel.
    """
    slices, fine = len(operator.centres), operator.in_shape[operator.axis + 1]
    pulses = np.pad(np.eye(slices), [(0, 0), (SINC_REACH, SINC_REACH)], mode="edge")
    image = sitk.GetImageFromArray(pulses)  # rows are y, columns x: x runs along the slices
    spacing = float(operator.profile.factor)
    image.SetSpacing([spacing, 1.0])
    image.SetOrigin([float(operator.centres[0]) - SINC_REACH * spacing, 0.0])
    resample = sitk.ResampleImageFilter()
    resample.SetSize([fine, slices])
    resample.SetInterpolator(sitk.sitkLanczosWindowedSinc)
    return np.asarray(sitk.GetArrayFromImage(resample.Execute(image)).T)


RIVALS: dict[str, Method] = {
    "linear": linear,
    "cubic": cubic,
    "cubic + projection": projection,
    "windowed sinc": sinc,
    "total variation": total_variation,
}
BASELINE = "cubic + projection"
