"""A step: one library call as a Prefect task, done once for each key, whose errors name nobody.

@step("train")
def train_model(order: Order, work: Work) -> Made:
    from medidiff.train import TrainOptions, train
    ...
"""

from __future__ import annotations

import errno
import functools
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prefect import Task, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun

from flows.engine.artifacts import Progress
from flows.engine.hidden import clean, keep_back_strangers
from flows.engine.journal import Journal
from flows.engine.keys import Fingerprints
from flows.engine.results import Output, Result, Results
from medidiff.errors import EXIT_FAILURE, GateRefused, MedidiffError, OutputError

# Faults that may be gone in a minute: no room, a file system or server that is away, a lock.
_ROOM = ("EDQUOT", "ENOSPC")
_BUSY = ("EAGAIN", "EBUSY", "EINTR", "EMFILE", "ENFILE", "ENOLCK", "ETXTBSY")
_AWAY = (
    "EIO",
    "EPIPE",
    "ESTALE",
    "ETIMEDOUT",
    "ECONNABORTED",
    "ECONNREFUSED",
    "ECONNRESET",
    "EHOSTUNREACH",
    "ENETUNREACH",
)
_PASSING = frozenset(getattr(errno, name) for name in (*_ROOM, *_BUSY, *_AWAY))

_TELL_SECONDS = 10.0
# Set when the process is asked to end: whatever is at work in a thread stops at its next sign of progress.
stopping = threading.Event()


class StepFailed(Exception):
    """A step came to nothing; the reason names nobody.

    Args:
        reason: In one or a few lines.
        exit_code: What the command would have ended with.
    """

    def __init__(self, reason: str, exit_code: int = EXIT_FAILURE) -> None:
        super().__init__(reason, exit_code)
        self.reason = reason
        self.exit_code = exit_code

    def __str__(self) -> str:
        return self.reason


class Passing(StepFailed):
    """A fault that may be gone when the step is tried again."""


class Stopped(KeyboardInterrupt):
    """The process was asked to end."""


@dataclass(frozen=True)
class Order:
    """What is to be done. It is handed over in memory and stored nowhere, and shows nothing of itself.

    Args:
        step: Name of the step.
        key: Of everything that determines what it makes.
        state: The state folder.
        run: Id of the run.
        base: Folder of the outputs, which results name relative to it.
        arguments: For the library call.
        sources: Paths and addresses that may name a person, to be kept out of messages.
        item: Token of an item, where the step fans out.
    """

    step: str
    key: str
    state: Path
    run: str
    base: Path
    arguments: dict[str, Any] = field(default_factory=dict)
    sources: tuple[str, ...] = ()
    item: str = ""

    def __repr__(self) -> str:
        return f"Order({self.step} {self.item or self.key[:12]})"


@dataclass(frozen=True, slots=True)
class Made:
    """What a library call left.

    Args:
        outputs: Files and folders below the order's base, by whose content it is known whether it is still there. Named
            as the order names its base: where that is a link, what it leads to lies elsewhere.
        facts: Figures to show.
        pages, pictures: To link to, and to show; below the base, too. Pictures are of nobody who lives.
    """

    outputs: tuple[Path, ...]
    facts: dict[str, Any] = field(default_factory=dict)
    pages: tuple[Path, ...] = ()
    pictures: tuple[Path, ...] = ()


class Work:
    """What a step has at hand while it works."""

    def __init__(self, order: Order) -> None:
        self._journal = Journal(order.state, order.run)
        self._order = order
        self._told = time.monotonic()
        self._bar = Progress(f"{order.step} {order.item or order.key[:12]}")

    def on_progress(self, done: int, total: int, what: str = "") -> None:
        """For a use case to call: a line now and then; raises where the process was asked to end."""
        del what  # it may name a file
        if stopping.is_set():
            raise Stopped
        self._bar.move(done, total)
        if time.monotonic() - self._told > _TELL_SECONDS:
            self._told = time.monotonic()
            self._journal.write("progress", step=self._order.step, item=self._order.item, done=done, total=total)

    def end(self) -> None:
        """All is done."""
        self._bar.end()


Body = Callable[[Order, Work], Made]


