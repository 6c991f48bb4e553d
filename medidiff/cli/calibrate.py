"""``medidiff calibrate``: fine scans in, the file that makes intervals hold."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, cast

import typer

from medidiff.cli import console
from medidiff.cli.memory import reuse_freed_memory

if TYPE_CHECKING:
    from medidiff.operators.slices import Profile

Axis = Literal["R", "A", "S", "each"]
Region = Literal["head", "whole"]


def calibrate(
    scans: Annotated[
        list[Path], typer.Argument(metavar="SCANS...", help="Fine scans (NIfTI, MGZ, NRRD), one a person, 12 or more.")
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The JSON file; MODEL.calibration.json is found beside a model.")
    ],
    model: Annotated[str, typer.Option(help="A model that ships (`medidiff models`), or a file.")] = "brain-t1",
    factor: Annotated[
        list[float] | None, typer.Option(help="Slice distance in fine voxels; may be given again (default: 2, 4, 6).")
    ] = None,
    profile: Annotated[
        list[str] | None, typer.Option(help="Form of the slices, box or gaussian; may be given again (default: both).")
    ] = None,
    axis: Annotated[Axis, typer.Option(help="Axis of the slices, or each in its turn.")] = "each",
    level: Annotated[float, typer.Option(help="Share of voxels that an interval may miss.")] = 0.1,
    samples: Annotated[int, typer.Option(min=0, help="Read the spread of so many samples too.")] = 0,
    steps: Annotated[int, typer.Option(min=1, help="Network evaluations for a sample.")] = 8,
    region: Annotated[Region, typer.Option(help="Which voxels count: inside the head, or all (crops).")] = "head",
    about: Annotated[str, typer.Option(help="What kind of volumes these are; no name of a person.")] = (
        "the calibration scans"
    ),
    seed: Annotated[int, typer.Option(help="Seed of what is drawn.")] = 0,
    device: Annotated[str | None, typer.Option(help="cpu or cuda (default: cuda if there is one).")] = None,
) -> None:
    """Slice fine scans of known people, restore them, and find how wide intervals must be to hold.

    A fifth of the people teach where errors are likely, the others how large they are. The promise is about the mean
    over new people like these: single ones may be covered more or less.
    """
    from medidiff.calibrate import CalibrateOptions
    from medidiff.calibrate import calibrate as use_case

    reuse_freed_memory()
    options = CalibrateOptions(
        model=model,
        factors=tuple(factor or (2.0, 4.0, 6.0)),
        profiles=cast("tuple[Profile, ...]", tuple(profile or ("box", "gaussian"))),
        axis=None if axis == "each" else "RAS".index(axis),
        level=level,
        samples=samples,
        steps=steps,
        region=region,
        about=about,
        seed=seed,
        device=device,
    )
    with console.progress("calibrating") as on_progress:
        result = use_case(scans, output, options, on_progress)
    rows = [
        (
            f"{report.stratum.profile} x{report.stratum.factor:g}",
            f"{report.stratum.multiplier:.3f}",
            f"{1 - report.stratum.missed:.1%}",
            f"{report.covered[0]:.0%} to {report.covered[1]:.0%}",
            f"{report.half_width:.4f}",
            f"{report.constant:.4f}",
        )
        for report in result.reports
    ]
    console.table("", ("slices", "multiplier", "covered", "in one person", "half-width", "of one width"), rows)
    found = result.calibration
    console.facts("", {"written": result.output, "promise": found.words, "domain": found.domain})
