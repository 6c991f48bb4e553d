"""``python -m flows.serve``: a server, what ``prefect.yaml`` schedules, a worker, and a look at dead runs each minute.

Everything listens on this machine alone. With ``PREFECT_API_URL`` set no server is started: the one there is used, and
this is one more worker for it.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import yaml

from flows.engine import guard
from flows.engine.environment import CONFIGS, settle_home
from medidiff.config import load_config
from medidiff.errors import EXIT_FAILURE, EXIT_OK, ConfigError, MedidiffError

POOL = "medidiff"
_START_SECONDS = 900.0
_RECONCILE_SECONDS = 60.0
_LOOK_SECONDS = 1.0


class Ended(Exception):
    """Somebody asked for the end."""


def main(arguments: list[str] | None = None) -> NoReturn:
    """Serve until SIGTERM or Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m flows.serve", description=__doc__)
    parser.add_argument("--file", type=Path, default=Path("prefect.yaml"), help="what is deployed, and when it runs")
    parser.add_argument("--state", type=Path, default=Path("medidiff-state"), help="folder of the server's database")
    parser.add_argument("--port", type=int, default=4200)
    parser.add_argument("--reconcile", type=float, default=_RECONCILE_SECONDS, metavar="SECONDS")
    given = parser.parse_args(arguments)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end)
    try:
        with guard.children():
            serve(given.file, given.state, given.port, given.reconcile)
    except Ended:
        sys.exit(EXIT_OK)
    except MedidiffError as error:
        sys.stderr.write(f"medidiff: {error}\n")
        sys.exit(error.exit_code)
    sys.exit(EXIT_FAILURE)


def _end(_number: int, _frame: FrameType | None) -> None:
    raise Ended


def serve(file: Path, state: Path, port: int, every: float) -> None:
    """Start what is missing, and keep it going.

    Raises:
        ConfigError: there is no such file, or the server does not start.
        Ended: by a signal.
    """
    names = deployed(file)
    settle_home(state)
    Path(os.environ["PREFECT_HOME"]).mkdir(parents=True, exist_ok=True)
    os.environ.setdefault(CONFIGS, str(Path("configs").resolve()))
    commands: dict[str, list[str]] = {}
    if "PREFECT_API_URL" not in os.environ:
        os.environ["PREFECT_API_URL"] = f"http://127.0.0.1:{port}/api"
        commands["server"] = ["server", "start", "--host", "127.0.0.1", "--port", str(port)]
    children = {name: _start(command) for name, command in commands.items()}
    try:
        _await_server(children)
        _make_pool()
        _deploy(file)
        commands["worker"] = ["worker", "start", "--pool", POOL, "--type", "process"]
        children["worker"] = _start(commands["worker"])
        sys.stdout.write(f"medidiff: serving {', '.join(names)} at {os.environ['PREFECT_API_URL']}\n")
        sys.stdout.flush()
        _keep_going(commands, children, lambda: _reconcile(names), every)
    finally:
        for child in children.values():
            child.terminate()
        for child in children.values():
            try:
                child.wait(timeout=15)
            except subprocess.TimeoutExpired:
                child.kill()


_PREFECT = [sys.executable, "-m", "prefect"]


def deployed(file: Path) -> list[str]:
    """Names of the configurations that the deployments of a file are told.

    Raises:
        ConfigError: it is no such file.
    """
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
        return sorted({str(each["parameters"]["config"]) for each in content["deployments"]})
    except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{file}: expected deployments, each with parameters: {{config: NAME}} ({type(error).__name__})"
        ) from None


def _deploy(file: Path) -> None:
    """Tell the server what is to run, and when; the code is that of the folder in which this was started."""
    command = [*_PREFECT, "--no-prompt", "deploy", "--all", "--prefect-file", str(file)]
    if subprocess.run(command, check=False).returncode:
        raise ConfigError(f"{file}: Prefect does not take these deployments; what it says is above")


def _start(command: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen([*_PREFECT, *command])


def _await_server(children: Mapping[str, subprocess.Popen[bytes]]) -> None:
    deadline = time.monotonic() + _START_SECONDS
    address = f"{os.environ['PREFECT_API_URL']}/health"
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(address, timeout=5):  # noqa: S310 - http(s), by whoever set PREFECT_API_URL
                return
        except (urllib.error.URLError, OSError):
            if any(child.poll() is not None for child in children.values()):
                raise ConfigError(
                    "the server ended as it started; is the port taken? choose another with --port"
                ) from None
            time.sleep(0.2)
    raise ConfigError(f"no server answers at {os.environ['PREFECT_API_URL']}")


def _make_pool() -> None:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectNotFound
    from prefect.workers.process import ProcessWorker

    with get_client(sync_client=True) as client:
        try:
            client.read_work_pool(POOL)
        except ObjectNotFound:
            template = ProcessWorker.get_default_base_job_template()
            client.create_work_pool(WorkPoolCreate(name=POOL, type="process", base_job_template=template))


def _keep_going(
    commands: Mapping[str, list[str]],
    children: dict[str, subprocess.Popen[bytes]],
    look: Callable[[], Any],
    every: float,
) -> None:
    """Start again what ended; look for dead runs now and then."""
    looked = -every
    while True:
        for name, command in commands.items():
            if children[name].poll() is not None:
                sys.stderr.write(f"medidiff: the {name} ended and is started again\n")
                time.sleep(_LOOK_SECONDS)
                children[name] = _start(command)
        if time.monotonic() - looked >= every:
            looked = time.monotonic()
            look()
        time.sleep(_LOOK_SECONDS)


def _reconcile(names: list[str]) -> None:
    """Look for dead runs; whatever comes of it, the next look does too."""
    import httpx
    from prefect.exceptions import PrefectException

    from flows.engine.flow import find_config
    from flows.engine.reconcile import reconcile
    from medidiff.ledger import Ledger
    from medidiff.unattended import schema_of

    ledgers, wait = {}, 0.0
    for name in names:
        try:
            path = find_config(name)
            plan = load_config(path, schema_of(path))
        except MedidiffError as error:
            sys.stderr.write(f"medidiff: {error}\n")
            continue
        wait = max(wait, plan.wait_seconds)
        if (plan.state / "runs").is_dir():
            ledgers[plan.state.resolve()] = Ledger(plan.state)
    try:
        counts = reconcile(list(ledgers.values()), pick_up=True, wait_seconds=wait)
    except (httpx.HTTPError, PrefectException, OSError) as error:
        sys.stderr.write(f"medidiff: reconciliation put off ({type(error).__name__})\n")
        return
    if any(counts.values()):
        sys.stdout.write(f"medidiff: {counts['crashed']} dead runs, {counts['picked_up']} picked up\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
