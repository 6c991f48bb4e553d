"""How far an estimate lies from a known truth, on 3D volumes, inside a mask.

Every score takes ``(estimate, truth)`` of shape (i, j, k) (leading axes of size one are dropped), NumPy or torch,
and computes in float64. ``mask`` (True = counts) restricts the average, not the filtering: windows at the border of
the mask still see the voxels outside it. ``data_range`` is always explicit, because PSNR and SSIM mean nothing
without it; ``robust_range`` gives the one that this project reports.

scikit-image and MONAI hold these scores without masks and without the contrast-structure maps that MS-SSIM needs;
the tests hold ours against both.
"""

from __future__ import annotations

import math
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medidiff.errors import InputError

Array = NDArray[Any]

# Wang et al. (2004) use an 11-tap Gaussian window of sigma 1.5; truncate 3.5 gives int(3.5 * 1.5 + 0.5) = 5
# taps a side.
SSIM_SIGMA = 1.5
SSIM_TRUNCATE = 3.5
SSIM_K1, SSIM_K2 = 0.01, 0.03
SSIM_RADIUS = 5
# Wang et al. (2003), five scales, finest first.
MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
# Ravishankar & Bresler (2011): a 15-tap Laplacian of Gaussian of sigma 1.5; truncate 4.67 gives 7 taps a side.
HFEN_SIGMA = 1.5
HFEN_TRUNCATE = 4.67


@runtime_checkable
class Forward(Protocol):
    """What ``data_consistency`` needs of an operator."""

    def forward(self, x: Any) -> Any: ...


def _numpy(x: Any) -> Array:
    """A NumPy array of an array or torch tensor, without importing torch to ask."""
    return np.asarray(x.detach().cpu() if hasattr(x, "detach") else x)


def as_array(x: Any) -> Array:
    """A real 3D float64 array of a NumPy array or torch tensor; leading axes of size one are dropped.

    Raises:
        InputError: not three-dimensional, complex, or with values that are not finite.
    """
    array = _numpy(x)
    while array.ndim > 3 and array.shape[0] == 1:
        array = array[0]
    if array.ndim != 3:
        raise InputError(f"a score needs a volume (i, j, k), got shape {np.shape(x)}: score each channel in turn")
    if np.iscomplexobj(array):
        raise InputError("a score needs real values, got complex ones: take the magnitude first")
    array = array.astype(np.float64, copy=False)
    if not np.isfinite(array).all():
        raise InputError("a score needs finite values, got NaN or infinity")
    return array


def _pair(estimate: Any, truth: Any, mask: Any | None) -> tuple[Array, Array, Array]:
    """Both volumes as float64 and the mask as bool, all of one shape."""
    x, t = as_array(estimate), as_array(truth)
    if x.shape != t.shape:
        raise InputError(f"estimate and truth must lie on one grid, got {x.shape} and {t.shape}")
    if mask is None:
        return x, t, np.ones(t.shape, dtype=bool)
    m = as_array(mask) > 0.5
    if m.shape != t.shape:
        raise InputError(f"the mask must have the shape of the truth, {t.shape}, got {m.shape}")
    if not m.any():
        raise InputError("the mask is empty: there is nothing to score")
    return x, t, m


def _check_range(data_range: float) -> float:
    if not (math.isfinite(data_range) and data_range > 0):
        raise InputError(f"data_range must be a positive number, got {data_range}")
    return float(data_range)


def robust_range(truth: Any, mask: Any | None = None, *, percentile: float = 99.9) -> float:
    """The range that this project reports: zero (or the lowest value, if below) to a percentile inside the mask.

    The maximum is one bright vessel or an artefact and moves PSNR by dB between scans; a percentile does not.
    """
    _, t, m = _pair(truth, truth, mask)
    high = float(np.percentile(t[m], percentile))
    return _check_range(high - min(0.0, float(t[m].min())))


def psnr(estimate: Any, truth: Any, *, data_range: float, mask: Any | None = None) -> float:
    """Peak signal-to-noise ratio, dB; infinite for equal volumes. Higher is better."""
    x, t, m = _pair(estimate, truth, mask)
    mse = float(np.mean((x[m] - t[m]) ** 2))
    return math.inf if mse == 0 else 10 * math.log10(_check_range(data_range) ** 2 / mse)


def nrmse(estimate: Any, truth: Any, *, mask: Any | None = None) -> float:
    """||estimate - truth|| / ||truth||, the Euclidean normalisation. Lower is better; 0 is perfect."""
    x, t, m = _pair(estimate, truth, mask)
    return _relative(x[m] - t[m], t[m])


def mae(estimate: Any, truth: Any, *, mask: Any | None = None) -> float:
    """Mean absolute error in the units of the volumes."""
    x, t, m = _pair(estimate, truth, mask)
    return float(np.mean(np.abs(x[m] - t[m])))


