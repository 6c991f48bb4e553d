"""Runs of flows in processes of their own, that begin in milliseconds and die where they are told to.

A process that has imported everything forks for each run (a zygote), and one Prefect server serves them all: to start
Python, torch and Prefect anew would cost eight CPU-seconds a kill. Nothing of Prefect is used before the fork.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

START_SECONDS = 240.0
# A run that has not ended by then hangs.
RUN_SECONDS = 240.0
# System calls after which what is on disk is different, or is there for good.
CALLS = "write,pwrite64,rename,renameat,renameat2,unlink,unlinkat,fsync,fdatasync,ftruncate,mkdir,mkdirat,rmdir,openat"
MOST_CALLS = 65_535


@dataclass(frozen=True, slots=True)
class Kill:
    """When a run dies.

    Args:
        kind: ``"event"``: at the n-th time that Python opens for writing, flushes, renames, removes or makes something;
            ``"call"``: at the n-th system call of ``CALLS`` of the main thread (strace); ``"time"``: after seconds.
        when: n, or seconds.
        number: The signal.
    """

    kind: str
    when: float
    number: int = signal.SIGKILL


@dataclass(frozen=True, slots=True)
class Ended:
    """How a run ended: its exit code, or minus the signal; events that were counted; seconds."""

    code: int
    events: int
    seconds: float
    log: str


@contextmanager
def server(home: Path, port: int) -> Iterator[None]:
    """A Prefect server for all runs, or the one at ``PREFECT_API_URL``; must be entered before Prefect is imported."""
    from flows.engine.environment import settle

    settle()
    os.environ["PREFECT_LOGGING_TO_API_ENABLED"] = "false"
    # Schedules are looked at often: nobody waits a minute for a run of two seconds.
    os.environ["PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS"] = "5"
    if "PREFECT_API_URL" in os.environ:
        yield
        return
    home.mkdir(parents=True, exist_ok=True)
    os.environ["PREFECT_HOME"] = str(home)
    os.environ["PREFECT_PROFILES_PATH"] = str(home / "profiles.toml")
    os.environ["PREFECT_API_URL"] = f"http://127.0.0.1:{port}/api"
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with (home / "server.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        _await(f"{os.environ['PREFECT_API_URL']}/health", process)
        yield
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _await(address: str, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until and process.poll() is None:
        try:
            with urllib.request.urlopen(address, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.3)
    raise RuntimeError("Prefect's server did not start")


def warm_up() -> None:
    """Import what runs import."""
    import monai.data
    import monai.transforms
    import prefect.task_runners
    import scipy.ndimage
    import torch

    import flows.engine.command
    import flows.ingest
    import flows.reconstruct
    import flows.train
    import medidiff.train
    import tests.stress.parts

    torch.set_num_threads(1)
    del monai, prefect, scipy, flows, medidiff, tests


def run_flow(flow: str, config: str, folder: Path) -> int:
    """What ``python -m flows.FLOW --once`` does once its surroundings are set; 0 where all is done."""
    import importlib

    from flows.engine.environment import CONFIGS
    from flows.engine.reconcile import reconcile
    from medidiff.ledger import Ledger

    os.environ[CONFIGS] = str(folder / "configs")
    ledger = Ledger(folder / "state")
    ledger.make()
    reconcile([ledger])
    module, _, function = flow.partition(":")
    state = getattr(importlib.import_module(module), function)(config=config, return_state=True)
    print(f"{state.name}: {state.message}", flush=True)
    return {"Completed": 0, "CompletedWithFailures": 3, "Refused": 4}.get(state.name, 1)


def forked(call: Callable[[], int], folder: Path, kill: Kill | None = None) -> Ended:
    """Call in a child, which dies as it is told; its descendants die with it.

    Raises:
        RuntimeError: it hangs.
    """
    counted, counting = os.pipe()
    going, go = os.pipe()
    begun = time.monotonic()
    child = os.fork()
    if child == 0:
        os.close(counted)
        os.close(go)
        _in_child(call, folder, kill, counting, going)
    os.close(counting)
    os.close(going)
    tracer = _traced(child, kill, folder) if kill is not None and kill.kind == "call" else None
    os.write(go, b"x")
    os.close(go)
    if kill is not None and kill.kind == "time":
        _after(child, kill, begun)
    code = _waited(child, begun)
    if tracer is not None:
        tracer.wait(30)
    with os.fdopen(counted, "rb") as stream:
        events = len(stream.read())
    with_group(child)
    log = folder / "run.log"
    said = log.read_text(errors="replace")[-2000:] if log.exists() else ""  # it may die before its first word
    return Ended(code, events, time.monotonic() - begun, said)


def _in_child(call: Callable[[], int], folder: Path, kill: Kill | None, counting: int, going: int) -> None:
    code = 99
    try:
        os.setsid()
        log = os.open(folder / "run.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.read(going, 1)
        at = int(kill.when) if kill is not None and kill.kind == "event" else 0
        _count_events(str(folder), counting, at, kill.number if kill else 0)
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        code = call()
    except KeyboardInterrupt:
        code = 130
    except BaseException:  # noqa: BLE001 - a child ends here, whatever it was
        import traceback

        traceback.print_exc()
    finally:
        os._exit(code)


def _count_events(folder: str, counting: int, at: int, number: int) -> None:
    """Tell the parent of every change below the folder; die just before the n-th."""
    seen = 0

    def happened() -> None:
        nonlocal seen
        seen += 1
        os_write(counting, b".")
        if seen == at:
            os.kill(os.getpid(), number)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if (
                isinstance(path, str | os.PathLike)
                and flags & (os.O_WRONLY | os.O_RDWR)
                and os.fspath(path).startswith(folder)
            ):
                happened()
        elif event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir") and str(arguments[0]).startswith(folder):
            happened()

    os_write, fsync = os.write, os.fsync

    def flush(descriptor: int) -> None:
        happened()
        fsync(descriptor)

    os.fsync = flush
    sys.addaudithook(hook)


def _traced(child: int, kill: Kill, folder: Path) -> subprocess.Popen[bytes]:
    command = ["strace", "-qq", "-p", str(child), "-e", f"trace={CALLS}", "-o", str(folder / "strace.log")]
    if kill.when < MOST_CALLS:  # beyond what strace counts to, none is killed, and the calls are only listed
        command += ["-e", f"inject={CALLS}:signal={int(kill.number)}:when={int(kill.when)}"]
    tracer = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 20
    while time.monotonic() < until and "TracerPid:\t0" in Path(f"/proc/{child}/status").read_text():
        time.sleep(0.01)
    return tracer


def _after(child: int, kill: Kill, begun: float) -> None:
    while time.monotonic() - begun < kill.when:
        time.sleep(0.002)
        if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            return
    os.kill(child, kill.number)


def _waited(child: int, begun: float) -> int:
    while True:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
        if time.monotonic() - begun > RUN_SECONDS:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            raise RuntimeError(f"a run hung for {RUN_SECONDS:g} s")
        time.sleep(0.01)


def with_group(child: int) -> None:
    """End what the child left running in its session."""
    try:
        os.killpg(child, signal.SIGKILL)
    except ProcessLookupError:
        return


def draw(rng: random.Random, events: int, calls: int, seconds: float) -> Kill:
    """A random moment: most by events, the rest by system calls, where strace is there, and by time."""
    kind = rng.choices(("event", "call", "time"), (0.6, 0.15 if calls else 0.0, 0.25))[0]
    if kind == "event":
        return Kill("event", rng.randint(1, max(1, events)))
    if kind == "call":
        return Kill("call", rng.randint(1, max(1, calls)))
    return Kill("time", rng.uniform(0, seconds))
