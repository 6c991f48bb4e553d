"""A run of a flow: its place in the state folder, its steps one after the other, and how it ends."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, Self, TypeVar

from prefect import State, Task
from prefect.futures import PrefectFuture
from prefect.states import Completed, Failed

from flows.engine.journal import Journal
from flows.engine.keys import Fingerprints, code_digest, step_key
from flows.engine.results import Result, Results
from flows.engine.runners import task_runner
from flows.engine.steps import Order, StepFailed
from medidiff.config import Config, config_digest
from medidiff.errors import EXIT_FAILURE
from medidiff.ledger import Failure, Ledger, RunRecord, StepRecord, boot_id, now
from medidiff.unattended import FlowConfig

P = TypeVar("P", bound=FlowConfig)

# So many items for each worker are with the task runner at a time: enough to keep it busy, few enough for a million.
_AHEAD = 4


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
                self._note(StepRecord(call.name, "failed", key, failed=1, reasons=(failure.reason,)))
                raise
            status = "done"
        else:
            self.journal.write("cached", step=call.name, key=key, facts=result.facts)
        if result.refused:
            status = "refused"
        self._note(StepRecord(call.name, status, key, result.seconds, facts=result.facts, reasons=result.refused))
        if result.refused:
            raise Refused
        return result

    def fan_out(
        self, call: Task[[Order], Result], items: Iterable[Item], keyed: Callable[[Item], str]
    ) -> Iterator[tuple[Item, Result]]:
        """Do a step for each of many items, as many at a time as the runner has workers.

        An item that fails is noted with its reason, and the others have their turn.

        Yields:
            Items with their results, as they come; those that were done before come first of their turn.
        """
        counts: dict[str, Any] = {"done": 0, "cached": 0, "failed": 0}
        seconds = 0.0
        call = self._configured(call)
        waiting: deque[tuple[Item, PrefectFuture[Result]]] = deque()
        with _LazyRunner(self.plan) as runner:
            for item in (*items, None):
                while waiting and (item is None or len(waiting) >= _AHEAD * self.plan.runner.workers):
                    first, future = waiting.popleft()
                    result = self._awaited(call.name, first, future)
                    counts["failed" if result is None else "done"] += 1
                    if result is not None:
                        seconds += result.seconds
                        yield first, result
                if item is None:
                    break
                key = keyed(item)
                known = self.results.find(call.name, key, item.base, self.fingerprints)
                if known is not None:
                    counts["cached"] += 1
                    yield item, known
                    continue
                root, run = self.ledger.root, self.record.run
                order = Order(call.name, key, root, run, item.base, item.arguments, item.sources, item.token)
                waiting.append((item, runner.submit(call, {"order": order})))
        status = "done" if counts["done"] or counts["failed"] else "cached"
        self._note(StepRecord(call.name, status, "", round(seconds, 3), **counts))

    def fail(self, name: str, item: str, reason: str) -> None:
        """Note an item that came to nothing."""
        self.journal.write("item-failed", step=name, item=item, reason=reason)
        self.save(failures=(*self.record.failures, Failure(name, item, reason)))

    def end(self) -> State[Any]:
        """The state of a run whose function came to its end."""
        count = len(self.record.failures)
        if not count:
            return self._ended("completed", Completed(message=self._words()))
        text = f"{self._words()}; {count} failed"
        return self._ended("completed-with-failures", Completed(name="CompletedWithFailures", message=text))

    def end_refused(self) -> State[Any]:
        """The state of a run that a gate has ended: nothing went wrong, and nothing goes out."""
        reasons = self.record.steps[-1].reasons
        return self._ended("refused", Completed(name="Refused", message=f"refused, {len(reasons)} reasons"))

    def end_failed(self, reason: str, exit_code: int = EXIT_FAILURE) -> State[Any]:
        """The state of a run one of whose steps came to nothing."""
        self.journal.write("error", reason=reason, exit_code=exit_code)
        return self._ended("failed", Failed(message=reason))

    def _ended(self, status: Any, state: State[Any]) -> State[Any]:
        self.save(status=status, message=state.message or "", ended=now())
        self.journal.write("end", status=status, message=state.message)
        return state

    def _words(self) -> str:
        # A step with a key is one thing; without, its items count.
        done = sum(step.status == "done" if step.key else step.done for step in self.record.steps)
        cached = sum(step.status == "cached" if step.key else step.cached for step in self.record.steps)
        return f"{done} done, {cached} done before"

    def _awaited(self, name: str, item: Item, future: PrefectFuture[Result]) -> Result | None:
        future.wait()
        if future.state.is_completed():
            return future.result()
        failure = future.state.result(raise_on_failure=False)
        reason = failure.reason if isinstance(failure, StepFailed) else "the worker that had it died or was stopped"
        self.fail(name, item.token, reason)
        return None

    def _configured(self, call: Task[[Order], Result]) -> Task[[Order], Result]:
        waits = [self.plan.retry_seconds * 2**number for number in range(self.plan.retries)]
        if not waits:
            return call
        return call.with_options(retries=self.plan.retries, retry_delay_seconds=waits)

    def _note(self, step: StepRecord) -> None:
        self.save(steps=(*self.record.steps, step))


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
        if self._runner is not None:
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
