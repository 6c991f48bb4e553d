"""Coil sensitivities found in the data themselves: ESPIRiT through sigpy, or plainly from the middle of k-space."""

from __future__ import annotations

import math
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from medidiff.errors import InputError

# A calibration region smaller than this along an axis says nothing of how coils change.
SMALLEST_REGION = 6
# ... and a larger one adds time, not maps (ESPIRiT's usual width).
LARGEST_REGION = 24
# ESPIRiT needs room for its kernel to move in.
SMALLEST_ESPIRIT_REGION = 10
# Kernel of ESPIRiT and share of the largest singular value that counts as signal, as BART and sigpy have them.
KERNEL, THRESHOLD = 6, 0.02
# ESPIRiT takes seconds a plane; a volume of hundreds is given the plain maps.
MOST_ESPIRIT_PLANES = 32
# Voxels over which neighbouring coils' covariance is averaged.
WALSH_WINDOW = 7


@dataclass(frozen=True, slots=True)
class CoilMaps:
    """Sensitivities with unit root sum of squares.

    Args:
        maps: Complex, shape (coils, i, j, k).
        method: ``"ESPIRiT"`` or ``"low-resolution"``.
        region: Size of the fully sampled middle that they were found in, (i, j).
    """

    maps: Tensor
    method: str
    region: tuple[int, int]


