"""``medidiff demo``: the whole way on a packaged brain, with nothing to download."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medidiff.cli import console
from medidiff.cli.memory import reuse_freed_memory
from medidiff.cli.reconstruct import facts, print_plan


def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write into; made if need be.")] = Path(
        "medidiff-demo"
    ),
    model: Annotated[str | None, typer.Option(help="A model that ships (`medidiff models`), or a file.")] = None,
    fast: Annotated[bool, typer.Option("--fast", help="No network: cubic and exact projection, in seconds.")] = False,
    device: Annotated[str | None, typer.Option(help="cpu or cuda (default: cuda if there is one).")] = None,
) -> None:
    """Thick-slice a brain to 4 mm, restore it, and hold the result against the truth.

    It is the MNI152 average that comes with nilearn. What is written: the thick scan, the reconstruction with its
    record, a picture, a page, and the scores as JSON.
    """
    from medidiff.demo import CAUTION, COLUMNS, formatted, run_demo
    from medidiff.reconstruct import ReconstructOptions

    reuse_freed_memory()

    options = ReconstructOptions(model=model, fast=fast, device=device)
    console.say("The MNI152 brain at 1 mm, thick-sliced to 4 mm as a scanner would, and restored from its file:")
    with console.progress("reconstructing") as on_progress:
        result = run_demo(output, options, on_progress, print_plan)
    told = facts(result.reconstruction, options)
    console.facts("", {**result.files, **{name: told[name] for name in told if name != "written"}})
    console.table("", COLUMNS, formatted(result.rows))
    console.say(CAUTION)