def step(name: str) -> Callable[[Body], Task[[Order], Result]]:
    """Make a library call a Prefect task; retries are set by ``configured``."""

    def decorate(body: Body) -> Task[[Order], Result]:
        @functools.wraps(body)
        def carry(order: Order) -> Result:
            return carry_out(body, order)

        carry.__annotations__ = {"order": Order, "return": Result}
        del carry.__wrapped__  # Prefect would look through it and see two parameters
        return task(
            name=name, cache_policy=NO_CACHE, persist_result=False, log_prints=False, retry_condition_fn=_is_passing
        )(carry)

    return decorate


def _is_passing(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    """Whether trying again may help; what is wrong with the input stays wrong."""
    return isinstance(state.result(raise_on_failure=False), Passing)


def carry_out(body: Body, order: Order) -> Result:
    """Do a step, unless it was done; put its result on disk after everything that it made.

    Raises:
        StepFailed: it came to nothing.
        Passing: it came to nothing, and may not the next time.
    """
    keep_back_strangers()
    journal = Journal(order.state, order.run)
    begun, results = time.monotonic(), Results(order.state)
    fingerprints = Fingerprints(order.state)
    try:
        # Dask gives out once more what a worker had done that died before it could say so.
        known = results.find(order.step, order.key, order.base, fingerprints)
        if known is not None:
            return known
        journal.write("begin", step=order.step, key=order.key, item=order.item)
        result = _called(body, order, fingerprints, begun)
        results.keep(result)
    except Exception as error:  # noqa: BLE001 - sorted there
        failure = _sorted(error, order)
        journal.write(
            "failed", step=order.step, key=order.key, item=order.item, reason=failure.reason,
            passing=isinstance(failure, Passing), seconds=round(time.monotonic() - begun, 3),
        )  # fmt: skip
        raise failure from None
    finally:
        fingerprints.close()
    ending = "refused" if result.refused else "done"
    journal.write(
        ending, step=order.step, key=order.key, item=order.item, seconds=result.seconds, facts=result.facts,
        reasons=result.refused,
    )  # fmt: skip
    return result


def _called(body: Body, order: Order, fingerprints: Fingerprints, begun: float) -> Result:
    try:
        work = Work(order)
        made = body(order, work)
        work.end()
    except GateRefused as refusal:
        lines = [line.removeprefix("  - ") for line in str(refusal).splitlines()]
        reasons = tuple(clean(line, order.sources) for line in (lines[1:] or lines))
        return Result(order.step, order.key, refused=reasons, seconds=round(time.monotonic() - begun, 3))

    base = order.base.absolute()

    def below(path: Path) -> str:
        return path.absolute().relative_to(base).as_posix()

    return Result(
        step=order.step,
        key=order.key,
        outputs=tuple(Output(below(path), fingerprints.of(path)) for path in made.outputs),
        facts=made.facts,
        seconds=round(time.monotonic() - begun, 3),
        pages=tuple(below(page) for page in made.pages),
        pictures=tuple(below(picture) for picture in made.pictures),
    )


def _sorted(error: Exception, order: Order) -> StepFailed:
    """The error as what may be told, and as passing or not."""
    if isinstance(error, StepFailed):
        return error
    text = clean(str(error), order.sources)
    number = _errno(error)
    if isinstance(error, MedidiffError):
        passing = isinstance(error, OutputError | OSError) or number is not None
        return (Passing if passing and number in _PASSING else StepFailed)(text, error.exit_code)
    if isinstance(error, OSError):
        why = f"{type(error).__name__}: {error.strerror or 'no reason given'}"
        return Passing(why) if number in _PASSING or isinstance(error, TimeoutError) else StepFailed(why)
    if isinstance(error, MemoryError):
        return StepFailed("out of memory; give the machine more, or take fewer workers", EXIT_FAILURE)
    return StepFailed(f"ended in {type(error).__name__}; please report it", EXIT_FAILURE)


def _errno(error: BaseException | None) -> int | None:
    """The system's number of what went wrong, in the error or what it came from."""
    while error is not None:
        if isinstance(error, OSError) and error.errno is not None:
            return error.errno
        error = error.__cause__
    return None