def choose_method(mask: Tensor, planes: int) -> tuple[str, tuple[int, int]]:
    """How maps will be found, and in which fully sampled middle of k-space.

    Args:
        mask: True where sampled, shape (i, j, k) or (i, j, 1).
        planes: How many there are.
    Raises:
        InputError: no middle of k-space was fully sampled.
    """
    region = calibration_region(mask.all(dim=-1))
    # An axis that is sampled throughout is as good as it gets, however short.
    if any(side < min(SMALLEST_REGION, n // 2 * 2) for side, n in zip(region, mask.shape, strict=False)):
        raise InputError(
            f"the fully sampled middle of k-space is {region[0]} x {region[1]} samples; coil maps need at least "
            f"{SMALLEST_REGION} x {SMALLEST_REGION}: acquire reference lines, or combine the coils first"
        )
    few = planes <= MOST_ESPIRIT_PLANES and min(region) >= SMALLEST_ESPIRIT_REGION
    return ("ESPIRiT" if few and find_spec("sigpy") is not None else "low-resolution"), region


def estimate_maps(samples: Tensor, mask: Tensor, method: str | None = None) -> CoilMaps:
    """Find the maps of planes (i, j) along the last axis.

    Args:
        samples: k-space with frequency zero in the middle, complex, shape (coils, i, j, k).
        mask: True where sampled, shape (i, j, k) or (i, j, 1).
        method: ``"ESPIRiT"`` or ``"low-resolution"``; by default the former where there is sigpy and planes are few.
    Raises:
        InputError: no middle of k-space was fully sampled.
    """
    chosen, region = choose_method(mask, samples.shape[-1])
    method = method or chosen
    found = espirit(samples, region) if method == "ESPIRiT" else low_resolution(samples, region)
    return CoilMaps(found, method, region)


def calibration_region(taken: Tensor) -> tuple[int, int]:
    """Sides of the largest fully sampled box about frequency zero, of those that first grow as a square.

    Args:
        taken: True where sampled, shape (i, j).
    """
    sides = [0, 0]
    growing = [True, True]
    while any(growing):
        for axis in (0, 1):
            if not growing[axis]:
                continue
            wider = list(sides)
            wider[axis] = sides[axis] + 2 if sides[axis] else 2
            box = tuple(
                slice(max(0, n // 2 - side // 2), min(n, n // 2 + max(1, side // 2)))
                for n, side in zip(taken.shape, (max(2, wider[0]), max(2, wider[1])), strict=True)
            )
            if wider[axis] <= taken.shape[axis] and bool(taken[box].all()):
                sides = wider
            else:
                growing[axis] = False
    return sides[0], sides[1]


def espirit(samples: Tensor, region: tuple[int, int]) -> Tensor:
    """Maps by ESPIRiT, plane by plane, shape (coils, i, j, k).

    Source: Uecker et al. (2014), ESPIRiT: an eigenvalue approach to autocalibrating parallel MRI, Magn. Reson. Med. 71,
    990; sigpy's implementation.
    """
    from sigpy.mri.app import EspiritCalib

    width = min(*region, LARGEST_REGION)
    planes = []
    for k in range(samples.shape[-1]):
        plane = np.ascontiguousarray(samples[..., k].cpu().numpy())
        calibration = EspiritCalib(
            plane, calib_width=width, thresh=THRESHOLD, kernel_width=min(KERNEL, width // 2 + 1), crop=0.0,
            show_pbar=False,
        )  # fmt: skip
        planes.append(torch.from_numpy(np.asarray(calibration.run(), dtype=np.complex64)))
    return _unit(torch.stack(planes, dim=-1).to(samples.device))


def low_resolution(samples: Tensor, region: tuple[int, int]) -> Tensor:
    """Maps from images of the middle of k-space alone, shape (coils, i, j, k).

    The dominant eigenvector of the coils' local covariance is free of the image's own phase and less noisy than a
    quotient of images.
    Source: Walsh, Gmitro & Marcellin (2000), Adaptive reconstruction of phased array MR imagery, Magn. Reson. Med. 43,
    682; power iteration in place of an eigenvalue decomposition.
    """
    window = torch.zeros(samples.shape[1:3], device=samples.device)
    box, weights = [], []
    for n, side in zip(samples.shape[1:3], region, strict=True):
        kept = min(side, LARGEST_REGION)
        box.append(slice(n // 2 - kept // 2, n // 2 - kept // 2 + kept))
        weights.append(torch.hann_window(kept + 2, periodic=False)[1:-1].to(samples.device))
    window[box[0], box[1]] = weights[0][:, None] * weights[1][None, :]
    blurred = torch.fft.ifftshift(samples * window[None, :, :, None], dim=(1, 2))
    images = torch.fft.fftshift(torch.fft.ifft2(blurred, dim=(1, 2), norm="ortho"), dim=(1, 2)).movedim(-1, 0)
    maps = torch.stack([_walsh(plane) for plane in images], dim=-1)
    return _unit(maps)


def _walsh(images: Tensor) -> Tensor:
    """Dominant eigenvector of the local covariance of coil images (coils, i, j), by power iteration."""
    coils = len(images)
    covariance = images[:, None] * images[None].conj()
    flat = torch.view_as_real(covariance).permute(0, 1, 4, 2, 3).reshape(1, 2 * coils * coils, *images.shape[1:])
    smooth = functional.avg_pool2d(flat, WALSH_WINDOW, stride=1, padding=WALSH_WINDOW // 2, count_include_pad=False)
    smooth = smooth.reshape(coils, coils, 2, *images.shape[1:]).permute(0, 1, 3, 4, 2).contiguous()
    matrix = torch.view_as_complex(smooth)
    # Begin with the coil that sees most: its phase is then the image's.
    vector = matrix[:, int(matrix.diagonal(dim1=0, dim2=1).real.sum(dim=(0, 1)).argmax())].clone()
    for _ in range(8):
        vector = torch.einsum("abij,bij->aij", matrix, vector)
        vector = vector / vector.abs().square().sum(0, keepdim=True).sqrt().clamp_min(1e-30)
    return vector


def _unit(maps: Tensor) -> Tensor:
    """Unit root sum of squares everywhere; where a coil array sees nothing, all coils alike."""
    norm = maps.abs().square().sum(0, keepdim=True).sqrt()
    alike = torch.full_like(maps, 1 / math.sqrt(len(maps)))
    return torch.where(norm > 1e-6, maps / norm.clamp_min(1e-6), alike)


def compress(samples: Tensor, coils: int, calibration: Tensor | None = None) -> tuple[Tensor, Tensor, float]:
    """Fewer, virtual coils: the strongest combinations of the real ones.

    Args:
        samples: Shape (coils, i, j, k), noise white between coils.
        coils: How many to keep.
        calibration: Other samples of the same coils, combined alike.
    Returns:
        The virtual coils' samples, the mixing matrix (kept, coils), and the share of the energy that is kept.
    Source: Buehrer et al. (2007), Array compression for MRI with large coil arrays, Magn. Reson. Med. 57, 1131.
    """
    flat = (samples if calibration is None else calibration).flatten(1)
    values, vectors = torch.linalg.eigh(flat @ flat.conj().T)
    kept = vectors[:, -coils:].flip(1).conj().T
    share = float(values[-coils:].sum() / values.sum().clamp_min(1e-30))
    return torch.einsum("vc,cijk->vijk", kept, samples), kept, share
