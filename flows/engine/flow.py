"""From a function over a ``Run`` to a Prefect flow that is told the name of a configuration, and nothing else.

Prefect stores parameters and shows them to everybody, so no path is one: the name is looked up in the folder that the
environment variable ``MEDIDIFF_CONFIGS`` names (by default ``configs``).
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from prefect import Flow, State, flow
from prefect.runtime import flow_run
from prefect.states import Failed

from flows.engine.environment import CONFIGS
from flows.engine.hidden import clean, keep_back_strangers, places_in
from flows.engine.lock import held
from flows.engine.run import Refused, Run, begin
from flows.engine.steps import StepFailed, stopping
from medidiff.config import load_config
from medidiff.errors import ConfigError, MedidiffError
from medidiff.ledger import Ledger, new_run_id, now
from medidiff.unattended import NAME, FlowConfig

# What the loader of configurations says that it found.
_QUOTED = re.compile(r", got .*")

P = TypeVar("P", bound=FlowConfig)


def unattended(name: str, schema: type[P]) -> Callable[[Callable[[Run[P]], None]], Flow[[str], State[Any]]]:
    """Make a function a Prefect flow of that name, whose configurations have that schema."""

    def decorate(body: Callable[[Run[P]], None]) -> Flow[[str], State[Any]]:
        def run(config: str) -> State[Any]:
            return _run(body, name, schema, config)

        run.__doc__ = body.__doc__
        run.__module__ = body.__module__
        run.__qualname__ = run.__name__ = body.__name__
        return flow(name=name, persist_result=False, log_prints=False, validate_parameters=False)(run)

    return decorate


def find_config(name: str) -> Path:
    """The file of a configuration.

    Raises:
        ConfigError: no such name is possible.
    """
    if not re.match(NAME, name):
        raise ConfigError("config: expected the name of a file in the folder of configurations, such as nightly")
    return Path(os.environ.get(CONFIGS, "configs")) / f"{name}.yaml"


def _run(body: Callable[[Run[P]], None], name: str, schema: type[P], config: str) -> State[Any]:
    keep_back_strangers()
    stopping.clear()
    try:
        plan = load_config(find_config(config), schema)
        ledger = Ledger(plan.state)
        ledger.make()
        run_id = new_run_id()
        with held(ledger, run_id, plan.wait_seconds):
            attempt = int(flow_run.run_count or 1)
            run = Run(plan, ledger, begin(name, config, plan, run_id, str(flow_run.id or ""), attempt))
            return _worked(body, run)
    except MedidiffError as error:
        # A message about the configuration may quote it; `medidiff config show` tells its owner the whole.
        return Failed(message=_QUOTED.sub("", clean(str(error), ())))


def _worked(body: Callable[[Run[P]], None], run: Run[P]) -> State[Any]:
    run.save()
    run.journal.write("start", flow=run.record.flow, config=run.record.config, digest=run.record.config_digest)
    try:
        body(run)
        return run.end()
    except Refused:
        return run.end_refused()
    except StepFailed as failure:
        return run.end_failed(failure.reason, failure.exit_code)
    except MedidiffError as error:
        named = places_in(run.plan.model_dump(mode="json"))
        return run.end_failed(clean(str(error), named, "[path]"), error.exit_code)
    except BaseException as error:
        run.save(status="crashed", message=f"ended by {type(error).__name__}", ended=now())
        run.journal.write("end", status="crashed", message=type(error).__name__)
        raise
    finally:
        run.fingerprints.close()
