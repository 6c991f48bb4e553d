"""``medidiff evaluate``: how good a synthetic set is, held against real people."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medidiff.cli import console
from medidiff.cli.memory import reuse_freed_memory

if TYPE_CHECKING:
    from medidiff.synthetic.reports import Metric


def evaluate(
    folder: Annotated[Path, typer.Argument(metavar="SET", help="Folder of a finished synthetic set.")],
    config: Annotated[
        Path,
        typer.Option(
            "--config", "-c", help="YAML of kind evaluate: whom the set is held against (configs/evaluate.yaml)."
        ),
    ],
    features: Annotated[
        str | None, typer.Option(help="An encoder by name or file, or a YAML of kind features (overrides the config).")
    ] = None,
    utility: Annotated[
        bool, typer.Option("--utility", help="Also train segmenters on SET and on real people: minutes each.")
    ] = False,
    work: Annotated[
        Path | None, typer.Option(help="Folder where finished trainings are kept, so that a killed run goes on.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for a program.")] = False,
) -> None:
    """Measure fidelity, diversity, structures and use of SET, and write quality.json into it: release asks for it."""
    from medidiff.config import load_config
    from medidiff.errors import GateRefused
    from medidiff.evaluate import EvaluateOptions, UtilityOptions
    from medidiff.evaluate import evaluate as use_case

    reuse_freed_memory()
    options = load_config(config, EvaluateOptions)
    if features is not None:
        options = options.model_copy(update={"features": features})
    if utility and options.utility is None:
        options = options.model_copy(update={"utility": UtilityOptions()})
    with console.progress("evaluating") as on_progress:
        result = use_case(folder, options, on_progress, work=work)
    if as_json:
        console.print_json(
            {
                "verdict": result.verdict.value,
                "reasons": list(result.reasons),
                "report": str(result.report),
                "seconds": round(result.seconds, 1),
                "metrics": [metric.model_dump(mode="json") for metric in result.metrics],
            }
        )
    else:
        columns = ("figure", "value", "interval", "real", "nearest known bad", "n", "outcome")
        console.table("", columns, [_row(metric) for metric in result.metrics])
        console.facts("", {"verdict": result.verdict.value, "report": result.report})
    if result.reasons:
        raise GateRefused(
            "\n".join([f"the quality is {result.verdict.value}:", *(f"  - {reason}" for reason in result.reasons)])
        )


def _row(metric: Metric) -> tuple[str, ...]:
    between = f"{metric.interval[0]:.3g} to {metric.interval[1]:.3g}" if metric.interval else "-"
    order = sorted(metric.floors.items(), key=lambda floor: floor[1], reverse=metric.better == "higher")
    mildest = f"{order[0][1]:.3g} ({order[0][0]})" if order else "-"
    return (
        metric.name,
        "-" if metric.value is None else f"{metric.value:.3g}",
        between,
        "-" if metric.ceiling is None else f"{metric.ceiling:.3g}",
        mildest,
        f"{metric.n} {metric.unit}",
        metric.outcome.value if metric.outcome else "told only",
    )
