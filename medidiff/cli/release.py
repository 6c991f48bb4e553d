"""``medidiff release``: a synthetic set goes out, or is refused with every reason."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medidiff.cli import console

if TYPE_CHECKING:
    from medidiff.release import ReleaseOptions


def release(
    source: Annotated[
        Path, typer.Argument(metavar="SET", help="Folder of a synthetic set; with --check, of a release.")
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder to make; it appears whole or not at all.")
    ] = None,
    formats: Annotated[
        str, typer.Option("--format", help="Any of bids, nnunet, dicom, croissant, with commas between.")
    ] = "bids,croissant",
    report: Annotated[
        Path | None, typer.Option(help="Also write the page for the house here (HTML); it may show training data.")
    ] = None,
    nnunet_number: Annotated[int, typer.Option(min=1, max=999, help="Number of the dataset in nnU-Net.")] = 900,
    check: Annotated[
        bool, typer.Option("--check", help="Release nothing: look whether a release is unaltered and marked.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for a program.")] = False,
) -> None:
    """Export SET if fresh quality and privacy reports of exactly these files passed; else refuse, with the reasons."""
    from medidiff import release as use_case

    if check:
        files = use_case.check(source)
        facts: dict[str, object] = {"release": str(source), "files": files, "unaltered": True, "marked": True}
    else:
        options = _options(formats, nnunet_number)
        with console.progress("release") as on_progress:
            result = use_case.release(source, _place(output), options, on_progress, report=report)
        facts = {
            "release": str(result.output),
            "formats": ", ".join(result.formats),
            "items": result.items,
            "files": result.files,
            "bytes": result.size,
            "set": result.set_sha256,
        }
        facts |= {"page": str(report)} if report else {}
    if as_json:
        console.print_json(facts)
    else:
        console.facts("", facts)


def _place(output: Path | None) -> Path:
    from medidiff.errors import ConfigError

    if output is None:
        raise ConfigError("--output: say where the release shall lie")
    return output


def _options(formats: str, nnunet_number: int) -> ReleaseOptions:
    """The options, with a message about what was typed."""
    from pydantic import ValidationError

    from medidiff.errors import ConfigError
    from medidiff.release import FORMATS, ReleaseOptions

    names = [name.strip() for name in formats.split(",") if name.strip()]
    try:
        return ReleaseOptions.model_validate({"formats": names, "nnunet_number": nnunet_number})
    except ValidationError:
        raise ConfigError(
            f"--format: {formats!r}: expected some of {', '.join(FORMATS)}, with commas between"
        ) from None
