"""``medidiff info``: what a file is, from its header alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medidiff.cli import console

if TYPE_CHECKING:
    from medidiff.io import VolumeInfo

# The units that names end with.
UNITS = ("mm", "mb", "s")


def info(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A NIfTI, MGZ or NRRD file, or a folder with a DICOM series.")
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for a program.")] = False,
) -> None:
    """Say what FILE is and what `reconstruct` would do with it, without reading a voxel."""
    from medidiff.io import probe

    found = probe(file)
    plan, doubts = outlook(found)
    facts = describe(found)
    if as_json:
        console.print_json({**facts, "plan": plan, "warnings": doubts})
        return
    if found.scaling.is_identity:
        del facts["slope"], facts["intercept"]
    console.facts("", {_label(name): _text(value) for name, value in facts.items() if value not in (None, [])})
    for sentence in (*plan, *doubts):
        console.say(sentence)


def outlook(found: VolumeInfo) -> tuple[list[str], list[str]]:
    """What would be done, in words, and what a careful user should know beforehand."""
    from medidiff.errors import InputError
    from medidiff.restoration.plan import make_plan

    try:
        plan = make_plan(found.geometry, thickness=found.slice_thickness)
    except InputError as reason:
        return [], [f"It cannot be reconstructed: {reason}"]
    return list(plan.words), list(plan.doubts)


def describe(found: VolumeInfo) -> dict[str, Any]:
    """A probe's result as plain values, with units in the names."""
    geometry = found.geometry
    return {
        "format": found.format,
        "modality": str(found.modality),
        "shape": list(geometry.shape),
        "frames": found.frames,
        "spacing_mm": [round(size, 4) for size in geometry.spacing],
        "slice_thickness_mm": found.slice_thickness,
        "extent_mm": [round(size, 1) for size in geometry.extent],
        "orientation": geometry.orientation,
        "stored_as": found.dtype,
        "slope": found.scaling.slope,
        "intercept": found.scaling.intercept,
        "frame_step_s": found.frame_step,
        "memory_mb": round(found.bytes_needed / 1e6, 1),
        "notes": list(found.notes),
    }


def _label(name: str) -> str:
    """``spacing_mm`` as ``spacing (mm)``."""
    words, _, unit = name.rpartition("_")
    return f"{words.replace('_', ' ')} ({unit})" if unit in UNITS else name.replace("_", " ")


def _text(value: object) -> str:
    if isinstance(value, list):
        separator = "; " if all(isinstance(item, str) for item in value) else " x "
        return separator.join(f"{item:g}" if isinstance(item, float) else str(item) for item in value)
    return f"{value:g}" if isinstance(value, float) else str(value)
