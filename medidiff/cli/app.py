"""The typer application: its global options, its commands, and its way in.

Every command lives in its own module, which may import typer, the standard library and ``medidiff.cli.console`` at its
top, and nothing else: what is heavy is imported by the function when it runs.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from medidiff import __version__
from medidiff.cli import boundary, codes, console
from medidiff.cli.audit import audit
from medidiff.cli.calibrate import calibrate
from medidiff.cli.config import config_app
from medidiff.cli.demo import demo
from medidiff.cli.edit import edit
from medidiff.cli.evaluate import evaluate
from medidiff.cli.export_bundle import export_bundle
from medidiff.cli.info import info
from medidiff.cli.ingest import ingest
from medidiff.cli.listen import listen
from medidiff.cli.models import models
from medidiff.cli.privacy import audit_phi, deidentify
from medidiff.cli.reconstruct import reconstruct
from medidiff.cli.release import release
from medidiff.cli.status import status
from medidiff.cli.synthesize import synthesize
from medidiff.cli.train import train

EPILOG = (
    "Exit codes: 0 ok, 1 failure, 2 usage or configuration, 3 bad input, 4 refused by a gate, 130 interrupted. "
    "--debug and --quiet may stand anywhere."
)

app = typer.Typer(
    name="medidiff",
    help="Turn thick, noisy or private medical scans into better ones, and into clean datasets.",
    epilog=EPILOG,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

# Options that mean the same for every command, so that nobody has to remember on which side of the command they go.
ANYWHERE = ("--debug", "--quiet")


def _print_version(value: bool) -> None:
    if value:
        typer.echo(f"medidiff {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and leave.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print errors only: no table, no progress bar.")] = False,
) -> None:
    del version
    boundary.debug = debug
    console.configure(quiet=quiet)


app.command()(reconstruct)
app.command()(demo)
app.command()(edit)
app.command()(info)
app.command()(models)
app.command(name="export-bundle")(export_bundle)
app.command()(train)
app.command()(calibrate)
app.command()(ingest)
app.command()(deidentify)
app.command(name="audit-phi")(audit_phi)
app.command()(evaluate)
app.command()(audit)
app.command()(synthesize)
app.command()(release)
app.command()(listen)
app.command()(status)
app.add_typer(config_app, name="config")
for _command in app.registered_commands + config_app.registered_commands:
    _name = _command.name or getattr(_command.callback, "__name__", None)
    _command.epilog = _command.epilog or codes.epilog(str(_name))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and end the process with a documented exit code.

    Args:
        arguments: What follows the program's name; the process's own by default.
    Raises:
        SystemExit: always.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    sys.exit(boundary.run(lambda: app(hoist(given), prog_name="medidiff")))


def hoist(arguments: Sequence[str]) -> list[str]:
    """Move the options that may stand anywhere to the front, where the application declares them.

    What follows ``--`` is left alone: those are files.
    """
    words = list(arguments)
    end = words.index("--") if "--" in words else len(words)
    front = [word for word in words[:end] if word in ANYWHERE]
    return front + [word for word in words[:end] if word not in ANYWHERE] + words[end:]
