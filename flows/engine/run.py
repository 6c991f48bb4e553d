"""A run of a flow: its place in the state folder, its steps one after the other, and how it ends."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, Self, TypeVar

from prefect import State, Task
from prefect.futures import PrefectFuture
from prefect.states import Completed, Failed

from flows.engine.artifacts import Progress, publish
from flows.engine.journal import Journal
from flows.engine.keys import Fingerprints, code_digest, step_key
from flows.engine.results import Result, Results
from flows.engine.runners import outcome_of, task_runner
from flows.engine.steps import Order, StepFailed, stopping
from medidiff.config import Config, config_digest
from medidiff.errors import EXIT_FAILURE
from medidiff.ledger import MOST_FAILURES, Failure, Ledger, RunRecord, StepRecord, boot_id, now
from medidiff.unattended import FlowConfig

P = TypeVar("P", bound=FlowConfig)

# So many items for each worker are with the task runner at a time: enough to keep it busy, few enough for a million.
_AHEAD = 4
_NOTE_SECONDS = 5.0
# Pages and reasons that are told of in one place; all of them are in the records.
_MOST_TOLD = 20


@dataclass(frozen=True, slots=True)
class Item:
    """One of many: what its step is to be given.

    Args:
        token: What it may be called.
        inputs: Hash of its content.
        base: Folder of what comes of it.
        arguments, sources: As of ``Order``.
    """

    token: str
    inputs: str
    base: Path
    arguments: dict[str, Any]
    sources: tuple[str, ...] = ()


class Refused(Exception):
    """A gate refused, and nothing of the flow can follow."""


class Run(Generic[P]):
    """What a flow's function is given.

    Args:
        plan: The configuration.
        ledger: Of its state folder.
        record: As the run begins.
    """

    def __init__(self, plan: P, ledger: Ledger, record: RunRecord) -> None:
        self.plan = plan
        self.ledger = ledger
        self.record = record
        self.journal = Journal(ledger.root, record.run)
        self.fingerprints = Fingerprints(ledger.root)
        self.results = Results(ledger.root)
        self.failed = 0
        self._shown: list[tuple[Path, Result]] = []

    def save(self, **changes: Any) -> None:
        """Note something about the run, on disk."""
        self.record = replace(self.record, **changes)
        self.ledger.write(self.record)

    def key(self, name: str, module: str, config: Config | str, inputs: str) -> str:
        """The key of a step: see ``keys.step_key``; the code is that of the use case in ``module``."""
        return step_key(name, inputs=inputs, config=config, code=code_digest(module))

    def step(
        self, call: Task[[Order], Result], key: str, base: Path, arguments: dict[str, Any], sources: Iterable[str] = ()
    ) -> Result:
        """Do one step, in this thread, unless it was done before.

        Raises:
            StepFailed: it came to nothing.
            Refused: a gate refused.
        """
        result = self.results.find(call.name, key, base, self.fingerprints)
        status = "cached"
        if result is None:
            order = Order(call.name, key, self.ledger.root, self.record.run, base, arguments, tuple(sources))
            try:
                result = self._configured(call)(order)
            except StepFailed as failure:
                self.note(StepRecord(call.name, "failed", key, failed=1, reasons=(failure.reason,)))
                raise
            status = "done"
        else:
            self.journal.write("cached", step=call.name, key=key, facts=result.facts)
        if result.refused:
            status = "refused"
        self.note(StepRecord(call.name, status, key, result.seconds, facts=result.facts, reasons=result.refused))
        self._show(base, result)
        if result.refused:
            raise Refused
        return result

    def fan_out(
        self, call: Task[[Order], Result], items: Iterable[Item], keyed: Callable[[Item], str], total: int = 0
    ) -> Iterator[tuple[Item, Result]]:
        """Do a step for each of many items, as many at a time as the runner has workers.

        An item that fails is noted with its reason, and the others have their turn. ``total`` is for the bar alone.

        Yields:
            Items with their results; those that were done before come as soon as they are looked at.
        """
        tally = _Tally(self, call.name, total)
        call = self._configured(call)
        waiting: deque[tuple[Item, PrefectFuture[Result]]] = deque()
        with _LazyRunner(self.plan) as runner:
            for item in items:
                key = keyed(item)
                known = self.results.find(call.name, key, item.base, self.fingerprints)
                if known is not None:
                    tally.count("cached")
                    yield item, known
                    continue
                root, run = self.ledger.root, self.record.run
                order = Order(call.name, key, root, run, item.base, item.arguments, item.sources, item.token)
                waiting.append((item, runner.submit(call, {"order": order})))
                if len(waiting) >= _AHEAD * self.plan.runner.workers:
                    yield from self._awaited(tally, *waiting.popleft())
            while waiting:
                yield from self._awaited(tally, *waiting.popleft())
        tally.end()

    def fail(self, name: str, item: str, reason: str) -> None:
        """Note an item that came to nothing."""
        self.failed += 1
        self.journal.write("item-failed", step=name, item=item, reason=reason)
        if self.failed <= MOST_FAILURES:
            self.save(failures=(*self.record.failures, Failure(name, item, reason)))

    def end(self) -> State[Any]:
        """The state of a run whose function came to its end."""
        if not self.failed:
            return self._ended("completed", Completed(message=self._words()))
        text = f"{self._words()}; {self.failed} failed"
        return self._ended("completed-with-failures", Completed(name="CompletedWithFailures", message=text))

    def end_refused(self) -> State[Any]:
        """The state of a run that a gate has ended: nothing went wrong, and nothing goes out."""
        reasons = [reason for step in self.record.steps if step.status == "refused" for reason in step.reasons]
        text = f"{self._words()}; refused: {'; '.join(reasons[:_MOST_TOLD])}"
        if len(reasons) > _MOST_TOLD:
            text += f"; and {len(reasons) - _MOST_TOLD} more"
        return self._ended("refused", Completed(name="Refused", message=text))

    def end_failed(self, reason: str, exit_code: int = EXIT_FAILURE) -> State[Any]:
        """The state of a run one of whose steps came to nothing."""
        self.journal.write("error", reason=reason, exit_code=exit_code)
        return self._ended("failed", Failed(message=reason))

    def _ended(self, status: Any, state: State[Any]) -> State[Any]:
        self.save(status=status, message=state.message or "", ended=now())
        self.journal.write("end", status=status, message=state.message)
        publish(self.record, self._shown)
        return state

    def _show(self, base: Path, result: Result) -> None:
        if (result.pages or result.pictures) and len(self._shown) < _MOST_TOLD:
            self._shown.append((base, result))

    def _words(self) -> str:
        # A step with a key is one thing; without, its items count.
        done = sum(step.status == "done" if step.key else step.done for step in self.record.steps)
        cached = sum(step.status == "cached" if step.key else step.cached for step in self.record.steps)
        return f"{done} done, {cached} done before"

    def _awaited(self, tally: _Tally, item: Item, future: PrefectFuture[Result]) -> Iterator[tuple[Item, Result]]:
        """The result of an item, if it came to one."""
        outcome = outcome_of(future)
        if isinstance(outcome, Result):
            tally.count("done", outcome.seconds)
            self._show(item.base, outcome)
            yield item, outcome
            return
        reason = outcome.reason if isinstance(outcome, StepFailed) else "the worker that had it died or was stopped"
        tally.count("failed")
        self.fail(tally.name, item.token, reason)

    def _configured(self, call: Task[[Order], Result]) -> Task[[Order], Result]:
        waits = [self.plan.retry_seconds * 2**number for number in range(self.plan.retries)]
        if not waits:
            return call
        return call.with_options(retries=self.plan.retries, retry_delay_seconds=waits)

    def note(self, step: StepRecord) -> None:
        """Note how a step stands; what was noted while it ran gives way."""
        steps = self.record.steps
        before = steps[:-1] if steps and steps[-1].status == "running" else steps
        self.save(steps=(*before, step))


class _Tally:
    """Counts of a step that fans out; they are on disk every few seconds, for whoever looks."""

    def __init__(self, run: Run[Any], name: str, total: int) -> None:
        self.name = name
        self._run = run
        self._total = total
        self._counts: dict[str, Any] = {"done": 0, "cached": 0, "failed": 0}
        self._seconds = 0.0
        self._bar = Progress(name)
        self._noted = time.monotonic()

    def count(self, what: str, seconds: float = 0.0) -> None:
        self._counts[what] += 1
        self._seconds += seconds
        self._bar.move(sum(self._counts.values()), self._total)
        if time.monotonic() - self._noted > _NOTE_SECONDS:
            self._noted = time.monotonic()
            self._note("running")

    def end(self) -> None:
        if self._counts["failed"]:
            self._note("done-with-failures" if self._counts["done"] or self._counts["cached"] else "failed")
        else:
            self._note("done" if self._counts["done"] else "cached")

    def _note(self, status: str) -> None:
        self._run.note(StepRecord(self.name, status, "", round(self._seconds, 3), **self._counts))


class _LazyRunner:
    """A task runner that is started when the first item needs it: a run with nothing to do starts no cluster."""

    def __init__(self, plan: FlowConfig) -> None:
        self._plan = plan
        self._runner: Any = None

    def __enter__(self) -> Self:
        return self

    def submit(self, call: Task[[Order], Result], parameters: dict[str, Any]) -> PrefectFuture[Result]:
        if self._runner is None:
            self._runner = task_runner(self._plan.runner)
            self._runner.__enter__()
        future: PrefectFuture[Result] = self._runner.submit(call, parameters)
        return future

    def __exit__(self, *why: object) -> None:
        if self._runner is None:
            return
        if why[0] is not None:
            stopping.set()  # or the threads would have to be waited for
        self._runner.__exit__(*why)


def begin(flow: str, config: str, plan: FlowConfig, run: str, flow_run: str, attempt: int) -> RunRecord:
    """The record of a run as it begins."""
    return RunRecord(
        run=run,
        flow=flow,
        config=config,
        config_digest=config_digest(plan),
        flow_run=flow_run,
        attempt=attempt,
        pid=os.getpid(),
        boot=boot_id(),
        started=now(),
    )
