"""``medidiff synthesize``: labelled synthetic volumes, as a set that can be measured, audited and released."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medidiff.cli import console
from medidiff.cli.memory import reuse_freed_memory

if TYPE_CHECKING:
    from medidiff.synthesize import SynthesizeOptions


def synthesize(
    config: Annotated[
        Path | None,
        typer.Argument(
            metavar="[CONFIG]", help="A YAML file of `kind: synthesize`; what is given here beside it wins."
        ),
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder of the set.")] = None,
    model: Annotated[str | None, typer.Option(help="A generator that ships, or a model file.")] = None,
    count: Annotated[int | None, typer.Option(min=1, help="Items in all.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="The same seed gives the same set.")] = None,
    steps: Annotated[int | None, typer.Option(min=2, help="Noise levels: 8 is fast, 18 good, 30 the most.")] = None,
    solver: Annotated[
        str | None, typer.Option(help="stochastic, multistep, euler, or heun (two evaluations a step).")
    ] = None,
    condition: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="What every item is to be like; may be repeated.")
    ] = None,
    spread: Annotated[
        bool | None, typer.Option("--spread", help="Ask for numbers as they were spread in training, item by item.")
    ] = None,
    guidance: Annotated[
        float | None, typer.Option(min=0, help="How much conditions are stressed (1: as they are).")
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(help="Draw images for these label maps (a folder, or one) instead of drawing both.")
    ] = None,
    vary: Annotated[
        Path | None, typer.Option(help="Draw variations of this scan, which it then shows: for the house alone.")
    ] = None,
    strength: Annotated[float | None, typer.Option(max=1, help="Of variations, above 0: 1 keeps nothing.")] = None,
    upsample: Annotated[
        str | None, typer.Option(help="A prior that makes every item finer, such as brain-t1: a cascade.")
    ] = None,
    spacing: Annotated[float | None, typer.Option(help="Of the voxels with --upsample, mm (default: 1).")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Items at once on a GPU; it changes no result.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda (default: cuda if there is one).")] = None,
    name: Annotated[str | None, typer.Option(help="What the set is called.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for a program.")] = False,
) -> None:
    """Draw a set of labelled synthetic volumes; called again after a kill, it makes the rest."""
    from medidiff import synthesize as use_case
    from medidiff.errors import ConfigError

    reuse_freed_memory()
    if output is None:
        raise ConfigError("--output: say where the set shall lie")
    given: dict[str, Any] = {
        "model": model,
        "count": count,
        "seed": seed,
        "steps": steps,
        "solver": solver,
        "spread": spread,
        "guidance_scale": guidance,
        "labels": labels,
        "vary": vary,
        "strength": strength,
        "upsample": upsample,
        "spacing": spacing,
        "batch": batch,
        "device": device,
        "name": name,
        "conditions": _conditions(condition) if condition else None,
    }
    options = _options(config, {key: value for key, value in given.items() if value is not None})
    with console.progress("synthesize") as on_progress:
        result = use_case.synthesize(output, options, on_progress)
    facts: dict[str, object] = {
        "set": str(result.folder),
        "items": result.items,
        "made now": result.made,
        "evaluations an item": result.evaluations,
        "seconds": round(result.seconds, 1),
        "volumes a minute": round(60 * result.made / result.seconds, 1),
        "hash": result.set_sha256,
        "picture": str(result.preview),
    }
    if as_json:
        console.print_json(facts)
    else:
        console.facts("", facts)


def _conditions(words: list[str]) -> dict[str, float | str]:
    """``NAME=VALUE`` words as numbers and words.

    Raises:
        ConfigError: a word that is none.
    """
    from medidiff.errors import ConfigError

    found: dict[str, float | str] = {}
    for word in words:
        name, sign, value = word.partition("=")
        if not (name and sign and value):
            raise ConfigError(f"--condition: {word!r}: expected NAME=VALUE, such as volume_ml=3.0")
        try:
            number = float(value)
        except ValueError:
            found[name.strip()] = value.strip()
            continue
        if "_" in value or not value.isascii():  # Python reads them; whoever typed them meant something else
            raise ConfigError(f"--condition: {word!r}: expected a number of plain digits, such as 3.0")
        found[name.strip()] = number
    return found


def _options(config: Path | None, given: dict[str, Any]) -> SynthesizeOptions:
    """The config's options, with what was typed put over them."""
    from pydantic import ValidationError

    from medidiff.config import load_config
    from medidiff.errors import ConfigError
    from medidiff.synthesize import SynthesizeOptions

    base = {} if config is None else load_config(config, SynthesizeOptions).model_dump()
    try:
        return SynthesizeOptions.model_validate(base | given)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        place = ".".join(str(part) for part in problem["loc"])
        message = problem["msg"].removeprefix("Value error, ")
        raise ConfigError(f"{place}: {message}" if place else message) from None