def _relative(error: Array, truth: Array) -> float:
    norm = float(np.linalg.norm(truth))
    if norm == 0:
        raise InputError("a relative error needs a truth that is not zero throughout")
    return float(np.linalg.norm(error)) / norm


def ssim_maps(x: Array, t: Array, data_range: float) -> tuple[Array, Array]:
    """SSIM and its contrast-structure part at every voxel (borders reflected), Wang et al. (2004), eq. (6) to (13)."""

    def smooth(a: Array) -> Array:
        return np.asarray(ndimage.gaussian_filter(a, SSIM_SIGMA, truncate=SSIM_TRUNCATE, mode="reflect"))

    c1, c2 = (SSIM_K1 * data_range) ** 2, (SSIM_K2 * data_range) ** 2
    mean_x, mean_t = smooth(x), smooth(t)
    variances = smooth(x * x) - mean_x**2 + smooth(t * t) - mean_t**2
    covariance = smooth(x * t) - mean_x * mean_t
    contrast = (2 * covariance + c2) / (variances + c2)
    luminance = (2 * mean_x * mean_t + c1) / (mean_x**2 + mean_t**2 + c1)
    return luminance * contrast, contrast


def ssim(estimate: Any, truth: Any, *, data_range: float, mask: Any | None = None) -> float:
    """Structural similarity with a 3D Gaussian window (11 taps, sigma 1.5), at most 1. Higher is better.

    Without a mask the outermost five voxels are left out, where the window leaves the volume. Background that is equal
    everywhere scores 1: always give the masked figure, and the whole one beside it.

    Raises:
        InputError: the volume is smaller than the window.
    """
    x, t, m = _pair(estimate, truth, mask)
    if min(t.shape) < 2 * SSIM_RADIUS + 1:
        raise InputError(f"SSIM needs at least {2 * SSIM_RADIUS + 1} voxels along every axis, got {t.shape}")
    if mask is None:
        m = _interior(t.shape)
        box: tuple[slice, ...] = (slice(None),) * 3
    else:  # filter only where it counts: a head fills a third of its field of view
        box = _bounding_box(m, SSIM_RADIUS)
    similarity, _ = ssim_maps(x[box], t[box], _check_range(data_range))
    return float(similarity[m[box]].mean())


def _interior(shape: tuple[int, ...]) -> Array:
    m = np.zeros(shape, dtype=bool)
    m[(slice(SSIM_RADIUS, -SSIM_RADIUS),) * 3] = True
    return m


def _bounding_box(mask: Array, margin: int) -> tuple[slice, ...]:
    """Slices around the True voxels with a margin, so that a filter of that radius sees what it would see in full."""
    box = []
    for axis, size in enumerate(mask.shape):
        index = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
        box.append(slice(max(0, int(index[0]) - margin), min(size, int(index[-1]) + 1 + margin)))
    return tuple(box)


