"""``medidiff export-bundle``: a model as a MONAI bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medidiff.cli import console


def export_bundle(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The name of one that ships, or a model file.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder to make (default: NAME-bundle).")
    ] = None,
) -> None:
    """Write MODEL as a MONAI bundle: weights as safetensors, metadata, a config that runs it, its card and licence."""
    from medidiff.export.bundle import write_bundle
    from medidiff.models import find_model

    folder = output or Path(f"{find_model(model).stem}-bundle")
    write_bundle(model, folder)
    console.facts("", {"bundle": folder, "run": "python -m monai.bundle run: see docs/README.md in it"})
