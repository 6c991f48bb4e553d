"""``python -m flows.NAME --once CONFIG``: one run, here and now, on Prefect's own embedded server.

Prefect is imported only after its surroundings are set, so nothing above ``_run_once`` may import it.
"""

from __future__ import annotations

import argparse
import importlib
import os
import re
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import NoReturn

from flows.engine.environment import CONFIGS, settle_home
from medidiff.config import load_config
from medidiff.errors import (
    EXIT_BAD_INPUT,
    EXIT_FAILURE,
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_REFUSED,
    ConfigError,
    MedidiffError,
)
from medidiff.ledger import Ledger
from medidiff.unattended import NAME, FlowConfig

_EXIT_CODES = {"Completed": EXIT_OK, "CompletedWithFailures": EXIT_BAD_INPUT, "Refused": EXIT_REFUSED}


def main(flow: str, schema: str, arguments: list[str] | None = None) -> NoReturn:
    """Run a flow once and end the process: 0 all done, 3 some items failed, 4 refused, 1 failed, 2 wrong configuration.

    Args:
        flow: Name of the module in ``flows`` and of the flow in it.
        schema: Name of its configuration's class.
        arguments: Of the command line.
    """
    parser = argparse.ArgumentParser(prog=f"python -m flows.{flow}", description=main.__doc__)
    parser.add_argument("--once", metavar="CONFIG", type=Path, required=True, help="a YAML file; run it now, and end")
    parser.add_argument("--quiet", action="store_true", help="print nothing but errors")
    given = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        sys.exit(_once(flow, schema, given.once, quiet=given.quiet))
    except MedidiffError as error:
        sys.stderr.write(f"medidiff: {error}\n")
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.stderr.write("medidiff: interrupted\n")
        sys.exit(EXIT_INTERRUPTED)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough: what follows is tidying up
    if steps := sys.modules.get("flows.engine.steps"):
        steps.stopping.set()  # whoever works in a thread hears of it at its next sign of progress
    raise KeyboardInterrupt


def _once(flow: str, schema: str, path: Path, *, quiet: bool) -> int:
    if path.suffix != ".yaml" or not re.match(NAME, path.stem):
        raise ConfigError(f"{path}: a flow's configuration is named like nightly.yaml: its name is shown to everybody")
    from medidiff import unattended

    plan: FlowConfig = load_config(path, getattr(unattended, schema))
    ledger = Ledger(plan.state)
    ledger.make()
    os.environ[CONFIGS] = str(path.parent.resolve())
    settle_home(plan.state)
    from flows.engine import guard

    with guard.children():
        return _run_once(flow, path.stem, ledger, quiet=quiet)


def _run_once(flow: str, config: str, ledger: Ledger, *, quiet: bool) -> int:
    import httpx
    from prefect.exceptions import PrefectException

    from flows.engine.reconcile import reconcile
    from flows.engine.server import start_server
    from flows.engine.steps import stopping

    module = importlib.import_module(f"flows.{flow}")
    start_server()
    try:
        reconcile([ledger])
        state = getattr(module, flow)(config=config, return_state=True)
    except KeyboardInterrupt:
        stopping.set()
        raise
    except (httpx.HTTPError, PrefectException) as error:
        # Prefect has tried for minutes. What it says may quote what was sent; the kind of fault is enough.
        raise MedidiffError(
            f"Prefect's server does not answer ({type(error).__name__}); is the machine overloaded? "
            f"what is done is kept: run it again; medidiff status {ledger.root}"
        ) from error
    message = state.message or ""
    if state.is_completed():
        if not quiet:
            sys.stdout.write(f"{flow}: {state.name}: {message}; medidiff status {ledger.root}\n")
        return _EXIT_CODES.get(state.name, EXIT_OK)
    sys.stderr.write(f"medidiff: {flow}: {state.name}: {message}\n")
    return EXIT_FAILURE
