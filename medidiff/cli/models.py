"""``medidiff models``: what ships, what it was made of, and what it is not for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from medidiff.cli import console
from medidiff.cli.boundary import printable


def models(
    name: Annotated[
        str | None,
        typer.Argument(metavar="NAME", help="Show the whole card of this model; a file of your own will do."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for a program.")] = False,
) -> None:
    """List the models that ship, or show the card of one."""
    from medidiff.models import find_model, read_info, shipped_models

    found = shipped_models() if name is None else [read_info(find_model(name))]
    if as_json:
        console.print_json([{"name": m.name, "parameters": m.parameters, "bytes": m.size, **m.card} for m in found])
    elif name is not None:
        (model,) = found
        about = {
            "parameters": f"{model.parameters:,}",
            "size (mb)": f"{model.size / 1e6:.1f}",
            "network": model.network,
        }
        facts = {_line(key): _line(value) for key, value in {**about, **flat(model.card)}.items()}
        console.facts(_line(model.name), facts)
    elif found:
        rows = [
            (m.name, f"{m.parameters / 1e6:.1f} M", f"{m.size / 1e6:.1f} MB", _line(m.card.get("summary", "")))
            for m in found
        ]
        console.table("", ("model", "parameters", "size", "what it is for"), rows)
    else:
        console.say("no model ships with this installation: train one with `medidiff train CONFIG`")


def _line(value: object) -> str:
    """Anybody can write a card: what it says must not steer the terminal."""
    return printable(" ".join(str(value).split("\n")))


def flat(card: Mapping[str, Any], prefix: str = "") -> dict[str, object]:
    """Nested entries as ``outer.inner``, in their order."""
    result: dict[str, object] = {}
    for key, value in card.items():
        if isinstance(value, Mapping):
            result |= flat(value, f"{prefix}{key}.")
        elif value is not None:
            result[f"{prefix}{key}"] = f"{value:.4g}" if isinstance(value, float) else value
    return result
