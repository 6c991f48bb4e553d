"""Runs on a schedule, a tenth of which is struck: every one ends rightly, and soon.

Prefect's server makes the runs by an interval and gives out the deployment's one slot. The worker is ours: it takes
what is due, as Prefect's process worker does, but forks instead of starting Python anew. A look at dead runs every few
seconds is what ``flows.serve`` does every minute.
"""

from __future__ import annotations

import json
import os
import random
import signal
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any

from tests.stress import checks
from tests.stress.kills import fresh
from tests.stress.processes import Kill, forked
from tests.stress.scenarios import SCENARIOS, left, thick_scan

SHARE_STRUCK = 0.1
LOOK_EVERY_SECONDS = 5.0
PICKED_UP_WITHIN_SECONDS = 120.0
ENDS_WITHIN_SECONDS = 1800.0
SLOTS = 1


@dataclass
class Tally:
    """What became of the runs: whose turn it is to be struck, when each was, and how long until it was taken again."""

    wanted: int
    turns: list[int] = field(default_factory=list)
    struck: dict[str, float] = field(default_factory=dict)
    picked_up: list[float] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


def ask(method: str, path: str, body: Any = None) -> Any:
    """One call of Prefect's REST interface, tried again where its database is busy, as Prefect's own client does."""
    data = None if body is None else json.dumps(body).encode()
    address = f"{os.environ['PREFECT_API_URL']}{path}"
    request = urllib.request.Request(address, data, {"Content-Type": "application/json"}, method=method)
    for wait in (1, 2, 4, 8, 16, 32):
        try:
            with urllib.request.urlopen(request, timeout=300) as answer:
                text = answer.read()
            return json.loads(text) if text else None
        except urllib.error.HTTPError as error:
            if error.code != HTTPStatus.SERVICE_UNAVAILABLE:
                raise
            time.sleep(wait)
    raise RuntimeError("Prefect's database is busy for minutes")


