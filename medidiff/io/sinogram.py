"""Raw parallel-beam projections: HDF5 in the Data Exchange layout that synchrotrons and laboratories write.

``exchange/data`` holds counts (views, rows, detectors), ``data_white`` the beam without an object, ``data_dark`` the
detector without a beam, ``theta`` the angles in degrees. What a file leaves open is assumed, and said.

Source: De Carlo et al. (2014), Scientific data exchange, J. Synchrotron Rad. 21, 1224.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medidiff.errors import InputError
from medidiff.io.kspace.hdf5 import MAGIC, check_dataset, find, open_hdf5
from medidiff.io.safety import check_budget
from medidiff.io.source import is_folder, open_source

Array = NDArray[Any]

GROUP, DATA, FLAT, DARK, ANGLES = "exchange", "data", "data_white", "data_dark", "theta"
PIXEL = ("measurement", "instrument", "detector", "pixel_size_x")
MOST_VIEWS, MOST_DETECTORS = 20_000, 8192
FEWEST_VIEWS, FEWEST_DETECTORS = 4, 8
# Copies of the reconstructed volume that the solver holds at once.
COPIES = 10
_TO_MM = {"m": 1e3, "cm": 10.0, "mm": 1.0, "um": 1e-3, "micron": 1e-3, "microns": 1e-3, "nm": 1e-6}
# An object whose shadow at the detector's rim is above this share of its darkest reaches beyond.
BEYOND = 0.02
# Fourth differences of white noise have variance 70; a median of moduli is 0.6745 standard deviations.
_FOURTH_DIFFERENCE, _MEDIAN = math.sqrt(70), 0.6745


@dataclass(frozen=True, slots=True)
class SinogramInfo:
    """What a file of projections holds, from its header.

    Args:
        views, rows, detectors: Size of the projections; each row is a plane of its own.
        angles: Degrees, one a view.
        pixel_mm: Distance of detector bins at the object, mm; None if the file does not say.
        flats, darks: Frames without an object, and without a beam.
        words: What the file holds, for a person, one sentence each; no identifiers.
        warnings: What had to be assumed.
    """

    views: int
    rows: int
    detectors: int
    angles: tuple[float, ...]
    pixel_mm: float | None
    flats: int
    darks: int
    words: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def bytes_needed(self) -> int:
        """Memory of the projections and of what is reconstructed from them (float32)."""
        return 4 * self.rows * (3 * self.views * self.detectors + COPIES * self.detectors**2)


@dataclass(frozen=True, slots=True, eq=False)
class Sinogram:
    """Line integrals, ready to be reconstructed.

    Args:
        info: What the header says.
        data: Attenuation along each ray, dimensionless, float32, shape (views, detectors, rows).
        centre: Where the rotation axis meets the detector, bins from its middle.
        noise_std: Standard deviation of the noise in ``data``, estimated.
        warnings: What only the counts could show.
    """

    info: SinogramInfo
    data: Array
    centre: float
    noise_std: float
    warnings: tuple[str, ...] = ()


def is_sinogram(path: str | os.PathLike[str]) -> bool:
    """Whether a file is HDF5 with ``exchange/data``.

    Raises:
        InputError: there is no such file, or it cannot be opened.
    """
    where = Path(path)
    if is_folder(where) or not open_source(where).head.startswith(MAGIC):
        return False
    with open_hdf5(where) as file:
        group: Any = find(file, GROUP, where)
        return hasattr(group, "keys") and DATA in group


def probe_sinogram(path: str | os.PathLike[str]) -> SinogramInfo:
    """What the projections are like, from the header.

    Raises:
        InputError: they are none that can be reconstructed here; the message says why.
    """
    where = Path(path)
    with open_hdf5(where) as file:
        return _info(_group(file, where), file, where)


def read_sinogram(path: str | os.PathLike[str], *, budget: int | None = None) -> Sinogram:
    """Read counts, correct for beam and detector, take the logarithm, find the axis and the noise.

    Args:
        budget: Most bytes that projections and result may take; see ``medidiff.io.safety.default_budget``.
    Raises:
        BudgetError: they would not fit; nothing was allocated.
        InputError: see ``probe_sinogram``.
    """
    where = Path(path)
    with open_hdf5(where) as file:
        group = _group(file, where)
        info = _info(group, file, where)
        check_budget(info.bytes_needed, where, budget)
        counts = np.asarray(group[DATA][()], np.float32)
        flat = _mean(group, FLAT, info, where)
        dark = _mean(group, DARK, info, where)
    integrals, warnings = line_integrals(counts, flat, dark, where)
    centre, doubts = rotation_centre(integrals, np.deg2rad(info.angles))
    data = np.ascontiguousarray(integrals.transpose(0, 2, 1))
    return Sinogram(info, data, centre, noise_level(integrals), (*warnings, *doubts))


def line_integrals(counts: Array, flat: Array | None, dark: Array | None, path: Path) -> tuple[Array, list[str]]:
    """``-log((counts - dark) / (flat - dark))``, shape (views, rows, detectors), and what was wrong with it.

    Args:
        counts: Shape (views, rows, detectors).
        flat, dark: Means, shape (rows, detectors); None where the file has none.
    Raises:
        InputError: nothing is left to take a logarithm of.
    """
    if not np.isfinite(counts).all():
        raise InputError(f"{path} has counts that are not finite")
    warnings = []
    background = np.zeros(counts.shape[1:], np.float32) if dark is None else dark
    beam = (np.percentile(counts, 99.9) if flat is None else flat) - background
    lit = beam > 0
    if not np.any(lit):
        raise InputError(f"{path}: the beam is no brighter than the detector without it; {FLAT} and {DARK} are wrong")
    transmission = (counts - background) / np.where(lit, beam, 1.0)
    good = lit & (transmission > 0)
    if not good.any():
        raise InputError(f"{path}: no ray came through; {DATA}, {FLAT} and {DARK} do not belong together")
    least = float(transmission[good].min())
    dead = 1 - float(good.mean())
    if dead:
        warnings.append(
            f"{dead:.2%} of the samples hold no light (dead pixels, or too dense an object); they were set to the "
            "darkest that does."
        )
    return -np.log(np.where(good, transmission, least)), warnings


def rotation_centre(integrals: Array, angles: Array) -> tuple[float, tuple[str, ...]]:
    """Where the rotation axis meets the detector, bins from its middle, found from the data.

    The centre of mass of a view swings as a cosine around the axis (the first Helgason-Ludwig condition), if every
    view sees the whole object. Where that reaches beyond the detector, two views half a turn apart are compared: one
    is the mirror image of the other.

    Args:
        integrals: Shape (views, rows, detectors).
        angles: Radians.
    Source: Helgason (1980), The Radon Transform, theorem 2.10; Natterer (1986), sec. V.6.
    """
    profile = integrals.sum(1, dtype=np.float64)
    detectors = profile.shape[1]
    place = np.arange(detectors) - (detectors - 1) / 2
    mass = profile.sum(1)
    swing = (profile @ place) / np.where(np.abs(mass) > 1e-6, mass, 1.0)
    design = np.stack([np.ones_like(angles), np.cos(angles), np.sin(angles)], axis=1)
    by_mass = float(np.linalg.lstsq(design, swing, rcond=None)[0][0])
    rim = max(2, detectors // 50)
    beyond = np.abs(np.concatenate([profile[:, :rim], profile[:, -rim:]], axis=1)).mean() > BEYOND * profile.max()
    if not beyond:
        return float(np.clip(by_mass, -detectors / 2, detectors / 2)), ()
    opposite = _opposite_views(angles)
    if opposite is None:
        text = (
            "The object reaches beyond the detector, and no two views are half a turn apart: where the axis lies "
            f"({by_mass:.1f} bins from the middle) is a guess."
        )
        return float(np.clip(by_mass, -detectors / 2, detectors / 2)), (text,)
    by_mirror = _mirror_centre(profile[opposite[0]], profile[opposite[1]])
    text = (
        f"The object reaches beyond the detector: the rotation axis was found from two mirrored views, {by_mirror:.1f} "
        "bins from the middle, and values near the rim are too high."
    )
    return by_mirror, (text,)


def noise_level(integrals: Array) -> float:
    """Standard deviation of white noise, from fourth differences along the detector.

    Anatomy is smooth from bin to bin where noise is not, and a median does not see its edges.
    """
    fourth = np.diff(integrals, 4, axis=-1)
    return float(np.median(np.abs(fourth)) / _MEDIAN / _FOURTH_DIFFERENCE)


def _opposite_views(angles: Array) -> tuple[int, int] | None:
    """Two views as nearly half a turn apart as there are; None if no pair is within 1.5 steps of it."""
    apart = np.abs(angles[None, :] - angles[:, None])
    off = np.abs(apart - math.pi)
    first, second = np.unravel_index(int(off.argmin()), off.shape)
    step = float(np.median(np.abs(np.diff(angles))))
    return (int(first), int(second)) if off[first, second] <= 1.5 * step else None


def _mirror_centre(view: Array, opposite: Array) -> float:
    """Half the shift that lays the mirror image of the opposite view onto a view, to a tenth of a bin."""
    n, mirrored = len(view), opposite[::-1]
    place = np.arange(n, dtype=np.float64)

    def misfit(shift: float) -> float:
        seen = (place - shift >= 0) & (place - shift <= n - 1)
        moved = np.interp(place[seen] - shift, place, mirrored)
        return float(np.square(view[seen] - moved).mean())

    most = n // 2  # half of the detector must be seen from both sides
    coarse = min(range(-most, most + 1), key=misfit)
    return min((coarse + step / 10 for step in range(-10, 11)), key=misfit) / 2


def _group(file: Any, path: Path) -> Any:
    group: Any = find(file, GROUP, path)
    if not hasattr(group, "keys") or DATA not in group:
        raise InputError(f"{path} holds no projections: expected HDF5 with {GROUP}/{DATA} (Data Exchange)")
    return group


def _info(group: Any, file: Any, path: Path) -> SinogramInfo:
    data: Any = find(group, DATA, path)
    _check_frames(data, path)
    views, rows, detectors = (int(n) for n in data.shape)
    if not (FEWEST_VIEWS <= views <= MOST_VIEWS and FEWEST_DETECTORS <= detectors <= MOST_DETECTORS and rows >= 1):
        raise InputError(
            f"{path}: expected {FEWEST_VIEWS} to {MOST_VIEWS} views of at least one row and {FEWEST_DETECTORS} to "
            f"{MOST_DETECTORS} bins, found {views} x {rows} x {detectors} (views, rows, bins)"
        )
    warnings: list[str] = []
    angles = _angles(group, views, path, warnings)
    pixel = _pixel_mm(file, path)
    frames = {name: _frames(group, name, (rows, detectors), path) for name in (FLAT, DARK)}
    if not frames[FLAT]:
        warnings.append("The file has no picture of the beam alone: its brightest pixels are taken for it.")
    if not frames[DARK]:
        warnings.append("The file has no picture without the beam: the detector is taken to count nothing then.")
    if pixel is None:
        warnings.append(
            "The file does not say how large a detector bin is: voxels are given sides of 1, and values are "
            "attenuation per voxel."
        )
    warnings.append("The file does not say which way the object turned: the picture may be a mirror image.")
    arc = max(angles) - min(angles)
    words = (
        f"{views} parallel-beam projections over {arc:.1f} degrees, {rows} rows of {detectors} bins (Data Exchange).",
    )
    return SinogramInfo(views, rows, detectors, angles, pixel, frames[FLAT], frames[DARK], words, tuple(warnings))


def _check_frames(data: Any, path: Path) -> None:
    if not hasattr(data, "shape") or len(data.shape) != 3 or data.dtype.kind not in "iuf":
        shape = getattr(data, "shape", "no array")
        raise InputError(f"{path}: expected real counts (views, rows, bins) in {GROUP}/{DATA}, found {shape}")
    check_dataset(data, path)


def _frames(group: Any, name: str, size: tuple[int, int], path: Path) -> int:
    """How many frames of a kind there are; none if the file has none."""
    frames = find(group, name, path)
    if frames is None:
        return 0
    if not hasattr(frames, "shape") or len(frames.shape) != 3 or tuple(frames.shape[1:]) != size:
        raise InputError(
            f"{path}: {GROUP}/{name} does not fit {GROUP}/{DATA}: expected frames of {size[0]} x {size[1]}"
        )
    if frames.shape[0] > MOST_VIEWS or frames.dtype.kind not in "iuf":
        raise InputError(f"{path}: {GROUP}/{name} holds no pictures")
    check_dataset(frames, path)
    return int(frames.shape[0])


def _mean(group: Any, name: str, info: SinogramInfo, path: Path) -> Array | None:
    if not _frames(group, name, (info.rows, info.detectors), path):
        return None
    mean = np.zeros((info.rows, info.detectors))
    for frame in range(count := group[name].shape[0]):  # one at a time: there may be thousands
        mean += np.asarray(group[name][frame], np.float64) / count
    if not np.isfinite(mean).all():
        raise InputError(f"{path}: {GROUP}/{name} has counts that are not finite")
    return mean.astype(np.float32)


def _angles(group: Any, views: int, path: Path, warnings: list[str]) -> tuple[float, ...]:
    theta = find(group, ANGLES, path)
    if theta is None:
        warnings.append(f"The file does not say its angles: {views} equal steps over 180 degrees are assumed.")
        return tuple(180 * n / views for n in range(views))
    if not hasattr(theta, "shape") or theta.shape != (views,) or theta.dtype.kind not in "iuf":
        raise InputError(f"{path}: {GROUP}/{ANGLES} should hold {views} angles, one for each view")
    check_dataset(theta, path)
    angles = np.asarray(theta[()], np.float64)
    unit = theta.attrs.get("units", b"degrees")
    unit = unit.decode("ascii", "replace") if isinstance(unit, bytes) else str(unit)
    if unit.lower().startswith("rad"):
        angles = np.rad2deg(angles)
    if not np.isfinite(angles).all() or np.abs(angles).max() > 3600 or np.ptp(angles) <= 0:
        raise InputError(f"{path}: the angles in {GROUP}/{ANGLES} are impossible")
    return tuple(float(angle) for angle in angles)


def _pixel_mm(file: Any, path: Path) -> float | None:
    """Size of a detector bin, mm, where the file says it in a unit that is known."""
    member = file
    for name in PIXEL:
        member = find(member, name, path) if hasattr(member, "keys") else None
    if member is None or math.prod(getattr(member, "shape", (0,))) != 1 or member.dtype.kind not in "iuf":
        return None
    unit = member.attrs.get("units", "")
    unit = unit.decode("ascii", "replace") if isinstance(unit, bytes) else str(unit)
    size = float(np.asarray(member[()]).reshape(-1)[0]) * _TO_MM.get(unit.strip().lower(), math.nan)
    return size if 1e-6 < size < 100 else None
