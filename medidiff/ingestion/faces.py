"""A volume without its face: whether one may be seen (``privacy.facerule``), and its removal (``privacy.faces``).

A scan in which a head is likely but no brain is found is set apart: nobody could say where its face is.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from medidiff.errors import InputError
from medidiff.ingestion import lines
from medidiff.ingestion.candidate import SetApart
from medidiff.metrics.foreground import head_mask
from medidiff.privacy.facerule import TRUNK_MM, BodyPart, says_head, why_no_face, why_nobody, why_too_little
from medidiff.privacy.faces import deface
from medidiff.privacy.policy import CannotClean
from medidiff.volume import Modality, Volume

__all__ = ["BodyPart", "without_face"]

# A label map of more than this shows the head around the brain.
LARGEST_BRAIN_ML = 2600.0
_CT_AIR = -500.0


def without_face(
    volume: Volume, body_part: str, *, keep: bool, stated: BodyPart = "auto"
) -> tuple[Volume, dict[str, Any]]:
    """Remove the face if one may be there.

    Args:
        volume: Any grid.
        body_part: As the header says; empty if it does not.
        keep: Leave the voxels as they are.
        stated: What the user says about all sources.
    Returns:
        The volume, and what was done, for the manifest.
    Raises:
        SetApart: a head is likely, but no brain was found to cut the face off by.
    """
    reason = why_no_face(volume.geometry, volume.modality, body_part, stated)
    if not reason and volume.modality is Modality.LABEL and _label_ml(volume) < LARGEST_BRAIN_ML:
        reason = "a label map no larger than a brain"
    if reason:
        return volume, {"done": "nothing", "why": reason}
    if keep:
        return volume, {"done": "kept", "why": "by choice"}
    if volume.modality is Modality.LABEL:
        raise SetApart(lines.NOT_CLEAN, "face-unverified: a label map that shows more than a brain; use --keep-face")
    reason = why_nobody(volume)
    if reason:
        return volume, {"done": "nothing", "why": reason}
    try:
        clean, report = deface(volume)
    except CannotClean as error:
        if stated == "auto" and not says_head(body_part) and _width(volume) > TRUNK_MM:
            return volume, {"done": "nothing", "why": "no brain found in a body wider than a head"}
        advice = "say --body-part other if it shows no head, or --keep-face"
        raise SetApart(lines.NOT_CLEAN, f"{error.reason}: {error.explanation}; {advice}") from error
    reason = why_too_little(report.removed_ml, volume.geometry)
    if reason:
        return volume, {"done": "nothing", "why": reason}
    return clean, {
        "done": "removed",
        "brain_from": report.method,
        "removed_ml": round(report.removed_ml, 1),
        "brain_ml": round(report.brain_ml, 1),
        "brain_voxels_changed": report.brain_voxels_changed,
    }


def _width(volume: Volume) -> float:
    """Size of the body from right to left, mm."""
    upright = Volume(volume.data[:1], volume.geometry, volume.modality).reoriented()
    frame: NDArray[Any] = np.nan_to_num(upright.data[0])
    try:
        if upright.modality is Modality.CT:
            mask = np.asarray(frame > _CT_AIR)
        else:
            mask = head_mask(frame, spacing=upright.geometry.spacing)
    except (InputError, ValueError, IndexError):
        return 0.0
    filled = np.flatnonzero(mask.mean(axis=(1, 2)) > 0.02)
    return float((filled[-1] - filled[0] + 1) * upright.geometry.spacing[0]) if filled.size else 0.0


def _label_ml(volume: Volume) -> float:
    return float((volume.data[0] > 0).sum()) * float(np.prod(volume.geometry.spacing)) / 1000