def scheduled(work: Path, *, runs: int, seed: int, every_seconds: float) -> Tally:
    """Let that many scheduled runs come, each with a new scan to restore."""
    rng = random.Random(seed)
    scenario = SCENARIOS["reconstruct"]
    folder = fresh(scenario, work)
    deployment = _deploy(every_seconds)
    turns = sorted(rng.sample(range(1, runs - runs // 20 + 1), round(SHARE_STRUCK * runs)))
    tally, begun, looked, taken = Tally(runs, turns), time.monotonic(), 0.0, set()
    while time.monotonic() - begun < ENDS_WITHIN_SECONDS:
        due = ask(
            "POST",
            "/deployments/get_scheduled_flow_runs",
            {"deployment_ids": [deployment], "scheduled_before": _soon()},
        )
        # One at a time, so that dead runs are looked for between any two; whoever was made due again comes first.
        for flow_run in sorted(due, key=lambda flow_run: flow_run["id"] not in taken):
            fresh_one = flow_run["id"] not in taken
            if fresh_one and len(taken) == runs:
                continue  # the schedule goes on, and nobody takes what comes after the last
            if not _accepted(flow_run["id"]):
                time.sleep(0.5)
                break  # the slot is not free
            taken.add(flow_run["id"])
            if not fresh_one and flow_run["id"] in tally.struck:
                tally.picked_up.append(time.time() - tally.struck[flow_run["id"]])
            _take(flow_run["id"], folder, rng if fresh_one else None, tally, len(taken))
            break
        if time.monotonic() - looked > LOOK_EVERY_SECONDS:
            looked = time.monotonic()
            _look(folder)
            if len(taken) == runs and _all_over(deployment, taken):
                break
    _judge(deployment, taken, folder, tally)
    return tally


def _deploy(every_seconds: float) -> str:
    flow = ask("POST", "/flows/", {"name": "reconstruct"})["id"]
    interval = {"interval": every_seconds, "anchor_date": datetime.now(UTC).isoformat()}
    deployment = ask(
        "POST",
        "/deployments/",
        {
            "name": "stress",
            "flow_id": flow,
            "parameters": {"config": "reconstruct"},
            "schedules": [{"schedule": interval, "active": True}],
            "concurrency_limit": SLOTS,
            "concurrency_options": {"collision_strategy": "ENQUEUE"},
            "entrypoint": "flows/reconstruct.py:reconstruct",
        },
    )
    return str(deployment["id"])


def _soon() -> str:
    return datetime.now(UTC).isoformat()


def _accepted(flow_run: str) -> bool:
    """Ask for the slot, as a worker does."""
    answer = ask("POST", f"/flow_runs/{flow_run}/set_state", {"state": {"type": "PENDING"}})
    return bool(answer["status"] == "ACCEPT")


def _take(flow_run: str, folder: Path, rng: random.Random | None, tally: Tally, number: int) -> None:
    """Run; one in ten is struck somewhere. For a blow that came after the end of a run the next one is struck."""
    kill = None
    if rng is not None:
        thick_scan(folder / "in" / f"n{number}.nii.gz", 1000 + number)
        if len(tally.struck) < sum(turn <= number for turn in tally.turns):
            kind = rng.choice(("event", "event", "time"))
            when = rng.randint(1, 90) if kind == "event" else rng.uniform(0.2, 4)
            kill = Kill(kind, when, rng.choice((signal.SIGKILL, signal.SIGKILL, signal.SIGTERM)))
    ended = forked(lambda: _run(flow_run, folder), folder, kill)
    if kill is not None and ended.code != 0:
        tally.struck[flow_run] = time.time()
    elif ended.code != 0:
        tally.faults.append(f"a run that nobody struck ended with {ended.code}: {ended.log[-300:]}")


def _run(flow_run: str, folder: Path) -> int:
    """What the process of a worker runs."""
    from uuid import UUID

    from prefect.client.orchestration import get_client
    from prefect.flow_engine import run_flow

    from flows.engine.environment import CONFIGS
    from flows.reconstruct import reconstruct

    os.environ[CONFIGS] = str(folder / "configs")
    with get_client(sync_client=True) as client:
        told = client.read_flow_run(UUID(flow_run))
    state = run_flow(reconstruct, flow_run=told, parameters=told.parameters, return_type="state")
    return 0 if state is not None and state.is_completed() else 1


def _look(folder: Path) -> None:
    def look() -> int:
        from flows.engine.reconcile import reconcile
        from medidiff.ledger import Ledger

        print(reconcile([Ledger(folder / "state")], pick_up=True, wait_seconds=0))
        return 0

    if (folder / "state" / "runs").is_dir():
        forked(look, folder)


def _all_over(deployment: str, taken: set[str]) -> bool:
    return all(
        run["state_type"] in ("COMPLETED", "FAILED", "CANCELLED") for run in _runs(deployment) if run["id"] in taken
    )


def _runs(deployment: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    body = {"deployments": {"id": {"any_": [deployment]}}, "sort": "EXPECTED_START_TIME_ASC", "limit": 200}
    while page := ask("POST", "/flow_runs/filter", {**body, "offset": len(found)}):
        found += page
    return found


def _judge(deployment: str, taken: set[str], folder: Path, tally: Tally) -> None:
    """Every run completed, every scan restored, nothing half done, no slot held, no run said to be running."""
    states = {run["id"]: run["state_type"] for run in _runs(deployment)}
    tally.faults += [f"a run ended as {states.get(each)}" for each in sorted(taken) if states.get(each) != "COMPLETED"]
    if len(tally.struck) < len(tally.turns):
        tally.faults.append(f"{len(tally.struck)} of {len(tally.turns)} runs were struck")
    if len(taken) < tally.wanted:
        tally.faults.append(f"{len(taken)} of {tally.wanted} runs came")
    scans, restored = (
        len(list((folder / "in").glob("*.nii.gz"))),
        len(list((folder / "out").glob("????????????????.nii.gz"))),
    )
    if scans != restored:
        tally.faults.append(f"{restored} of {scans} scans restored")
    tally.faults += checks.after_death(SCENARIOS["reconstruct"], folder, left(folder))
    tally.faults += [
        f"picked up after {seconds:.0f} s" for seconds in tally.picked_up if seconds > PICKED_UP_WITHIN_SECONDS
    ]
    limits = ask("POST", "/v2/concurrency_limits/filter", {"limit": 200})
    tally.faults += [f"{each['active_slots']} slots are held" for each in limits if each["active_slots"]]
