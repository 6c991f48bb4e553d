"""How noisy the truth itself is, and what that means for the best score that anybody could reach against it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medidiff.errors import InputError
from medidiff.metrics.fidelity import as_array

Array = NDArray[Any]

# Median of |n| for a unit Gaussian.
GAUSSIAN_MAD = 0.6744897501960817
# Mean over standard deviation of a Rayleigh variable: sqrt(pi / (4 - pi)).
RAYLEIGH_RATIO = math.sqrt(math.pi / (4 - math.pi))


@dataclass(frozen=True, slots=True)
class NoiseFloor:
    """Noise of a volume, in its own units.

    Args:
        sigma: Robust wavelet estimate inside the mask; the one that ``ceiling`` uses. Low where the scanner filtered.
        local_sigma: Most frequent local standard deviation inside the mask; a second opinion that some anatomy gets
            into, and therefore more often high than low. The truth lies between the two.
        background_sigma: Second opinion from the air, None where the air is not plain magnitude noise.
        correlation: Correlation of neighbouring voxels' noise in the air along (i, j, k); far from zero, the scanner
            interpolated or filtered, and ``sigma`` is too low.
    """

    sigma: float
    local_sigma: float
    background_sigma: float | None
    correlation: tuple[float, float, float] | None

    def ceiling(self, data_range: float, *, unmeasured: float = 1.0) -> float:
        """PSNR (dB) of the noise-free anatomy against this noisy truth: 20 log10(range / (sigma sqrt(unmeasured))).

        No estimate of the anatomy, however perfect, can be expected to score more, since the noise of the truth cannot
        be predicted. An estimate made consistent with measurements that were simulated from the same noisy truth has
        seen part of its noise: averaging n voxels leaves (1 - 1/n) of the noise energy unmeasured, and the ceiling
        is 10 log10(1 / unmeasured) higher.

        Assumes noise that is white, additive and of one level (Rician noise is, well above the background). Where it
        is correlated or anatomy leaks into the finest band, sigma is off, and with it the ceiling: a guide, no proof.
        """
        if not 0 < unmeasured <= 1:
            raise InputError(f"the unmeasured share of the noise must be in (0, 1], got {unmeasured}")
        return math.inf if self.sigma == 0 else 20 * math.log10(data_range / (self.sigma * math.sqrt(unmeasured)))


def noise_floor(volume: Any, mask: Any) -> NoiseFloor:
    """Estimate the noise of a magnitude image.

    Inside the mask, ``sigma``: median absolute deviation of the finest diagonal Haar band (HHH), over 0.6745 (Donoho &
    Johnstone 1994, Biometrika 81(3), section 4.2). HHH holds the least anatomy of all bands. ``local_sigma``: mode of
    the standard deviation in 3x3x3 windows (Aja-Fernandez et al. 2008, IEEE Trans. Image Process. 17(8), section IV).
    Outside: air of a single-coil magnitude image is Rayleigh, sigma = sqrt(mean(m^2) / 2) (Gudbjartsson & Patz 1995).
    Given only where mean / std of the air is near Rayleigh's 1.91: multi-coil sums, masked or filtered backgrounds and
    ghosts are not, and say nothing about the head.

    Args:
        volume: Shape (i, j, k).
        mask: True in the head.
    """
    x, inside = as_array(volume), as_array(mask) > 0.5
    if inside.shape != x.shape:
        raise InputError(f"the mask must have the shape of the volume, {x.shape}, got {inside.shape}")
    band, valid = _finest_diagonal(x, inside)
    if valid.sum() < 100:
        raise InputError("the mask is too small to estimate noise in: fewer than 100 blocks of 2x2x2 lie inside it")
    sigma = float(np.median(np.abs(band[valid]))) / GAUSSIAN_MAD
    background, correlation = _air(x, inside)
    return NoiseFloor(sigma, _commonest_deviation(x, inside), background, correlation)


def _finest_diagonal(x: Array, inside: Array) -> tuple[Array, Array]:
    """Orthonormal HHH coefficients of 2x2x2 blocks, and which blocks lie wholly inside the mask."""
    i, j, k = (n // 2 * 2 for n in x.shape)
    band, valid = x[:i, :j, :k], inside[:i, :j, :k]
    for axis in range(3):
        even, odd = (tuple(slice(s, None, 2) if a == axis else slice(None) for a in range(3)) for s in (0, 1))
        band = (band[even] - band[odd]) / math.sqrt(2)
        valid = valid[even] & valid[odd]
    return np.asarray(band), np.asarray(valid)


def _commonest_deviation(x: Array, inside: Array) -> float:
    """Mode of the local standard deviation over windows that lie wholly inside the mask."""
    count = 27
    centred = x - float(x[inside].mean())  # or the difference of squares loses its digits
    mean = ndimage.uniform_filter(centred, 3)
    variance = (ndimage.uniform_filter(centred**2, 3) - mean**2) * count / (count - 1)
    windows = ndimage.binary_erosion(inside, np.ones((3, 3, 3)))
    deviations = np.sqrt(np.maximum(variance[windows if windows.any() else inside], 0))
    histogram, edges = np.histogram(deviations, bins=400, range=(0, max(float(np.percentile(deviations, 80)), 1e-300)))
    smooth = ndimage.gaussian_filter1d(histogram.astype(np.float64), 4, mode="constant")
    peak = int(smooth.argmax())
    return float(edges[peak] + edges[peak + 1]) / 2


def _air(x: Array, inside: Array) -> tuple[float | None, tuple[float, float, float] | None]:
    """Rayleigh sigma and neighbour correlations of the air well away from the head and its ghosts."""
    air = ~ndimage.binary_dilation(inside, iterations=8)
    values = x[air]
    if len(values) < 1000 or (values == 0).mean() > 0.05 or (values < 0).any():
        return None, None
    spread = float(values.std())
    correlation = []
    for axis in range(3):
        first = tuple(slice(None, -1) if a == axis else slice(None) for a in range(3))
        second = tuple(slice(1, None) if a == axis else slice(None) for a in range(3))
        both = air[first] & air[second]
        correlation.append(float(np.corrcoef(x[first][both], x[second][both])[0, 1]) if both.sum() > 100 else math.nan)
    rayleigh = spread > 0 and abs(float(values.mean()) / spread / RAYLEIGH_RATIO - 1) < 0.1
    sigma = math.sqrt(float((values**2).mean()) / 2) if rayleigh else None
    return sigma, (correlation[0], correlation[1], correlation[2])