def ms_ssim_scales(shape: tuple[int, ...]) -> int:
    """How many of the five scales fit: each halves the volume and must still hold the 11-voxel window."""
    return sum(1 for scale in range(len(MS_SSIM_WEIGHTS)) if min(shape) // 2**scale > 2 * SSIM_RADIUS)


def ms_ssim(
    estimate: Any, truth: Any, *, data_range: float, mask: Any | None = None, scales: int | None = None
) -> float:
    """Multi-scale structural similarity, Wang et al. (2003). Higher is better.

    Args:
        scales: Number of scales; None takes as many as fit, at most five, with their weights made to sum to one.
            Figures with different numbers of scales may not be compared.
    Raises:
        InputError: more scales are asked for than fit (five need at least 176 voxels along every axis).
    """
    x, t, m = _pair(estimate, truth, mask)
    fit = ms_ssim_scales(t.shape)
    count = fit if scales is None else scales
    if not 1 <= count <= fit:
        raise InputError(f"MS-SSIM with {count} scales does not fit a volume of {t.shape}: at most {fit}")
    weights = np.asarray(MS_SSIM_WEIGHTS[:count])
    if count < len(MS_SSIM_WEIGHTS):
        weights = weights / weights.sum()
    score, share = 1.0, m.astype(np.float64)
    for scale, weight in enumerate(weights):
        similarity, contrast = ssim_maps(x, t, _check_range(data_range))
        counted = share >= 0.5 if mask is not None else _interior(x.shape)
        if not counted.any():
            raise InputError(f"the mask vanishes at scale {scale + 1} of {count}: ask for fewer scales")
        part = float((similarity if scale == count - 1 else contrast)[counted].mean())
        score *= max(part, 0.0) ** float(weight)  # a negative base has no real power: no similarity at that scale
        x, t, share = _halve(x), _halve(t), _halve(share)
    return score


def _halve(x: Array) -> Array:
    """Mean of 2x2x2 blocks; an odd last plane is dropped, as average pooling does."""
    i, j, k = (n // 2 for n in x.shape)
    return np.asarray(x[: 2 * i, : 2 * j, : 2 * k].reshape(i, 2, j, 2, k, 2).mean(axis=(1, 3, 5)))


def hfen(estimate: Any, truth: Any, *, mask: Any | None = None) -> float:
    """High-frequency error norm: NRMSE of the Laplacian of Gaussian (15 taps, sigma 1.5 voxels). Lower is better.

    Source: Ravishankar & Bresler (2011), MR image reconstruction from highly undersampled k-space data by dictionary
    learning, section IV, here in 3D.
    """
    x, t, m = _pair(estimate, truth, mask)
    box = _bounding_box(m, int(HFEN_TRUNCATE * HFEN_SIGMA + 0.5))

    def edges(a: Array) -> Array:
        filtered = ndimage.gaussian_laplace(a[box], HFEN_SIGMA, truncate=HFEN_TRUNCATE, mode="reflect")
        return np.asarray(filtered[m[box]])

    truth_edges = edges(t)
    return _relative(edges(x) - truth_edges, truth_edges)  # the filter is linear, yet a mask is not: filter both


def gradient_error(
    estimate: Any, truth: Any, *, spacing: tuple[float, float, float] = (1.0, 1.0, 1.0), mask: Any | None = None
) -> float:
    """NRMSE of the spatial gradient (central differences, per mm). Lower is better."""
    x, t, m = _pair(estimate, truth, mask)
    error = np.stack([g[m] for g in np.gradient(x - t, *spacing)])
    return _relative(error, np.stack([g[m] for g in np.gradient(t, *spacing)]))


def data_consistency(operator: Forward, output: Any, y: Any) -> float:
    """NRMSE between the measurements and what the operator makes of the output: ||A x - y|| / ||y||.

    Args:
        operator: Anything with ``forward``.
        output: Reconstruction in the shape and type that the operator takes.
        y: Measurements, in the shape that the operator gives.
    """
    again, measured = _numpy(operator.forward(output)), _numpy(y)
    if again.shape != measured.shape:
        raise InputError(f"the operator gives {again.shape}, but the measurements have {measured.shape}")
    wide = np.complex128 if np.iscomplexobj(measured) else np.float64
    return _relative(again.astype(wide).ravel() - measured.astype(wide).ravel(), measured.astype(wide).ravel())


def seam_index(x: Any, boundaries: dict[int, list[int]], *, mask: Any | None = None) -> float:
    """How much larger the jumps across tile boundaries are than the jumps beside them; 1 means no seam.

    At each boundary the mean |difference| of the two planes that meet there is divided by that of the pairs two and
    three planes away on either side, so that anatomy cancels. Give an error map (output minus another tiling's output,
    or minus the truth) to see seams that lie below the anatomy.

    Args:
        x: Volume, shape (i, j, k).
        boundaries: For each axis, the index of the first plane after each boundary.
    Raises:
        InputError: no boundary lies at least four planes from the volume's edge.
    """
    x, _, m = _pair(x, x, mask)
    at: list[float] = []
    beside: list[float] = []
    for axis, planes in boundaries.items():
        jumps = np.abs(np.diff(x, axis=axis))
        inside = np.logical_and(*(np.delete(m, edge, axis=axis) for edge in (0, -1)))  # both planes of a jump count
        axes = tuple(a for a in range(3) if a != axis)
        total = np.where(inside, jumps, 0).sum(axis=axes)
        count = inside.sum(axis=axes)
        for plane in planes:
            jump = plane - 1
            around = [jump - 3, jump - 2, jump + 2, jump + 3]
            if around[0] < 0 or around[-1] >= len(count) or count[jump] == 0 or count[around].sum() == 0:
                continue
            at.append(float(total[jump] / count[jump]))
            beside.append(float(total[around].sum() / count[around].sum()))
    if not at:
        raise InputError("no boundary lies at least four planes inside the volume and its mask")
    return 1.0 if sum(at) == sum(beside) else float(sum(at) / max(sum(beside), np.finfo(float).tiny))


def scores(
    estimate: Any,
    truth: Any,
    *,
    data_range: float,
    mask: Any,
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0),
) -> dict[str, float]:
    """The project's standard row: every score inside the mask, and SSIM on the whole volume beside it."""
    return {
        "psnr": psnr(estimate, truth, data_range=data_range, mask=mask),
        "ssim": ssim(estimate, truth, data_range=data_range, mask=mask),
        "ssim_whole": ssim(estimate, truth, data_range=data_range),
        "nrmse": nrmse(estimate, truth, mask=mask),
        "hfen": hfen(estimate, truth, mask=mask),
        "gradient_error": gradient_error(estimate, truth, spacing=spacing, mask=mask),
    }
