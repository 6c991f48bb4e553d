"""``medidiff audit``: what a synthetic set leaks of the people behind it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medidiff.cli import console
from medidiff.cli.memory import reuse_freed_memory


def audit(
    folder: Annotated[Path, typer.Argument(metavar="SET", help="Folder of a finished synthetic set.")],
    config: Annotated[
        Path,
        typer.Option("--config", "-c", help="YAML of kind audit: whom the set is held against (configs/audit.yaml)."),
    ],
    model: Annotated[
        str | None, typer.Option(help="The generator, by name or file: attack it too (overrides the config).")
    ] = None,
    work: Annotated[Path | None, typer.Option(help="Folder for what is half done (default: beside the set).")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for a program.")] = False,
) -> None:
    """Seek copies of training people in SET, attack it, and write privacy.json into it: release asks for it."""
    from medidiff.audit import AuditOptions
    from medidiff.audit import audit as use_case
    from medidiff.config import load_config
    from medidiff.errors import GateRefused

    reuse_freed_memory()
    options = load_config(config, AuditOptions)
    given = {"model": model, "work": work}
    options = options.model_copy(update={name: value for name, value in given.items() if value is not None})
    with console.progress("auditing") as on_progress:
        result = use_case(folder, options, on_progress)
    if as_json:
        console.print_json(
            {
                "verdict": result.verdict.value,
                "reasons": list(result.reasons),
                "report": str(result.report),
                "copies": list(result.copies),
                "seconds": round(result.seconds, 1),
                "metrics": [metric.model_dump(mode="json") for metric in result.metrics],
            }
        )
    else:
        rows = [
            (
                metric.name,
                "-" if metric.value is None else f"{metric.value:.3f}",
                "-" if metric.interval is None else f"{metric.interval[0]:.3f} to {metric.interval[1]:.3f}",
                f"{metric.n} {metric.unit}",
                metric.outcome.value if metric.outcome else "told only",
            )
            for metric in result.metrics
        ]
        console.table("", ("figure", "value", "interval", "n", "outcome"), rows)
        console.facts("", {"verdict": result.verdict.value, "report": result.report, "copies": len(result.copies)})
    if result.reasons:
        raise GateRefused("\n".join([f"the audit is {result.verdict.value}:", *(f"  - {r}" for r in result.reasons)]))
