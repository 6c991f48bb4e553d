"""Runs that were killed: their records say so, Prefect is told, their slots are free, and scheduled ones begin again.

A process that is killed with -9 tells nobody, and Prefect believes for ever that it is running. The lock of the state
folder knows better: the system lets go of it when the process ends.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowFilter,
    FlowFilterName,
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterState,
    FlowRunFilterStateType,
    TaskRunFilter,
    TaskRunFilterState,
    TaskRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.states import Crashed, Scheduled

from medidiff.ledger import Ledger, RunRecord, now

# Flows by their names in Prefect.
FLOWS = ("ingest", "train", "reconstruct", "synthesize-and-release", "nightly")
# A run that dies this often dies of itself; somebody must look.
MOST_ATTEMPTS = 4
# What was not picked up for so long is for the next night.
_WORTH_WHILE = timedelta(hours=24)
# From Prefect's "running" to a record on disk a run imports torch and waits for the lock.
_BEGINS_WITHIN = timedelta(seconds=60)
_PAGE = 100


def mark_gone(ledger: Ledger) -> list[RunRecord]:
    """Note on disk which runs are over because nobody holds the lock for them."""
    gone = ledger.abandoned()
    for record in gone:
        ledger.write(replace(record, status="crashed", message="its process is gone", ended=now()))
    return gone


def reconcile(ledgers: Sequence[Ledger], *, pick_up: bool = False, wait_seconds: float = 60.0) -> dict[str, int]:
    """Bring records and Prefect into line with what is really running.

    Args:
        ledgers: State folders, whose runs are looked at.
        pick_up: Schedule runs of deployments that crashed, to begin at once.
        wait_seconds: How long a run may wait for a lock, unseen.
    Returns:
        How many runs were found ``crashed``, and how many ``picked_up``.
    """
    for ledger in ledgers:
        mark_gone(ledger)
    records = _by_flow_run(ledgers)
    counts = {"crashed": 0, "picked_up": 0}
    with get_client(sync_client=True) as client:
        for flow_run in _in_state(client, StateType.RUNNING, StateType.PENDING):
            if _is_dead(flow_run, records.get(str(flow_run.id), []), wait_seconds):
                _crash(client, flow_run)
                counts["crashed"] += 1
        if pick_up:
            for flow_run in _in_state(client, StateType.CRASHED):
                if _again(flow_run, records.get(str(flow_run.id), [])):
                    client.set_flow_run_state(flow_run.id, Scheduled(name="AwaitingRetry"), force=True)
                    counts["picked_up"] += 1
    return counts


def _by_flow_run(ledgers: Iterable[Ledger]) -> dict[str, list[RunRecord]]:
    """Records by Prefect's id, the latest first."""
    found: dict[str, list[RunRecord]] = {}
    for ledger in ledgers:
        for record in ledger.runs():
            found.setdefault(record.flow_run, []).append(record)
    return found


def _in_state(client: SyncPrefectClient, *types: StateType) -> list[FlowRun]:
    found: list[FlowRun] = []
    chosen = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=list(types))))
    ours = FlowFilter(name=FlowFilterName(any_=list(FLOWS)))
    while len(page := client.read_flow_runs(flow_filter=ours, flow_run_filter=chosen, limit=_PAGE, offset=len(found))):
        found += page
        if len(page) < _PAGE:
            break
    return found


def _is_dead(flow_run: FlowRun, records: list[RunRecord], wait_seconds: float) -> bool:
    since = flow_run.state.timestamp if flow_run.state else None
    if since is None:
        return False
    if records and datetime.fromisoformat(records[0].started) >= since:
        # The record belongs to this attempt. Between its end and Prefect's there are moments only.
        ended = records[0].ended
        return bool(ended) and datetime.now(UTC) - datetime.fromisoformat(ended) > timedelta(
            seconds=0 if records[0].message == "its process is gone" else 30
        )
    return datetime.now(UTC) - since > _BEGINS_WITHIN + timedelta(seconds=wait_seconds)


def _crash(client: SyncPrefectClient, flow_run: FlowRun) -> None:
    client.set_flow_run_state(flow_run.id, Crashed(message="its process is gone"), force=True)
    going = TaskRunFilter(
        state=TaskRunFilterState(type=TaskRunFilterStateType(any_=[StateType.RUNNING, StateType.PENDING]))
    )
    here = FlowRunFilter(id=FlowRunFilterId(any_=[UUID(str(flow_run.id))]))
    for task_run in client.read_task_runs(flow_run_filter=here, task_run_filter=going, limit=_PAGE):
        client.set_task_run_state(task_run.id, Crashed(message="its process is gone"), force=True)


def _again(flow_run: FlowRun, records: list[RunRecord]) -> bool:
    """Whether a crashed run is to begin again: it has a deployment, was begun here, and has not died too often."""
    if flow_run.deployment_id is None or flow_run.state is None:
        return False
    recent = datetime.now(UTC) - flow_run.state.timestamp < _WORTH_WHILE
    attempts = max(len(records), flow_run.run_count)
    return recent and attempts < MOST_ATTEMPTS
