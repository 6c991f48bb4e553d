"""``medidiff edit``: a region of a scan is drawn anew, and the result says so for good."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medidiff.cli import console
from medidiff.cli.memory import reuse_freed_memory

if TYPE_CHECKING:
    from medidiff.edit import EditResult


def edit(
    scan: Annotated[Path, typer.Argument(metavar="SCAN", help="A NIfTI, MGZ or NRRD file, or a DICOM folder.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="NIfTI file to write, with a JSON record beside it.")],
    mask: Annotated[
        Path | None, typer.Option(help="Where the scan changes (1), on its own grid (default: everywhere).")
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(help="Label map of what there is to be, on the scan's grid (generators alone).")
    ] = None,
    model: Annotated[str, typer.Option(help="A model that ships (`medidiff models`), or a file.")] = "brain-t1",
    strength: Annotated[
        float, typer.Option(help="How much of what is there is given up, above 0; at 1 nothing of it is left.")
    ] = 1.0,
    samples: Annotated[int, typer.Option(min=1, help="How many scans to draw.")] = 1,
    steps: Annotated[
        int | None, typer.Option(min=2, help="Network evaluations a sample (default: 8, or 20 for a generator).")
    ] = None,
    condition: Annotated[
        list[str] | None,
        typer.Option("--condition", help="What a generator is asked for: NAME=VALUE; may be repeated."),
    ] = None,
    guidance: Annotated[
        float, typer.Option(min=0, help="How much a generator stresses conditions (1: as they are).")
    ] = 1.0,
    seed: Annotated[int | None, typer.Option(help="Seed (default: drawn, and recorded).")] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda (default: cuda if there is one).")] = None,
) -> None:
    """Draw a region of SCAN anew; every other voxel stays what it is, to the last bit.

    The result is marked as edited, in its header and in the record: a scan of which a part was invented is none.
    """
    from medidiff.edit import EditOptions
    from medidiff.edit import edit as use_case

    reuse_freed_memory()
    options = EditOptions(
        mask=mask,
        labels=labels,
        model=model,
        strength=strength,
        samples=samples,
        steps=steps,
        guidance_scale=guidance,
        conditions=dict(map(parse_condition, condition or [])),
        seed=seed,
        device=device,
    )
    with console.progress("editing") as on_progress:
        result = use_case(scan, output, options, on_progress)
    console.facts("", facts(result))


def parse_condition(text: str) -> tuple[str, str | float]:
    """``name=value``; a value that is a number is one.

    Raises:
        ConfigError: there is no ``=`` in it.
    """
    from medidiff.errors import ConfigError

    name, found, value = text.partition("=")
    if not found or not name.strip() or not value.strip():
        raise ConfigError(f"--condition is NAME=VALUE, such as age=70, got {text!r}")
    try:
        return name.strip(), float(value)
    except ValueError:
        return name.strip(), value.strip()


def facts(result: EditResult) -> dict[str, object]:
    """Where everything is, how much was drawn, and whether its border can be seen."""
    record = result.record
    border = ", ".join("none" if value is None else f"{value:.2f}" for value in record["border_after"])
    before = "none" if record["border_before"] is None else f"{record['border_before']:.2f}"
    return {
        "written": ", ".join(str(path) for path in result.outputs),
        "drawn": f"{record['regenerated_voxels']} voxels ({record['regenerated_share']:.2%}); the others are untouched",
        "border": f"{border} (before: {before}; 1 is a step like those beside it)",
        "model": record["model"]["name"],
        "seed": record["seed"],
        "took": f"{record['seconds']:.1f} s",
    }
