"""The quality gate: figures of a volume, and the reasons why it should not be trained on.

Nothing is thrown away here. A volume that fails is written like the others and marked ``usable: false``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medidiff.config import Config
from medidiff.data.manifest import ManifestRecord
from medidiff.errors import InputError
from medidiff.metrics.foreground import head_mask
from medidiff.metrics.noise import noise_floor
from medidiff.volume import Modality, Volume

Array = NDArray[Any]
Figures = dict[str, float | int | str | None]

# Median absolute deviation to standard deviation of a Gaussian.
_MAD_TO_SIGMA = 1.4826
_AIR_HU = -500.0
# An adult head with its coils' margin; the neck belongs to many head scans.
_HEAD_MM = (230.0, 280.0, 340.0)
_HEAD_WORDS = ("HEAD", "BRAIN", "SKULL", "FACE", "ORBIT", "IAC", "SELLA")


class QualityGate(Config):
    """What a volume must be to be usable.

    Args:
        min_slices: Fewest voxels along any axis.
        min_extent_mm: Least size along any axis.
        max_clipped: Largest share of the foreground at the highest value.
        min_snr: Least foreground median over noise (MR).
        max_ghosting: Most intensity in the air beside the head along one axis above that along another, as a part
            of the foreground's median (MR): motion and Nyquist ghosts.
        body_part: ``"head"`` to refuse what is none; ``"any"``.
        outlier: How many robust standard deviations noise or sharpness may lie off those of the volumes of the same
            kind, in a dataset with at least ``outlier_count`` of them.
        outlier_count: See ``outlier``.
    """

    min_slices: int = 8
    min_extent_mm: float = 30.0
    max_clipped: float = 0.01
    min_snr: float = 4.0
    max_ghosting: float = 0.15
    body_part: str = "any"
    outlier: float = 6.0
    outlier_count: int = 8


@dataclass(frozen=True, slots=True)
class Assessment:
    """Figures of one volume, and why it is not usable by itself."""

    figures: Figures
    reasons: tuple[str, ...]


def assess(volume: Volume, gate: QualityGate, body_part: str = "") -> Assessment:
    """Look at the first frame of a volume.

    Args:
        volume: Any grid.
        gate: Limits.
        body_part: As the header says; empty if it does not.
    """
    shape, extent = volume.geometry.shape, volume.geometry.extent
    figures: Figures = {"smallest_axis": min(shape), "smallest_extent_mm": round(min(extent), 1)}
    reasons = []
    if min(shape) < gate.min_slices:
        reasons.append(f"too few slices: {min(shape)}, at least {gate.min_slices} are needed")
    if min(extent) < gate.min_extent_mm:
        reasons.append(f"too thin a slab: {min(extent):.0f} mm, at least {gate.min_extent_mm:.0f} mm are needed")
    if volume.modality is Modality.LABEL:
        return Assessment(figures, (*reasons, "a label map, not a scan"))
    frame = np.asarray(volume.data[0], dtype=np.float32)
    finite = np.isfinite(frame)
    share = float(finite.mean())
    figures["not_finite"] = _round(1 - share)
    if share < 1:
        reasons.append(f"values that are not finite: {1 - share:.2%} of the voxels")
        frame = np.where(finite, frame, 0.0)
    low, high = float(frame.min()), float(frame.max())
    figures["minimum"], figures["maximum"] = _round(low), _round(high)
    if low == high:
        return Assessment(figures, (*reasons, "constant: every voxel has one value"))
    mask = _foreground(frame, volume)
    figures["foreground"] = _round(float(mask.mean()))
    if not mask.any():
        return Assessment(figures, (*reasons, "no foreground: nothing stands out from the background"))
    reasons += _signal_reasons(frame, mask, volume, gate, figures)
    reasons += _body_reasons(mask, volume, gate, body_part, figures)
    return Assessment(figures, tuple(reasons))


def outliers(records: Sequence[ManifestRecord], gate: QualityGate) -> dict[str, list[str]]:
    """Which volumes lie far off the others of their kind; a function of the set, whatever its order.

    Returns:
        Reasons by record id.
    """
    found: dict[str, list[str]] = {}
    groups: dict[tuple[str, str], list[ManifestRecord]] = {}
    for record in records:
        groups.setdefault((record.modality, record.suffix), []).append(record)
    for (modality, suffix), members in groups.items():
        for name, word in (("noise", "noise"), ("entropy_focus", "sharpness")):
            measured = [
                (record.id, value) for record in members if isinstance(value := record.quality.get(name), float)
            ]
            if len(measured) < gate.outlier_count:
                continue
            values = np.asarray([value for _, value in measured])
            middle = float(np.median(values))
            spread = _MAD_TO_SIGMA * float(np.median(np.abs(values - middle)))
            # Among near-identical volumes a hair's breadth is no reason.
            spread = max(spread, 0.05 * abs(middle), 1e-9)
            for identity, value in measured:
                score = (value - middle) / spread
                if abs(score) > gate.outlier:
                    text = f"{word} far off: {value:.3g}, where {modality} {suffix} here has {middle:.3g}"
                    found.setdefault(identity, []).append(text)
    return found


def _foreground(frame: Array, volume: Volume) -> Array:
    if volume.modality is Modality.CT:
        return np.asarray(frame > _AIR_HU)
    try:
        return head_mask(frame, spacing=volume.geometry.spacing)
    except (InputError, ValueError, IndexError):  # too few voxels for the mask's own methods
        return np.asarray(frame > float(frame.mean()))


def _signal_reasons(frame: Array, mask: Array, volume: Volume, gate: QualityGate, figures: Figures) -> list[str]:
    reasons = []
    inside = frame[mask]
    top = float(frame.max())
    clipped = float((inside >= top).mean())
    figures["clipped"] = _round(clipped)
    if clipped > gate.max_clipped:
        reasons.append(f"clipped: {clipped:.1%} of the foreground has the highest value")
    median = float(np.median(inside))
    noise = _noise(frame, mask)
    if noise is not None and volume.modality is Modality.MR and median > 0:
        figures["noise"] = _round(noise / median)
        figures["snr"] = _round(min(median / noise, 1e6)) if noise > 0 else None
        if noise > 0 and median / noise < gate.min_snr:
            reasons.append(
                f"noise far off: signal over noise is {median / noise:.1f}, at least {gate.min_snr:g} is needed"
            )
    elif noise is not None:
        figures["noise_hu"] = _round(noise)
    if volume.modality is Modality.MR and median > 0:
        ghosting = _ghosting(frame)
        figures["ghosting"] = None if ghosting is None else _round(ghosting)
        figures["entropy_focus"] = _round(_entropy_focus(frame))
        if ghosting is not None and ghosting > gate.max_ghosting:
            reasons.append(
                f"motion far off: ghosts of {ghosting:.0%} of the signal beside the head, along one axis only"
            )
    return reasons


def _noise(frame: Array, mask: Array) -> float | None:
    try:
        return float(noise_floor(frame, mask).sigma)
    except InputError:  # too small
        return None


def _ghosting(frame: Array) -> float | None:
    """Air in the shadow of the head along one axis against the others (Giannelli et al. 2010, ghost-to-signal).

    Motion and Nyquist ghosts smear along the phase axis only; noise is the same along all. The body is found by a high
    threshold, since a strong ghost would pass any low one.
    """
    smooth = ndimage.gaussian_filter(np.abs(frame), 1.0)
    bright = float(np.percentile(smooth, 99))
    core = smooth > 0.35 * bright
    labels, count = ndimage.label(core)
    if count == 0:
        return None
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    body = labels == int(sizes.argmax())
    margin = ndimage.binary_dilation(body, iterations=max(2, min(frame.shape) // 16))
    filled = np.asarray(ndimage.binary_fill_holes(margin))
    signal = float(np.median(np.abs(frame[body])))
    means = []
    for axis in range(3):
        shadow = ~filled & np.broadcast_to(body.any(axis=axis, keepdims=True), body.shape)
        if shadow.sum() >= 500:
            means.append(float(np.abs(frame[shadow]).mean()))
    return (max(means) - min(means)) / signal if len(means) > 1 and signal > 0 else None


def _entropy_focus(frame: Array) -> float:
    """Entropy focus criterion (Atkinson et al. 1997), normalised: 0 for one bright voxel, 1 for a flat image."""
    values = np.abs(frame.astype(np.float64)).ravel()
    energy = math.sqrt(float((values**2).sum()))
    if energy == 0:
        return 0.0
    parts = values[values > 0] / energy
    worst = math.sqrt(values.size) * math.log(math.sqrt(values.size)) if values.size > 1 else 1.0
    return float(-(parts * np.log(parts)).sum() / worst) if worst else 0.0


def _body_reasons(mask: Array, volume: Volume, gate: QualityGate, body_part: str, figures: Figures) -> list[str]:
    places = np.argwhere(mask)
    size = (places.max(axis=0) - places.min(axis=0) + 1) * np.asarray(volume.geometry.spacing)
    _, order, _ = (volume.geometry.reoriented()[0], *volume.geometry.reoriented()[1:])
    right, front, up = (round(float(size[axis]), 1) for axis in order)
    figures["body_mm"] = f"{right:g} x {front:g} x {up:g}"
    if gate.body_part != "head":
        return []
    stated = body_part.upper()
    if stated and not any(word in stated for word in _HEAD_WORDS):
        return ["wrong body part: the header does not say head"]
    if any(found > most for found, most in zip((right, front, up), _HEAD_MM, strict=True)):
        return [f"wrong body part: {right:.0f} x {front:.0f} x {up:.0f} mm is larger than a head"]
    return []


def _round(value: float) -> float:
    """Four significant digits: the same figures on machines that sum in another order."""
    return float(f"{value:.4g}") if math.isfinite(value) else 0.0
