"""Raw k-space files as a job: coils decorrelated and mapped, planes laid out, every frame restored on its own grid."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from medidiff.diffusion.denoiser import Preconditioned
from medidiff.diffusion.network import NoNetwork
from medidiff.errors import ConfigError, InputError
from medidiff.geometry import Geometry
from medidiff.io.kspace import KSpaceInfo, RawKSpace, probe_kspace, read_kspace
from medidiff.io.kspace.reduce import to_image
from medidiff.operators.kspace import CartesianKSpace
from medidiff.progress import OnProgress
from medidiff.restoration.coils import SMALLEST_ESPIRIT_REGION, CoilMaps, choose_method, compress, estimate_maps
from medidiff.restoration.kspace import restore_kspace
from medidiff.restoration.plan import Plan
from medidiff.restoration.run import Frame, Run, joined
from medidiff.restoration.solve import Settings
from medidiff.rng import derive_seed
from medidiff.volume import Modality, Volume

Array = NDArray[Any]
Step = Callable[[int, int], None]

# More coils than this add time, not signal: they are combined into so many virtual ones.
MOST_COILS = 12
# Slices further apart than this over the voxels in them have little to say of one another: each is restored alone.
THICK = 2.0
# Fields of view that the shipped prior was trained on: voxels of about 1 mm.
TRAINED_VOXELS = (0.6, 1.6)

PRIOR_DOUBT = (
    "The shipped prior was trained on T1-weighted heads: for another contrast or another part of the body, compare the "
    "result with the classical image (--fast)."
)


@dataclass(frozen=True, slots=True)
class Planes:
    """One frame, ready for the operator: planes (i, j) in k-space along the last axis, in image space.

    Args:
        samples: Shape (coils, i, j, k), noise white between coils.
        mask: True where sampled, shape (i, j, k) or (i, j, 1).
        order: Which axis of the file's grid each axis of the planes is.
    """

    samples: Tensor
    mask: Tensor
    order: tuple[int, int, int]


@dataclass(frozen=True)
class KSpaceJob:
    """Raw k-space to images, on the grid as acquired.

    Args:
        path: The file.
        info: What its header says.
    """

    path: Path
    info: KSpaceInfo
    kind = "kspace"
    modality = Modality.MR
    frame_step = None
    guidance = "proximal"
    prior = "brain-t1"
    idle = False

    @classmethod
    def at(cls, path: Path) -> KSpaceJob:
        """Look at the header.

        Raises:
            InputError: it is no raw data that can be reconstructed.
        """
        return cls(path, probe_kspace(path))

    @property
    def geometry(self) -> Geometry:
        return self.info.geometry

    @property
    def simulated(self) -> bool:
        """A single coil that was computed from several is no measurement."""
        return self.info.emulated

    @cached_property
    def raw(self) -> RawKSpace:
        """The samples, read once.

        Raises:
            InputError: they cannot be read.
        """
        return read_kspace(self.path)

    def plan(self) -> Plan:
        raw = self.raw
        maps_words, maps_doubts = self._maps_words()
        words = [*self.info.words, _acceleration_words(raw), *maps_words]
        warnings = (*self.info.warnings, *raw.warnings, *maps_doubts)
        of_prior = [PRIOR_DOUBT]
        spacing = self.geometry.spacing
        low, high = TRAINED_VOXELS
        if not all(low <= step <= high for step in spacing[:2]):
            of_prior.append(
                f"Voxels of {spacing[0]:.3g} x {spacing[1]:.3g} mm are outside of what the shipped prior was trained "
                f"on ({low:g} to {high:g} mm)."
            )
        if len(self.info.encoded) == 2 and self.geometry.shape[2] > 1:
            words.append("Slices stay as they were acquired; give the result to `medidiff reconstruct` to thin them.")
        return Plan((), min(spacing), tuple(words), warnings, tuple(of_prior))

    def record(self) -> list[dict[str, Any]]:
        raw = self.raw
        return [
            {
                "kind": "kspace",
                "format": self.info.format,
                "coils": self.info.coils,
                "encoded_axes": list(self.info.encoded),
                "matrix": list(raw.data.shape[2:]),
                "sampled_share": float(raw.mask.mean()),
                "mask_sha256": _digest(raw.mask),
                "virtual_coils": min(self.info.coils, MOST_COILS),
                "prewhitened": raw.noise_covariance is not None,
            }
        ]

    def exact_operators(self) -> NoReturn:
        """Nothing binds.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(
            "--provenance is not for raw k-space: its samples are noisy, and the result is a magnitude, of which they "
            "fix a part only together with a phase that is estimated too"
        )

    def run(self, model: Preconditioned, settings: Settings, on_progress: OnProgress | None = None) -> Run:
        frames, classical = [], []
        for number in range(self.info.frames):

            def step(done: int, total: int, number: int = number) -> None:
                if on_progress is not None:
                    on_progress(number * total + done, self.info.frames * total, "network and data in turn")

            own = replace(settings, seed=derive_seed(settings.seed, number))
            frame, zero_filled = self._frame(number, model, own, step)
            frames.append(frame)
            classical.append(zero_filled)
        grid = self.geometry.reoriented()[0]
        before = Volume(np.stack(classical), grid, self.modality).like(self.geometry)
        return replace(joined(before, frames), evaluations=settings.steps)

    def _frame(self, number: int, model: Preconditioned, settings: Settings, step: Step) -> tuple[Frame, Array]:
        """One frame restored, and its zero-filled image, both on the conformed grid."""
        planes, calibration, noise = prepared(self.raw, number)
        maps = self._maps(planes, calibration)
        network = None if isinstance(model.network, NoNetwork) else model
        groups = _groups(planes, self.geometry, self.info)
        done = []
        for count, group in enumerate(groups):

            def counted(evaluated: int, total: int, count: int = count) -> None:
                step(count * total + evaluated, len(groups) * total)

            operator = _operator(planes, maps, group)
            y = planes.samples[None, ..., group]
            done.append(restore_kspace(network, operator, y, settings, noise_std=noise, on_evaluation=counted))

        def whole(parts: list[Tensor]) -> Array:
            return self._placed(torch.cat(parts, dim=-1)[0, 0], planes.order)

        frame = Frame(
            mean=whole([one.magnitude for one in done]),
            samples=tuple(whole([one.samples[n] for one in done]) for n in range(len(done[0].samples))),
            baseline=whole([one.classical.abs() for one in done]),
            misfit=float(np.sqrt(np.mean([one.misfit**2 for one in done]))),
            details={"kspace_noise_rms": float(np.median([one.noise_std for one in done]))},
        )
        images = to_image(planes.samples.numpy(), (1, 2))
        return frame, self._placed(torch.from_numpy(images).abs().square().sum(0).sqrt(), planes.order)

    def _maps_words(self) -> tuple[list[str], list[str]]:
        """How the coil maps will be found, and doubts about them; without reference lines this is where it ends."""
        if self.info.coils == 1:
            return [], []
        planes, calibration, _ = prepared(self.raw, 0)
        source = calibration or planes
        try:
            method, (i, j) = choose_method(source.mask, source.samples.shape[-1])
        except InputError as error:
            raise InputError(f"{self.path}: {error}") from error
        how = "by ESPIRiT" if method == "ESPIRiT" else "as the strongest local combination of low-resolution images"
        words = [f"Coil maps are found {how}, from the {i} x {j} samples in the middle of k-space."]
        if all(
            side >= min(SMALLEST_ESPIRIT_REGION, n // 2 * 2) for side, n in zip((i, j), source.mask.shape, strict=False)
        ):
            return words, []
        doubt = (
            f"Only {i} x {j} samples in the middle of k-space are complete: coil maps from so few are coarse, so is "
            f"the result; {SMALLEST_ESPIRIT_REGION} reference lines and more are usual. Look at the data consistency."
        )
        return words, [doubt]

    def _maps(self, planes: Planes, calibration: Planes | None) -> CoilMaps | None:
        if len(planes.samples) == 1:
            return None
        source = calibration or planes
        try:
            return estimate_maps(source.samples, source.mask)
        except InputError as error:
            raise InputError(f"{self.path}: {error}") from error

    def _placed(self, image: Tensor, order: tuple[int, int, int]) -> Array:
        """An image of the planes on the result's grid: axes as in the file, cut, and conformed."""
        stored = image.cpu().numpy().transpose(np.argsort(order))[self.raw.info.crop]
        volume = Volume(np.ascontiguousarray(stored, dtype=np.float32)[None], self.geometry, self.modality)
        return np.asarray(volume.reoriented().data[0])


def prepared(raw: RawKSpace, frame: int) -> tuple[Planes, Planes | None, float | None]:
    """One frame with white coils, few enough, as planes; calibration data likewise; and the noise, if it was measured.

    Returns:
        Planes, calibration planes or None, and the root mean squared modulus of the noise or None.
    """
    samples = torch.from_numpy(raw.data[frame])
    calibration = None if raw.calibration is None else torch.from_numpy(raw.calibration)
    noise = None
    if raw.noise_covariance is not None:
        whiten = _whitening(raw.noise_covariance)
        # Back to the units of the data, so that intensities stay what they were.
        noise = float(np.sqrt(np.trace(raw.noise_covariance).real / len(raw.noise_covariance)))
        samples = noise * torch.einsum("vc,cijk->vijk", whiten, samples)
        calibration = None if calibration is None else noise * torch.einsum("vc,cijk->vijk", whiten, calibration)
    if len(samples) > MOST_COILS:
        samples, mixing, _ = compress(samples, MOST_COILS, calibration)
        calibration = None if calibration is None else torch.einsum("vc,cijk->vijk", mixing, calibration)
    mask = torch.from_numpy(raw.mask[frame])
    planes = _as_planes(samples, mask, raw.info)
    if calibration is None:
        return planes, None, noise
    taken = (calibration != 0).any(dim=0)
    return planes, _as_planes(calibration, taken, raw.info), noise


def _as_planes(samples: Tensor, mask: Tensor, info: KSpaceInfo) -> Planes:
    if len(info.encoded) == 2:
        return Planes(samples, mask, (0, 1, 2))
    # A read-out that is complete is transformed: every position along it is a plane of its own, with one mask.
    complete = mask.any(dim=0)
    if not bool((mask == complete).all()):
        raise InputError(
            "a partial echo in a 3D acquisition cannot be reconstructed here: its read-out is not complete; "
            "fill it first, or give the scanner's image"
        )
    hybrid = torch.from_numpy(to_image(samples.numpy(), (1,)))
    return Planes(hybrid.permute(0, 2, 3, 1).contiguous(), complete[..., None], (1, 2, 0))


def _operator(planes: Planes, maps: CoilMaps | None, group: slice) -> CartesianKSpace:
    """How some of the planes were measured."""
    _, i, j, k = planes.samples[..., group].shape
    mask = planes.mask[..., group] if planes.mask.shape[2] > 1 else planes.mask[..., 0]
    return CartesianKSpace((1, i, j, k), mask, None if maps is None else maps.maps[..., group])


def _groups(planes: Planes, geometry: Geometry, info: KSpaceInfo) -> list[slice]:
    """Planes that are restored together: all of them, or each alone where they are far apart."""
    count = planes.samples.shape[3]
    thick = len(info.encoded) == 2 and geometry.spacing[2] > THICK * max(geometry.spacing[:2])
    return [slice(n, n + 1) for n in range(count)] if thick else [slice(0, count)]


def _whitening(covariance: Array) -> Tensor:
    """Matrix that makes the coils' noise white with unit variance.

    Source: Pruessmann et al. (2001), Advances in sensitivity encoding with arbitrary k-space trajectories, appendix A.
    """
    coils = len(covariance)
    floor = 1e-6 * np.trace(covariance).real / coils
    factor = np.linalg.cholesky(covariance + floor * np.eye(coils))
    return torch.from_numpy(np.linalg.inv(factor).astype(np.complex64))


def _acceleration_words(raw: RawKSpace) -> str:
    share = float(raw.mask.mean())
    if share > 0.999:
        return "Every sample was taken; what is left to do is to combine the coils and to take noise out."
    return f"{share:.1%} of the samples were taken ({1 / share:.3g}-fold acceleration); the rest is estimated."


def _digest(mask: NDArray[np.bool_]) -> str:
    return hashlib.sha256(np.packbits(mask).tobytes()).hexdigest()
