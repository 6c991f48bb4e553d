"""``medidiff listen``: a small DICOM receiver that says "stored" when the disk has it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medidiff.cli import console


def listen(
    folder: Annotated[Path, typer.Argument(help="Where objects go, as they come: not yet de-identified.")],
    port: Annotated[int, typer.Option(min=1, max=65535, help="TCP port.")] = 11112,
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for all of this machine.")] = "127.0.0.1",
    aet: Annotated[str, typer.Option(help="Application entity title.")] = "MEDIDIFF",
    allow: Annotated[
        list[str] | None, typer.Option("--allow", help="Calling title that may send; once for each (default: all).")
    ] = None,
    max_objects: Annotated[int | None, typer.Option(min=1, help="Leave after so many objects.")] = None,
) -> None:
    """Receive DICOM (C-STORE, C-ECHO) into FOLDER until interrupted; then `medidiff ingest` it."""
    from medidiff.io.pacs import ListenOptions, serve

    options = ListenOptions(folder=folder, host=host, port=port, aet=aet, allowed=tuple(allow or ()))
    console.log(f"listening on {host}:{port} as {aet}; Ctrl-C ends it")
    count = serve(options, max_objects=max_objects)
    console.facts("", {"objects": count, "folder": str(folder)})
