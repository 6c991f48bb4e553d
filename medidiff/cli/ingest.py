"""``medidiff ingest``: a heap in, a dataset out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medidiff.cli import console

if TYPE_CHECKING:
    from medidiff.ingest import IngestOptions, IngestResult


def ingest(
    sources: Annotated[
        list[str],
        typer.Argument(help="Folders, files, zip archives, or servers: dicomweb://HOST/PATH, dimse://AET@HOST:PORT."),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the dataset, new or of an earlier run.")],
    config: Annotated[
        Path | None, typer.Option("--config", help="A YAML file of `kind: ingest`, such as configs/ingest.yaml.")
    ] = None,
    key: Annotated[
        Path | None,
        typer.Option("--key", help="File of the privacy key, made if missing; keep it (default: OUTPUT.key)."),
    ] = None,
    keep_face: Annotated[bool, typer.Option("--keep-face", help="Leave the voxels of faces as they are.")] = False,
    body_part: Annotated[
        str | None, typer.Option(help="What all sources show: head, other (no head), or auto (default: auto).")
    ] = None,
    uneven: Annotated[
        str | None, typer.Option(help="Uneven or missing slices: refuse or resample (default: refuse).")
    ] = None,
    tilt: Annotated[str | None, typer.Option(help="Gantry tilt: shear or refuse (default: shear).")] = None,
    subject_pattern: Annotated[
        str | None, typer.Option(help="Regular expression on paths of volume files; its first group is the patient.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for a program.")] = False,
) -> None:
    """Turn SOURCES into a clean, de-identified, split dataset; run it again for what is new."""
    from medidiff import ingest as use_case

    chosen = {"key": key, "body_part": body_part, "uneven": uneven, "tilt": tilt, "subject_pattern": subject_pattern}
    options = _options(config, {**chosen, "keep_face": keep_face or None})
    with console.progress("ingest") as on_progress:
        result = use_case.ingest(sources, output, options, on_progress)
    if as_json:
        console.print_json(_facts(result))
    else:
        console.facts("", {name.replace("_", " "): _text(value) for name, value in _facts(result).items()})
        if result.bad:
            what = "file was meant to be a scan and is" if result.bad == 1 else "files were meant to be scans and are"
            console.log(f"medidiff: {result.bad} {what} in no volume; the report says why")
    if result.exit_code:
        raise typer.Exit(result.exit_code)


def _options(config: Path | None, chosen: dict[str, Any]) -> IngestOptions:
    """The file's settings, and what the command line says instead.

    Raises:
        ConfigError: a setting does not fit.
    """
    from pydantic import ValidationError

    from medidiff.config import load_config
    from medidiff.errors import ConfigError
    from medidiff.ingest import IngestOptions

    base = load_config(config, IngestOptions) if config is not None else IngestOptions()
    given = {name: value for name, value in chosen.items() if value is not None}
    try:
        return IngestOptions.model_validate({**base.model_dump(), **given})
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        name = str(problem["loc"][0]).replace("_", "-")
        raise ConfigError(f"--{name}: {problem['msg']}, got {problem['input']!r}") from None


def _facts(result: IngestResult) -> dict[str, Any]:
    return {
        "dataset": str(result.dataset),
        "report": str(result.report),
        "key": str(result.key),
        "source_files": result.files,
        "in_a_volume": result.kept,
        "in_none": result.set_apart,
        "volumes": result.volumes,
        "new": len(result.added),
        "usable": result.usable,
        "patients": result.patients,
        "splits": result.splits,
    }


def _text(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{count} {name}" for name, count in value.items()) or "0"
    return str(value)
