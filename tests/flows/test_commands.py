"""The flows as commands: no set-up, no network, no names, and whatever is done to the process."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from flows.serve import POOL
from medidiff.io import write_volume
from medidiff.ledger import Ledger
from medidiff.volume import Volume
from tests.flows.told import calls, last
from tests.ingest import heaps

CANARY = "Kanarienvogel"
REPOSITORY = Path(__file__).parents[2]


def environment() -> dict[str, str]:
    """That of somebody who has set nothing up."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT", "DO_NOT_TRACK"))}
    return kept | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}


def offline() -> list[str]:
    """Run what follows in a network of its own in which only this machine answers, where that is allowed."""
    words = ["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
    there = shutil.which("unshare") and shutil.which("ip")
    if there and subprocess.run([*words, "true"], capture_output=True, check=False).returncode == 0:
        return words
    return []


def until(true: Callable[[], bool], process: subprocess.Popen[bytes], seconds: float = 240) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert process.poll() is None, f"the flow ended too early: {process.returncode}"
        assert time.monotonic() < deadline, "nothing happens"
        time.sleep(0.02)


def test_once_needs_no_setup_no_network_and_names_nobody(tmp_path: Path) -> None:
    source = tmp_path / f"{CANARY}_export"
    heaps.series(source / f"{CANARY}^Anna", f"{CANARY}-4711", seed=1)
    (source / f"{CANARY}.nii.gz").write_bytes(b"no volume")
    (source / f"{CANARY}.dcm").write_bytes(next(source.rglob("*.dcm")).read_bytes()[:2000])
    (tmp_path / "data").mkdir()
    options = "{kind: ingest, body_part: other, clean_pixels: false}"
    site = f"{{name: ward, sources: [{source}], dataset: {tmp_path}/data/ward, options: {options}}}"
    lost = f"{{name: lost, sources: [{source}/{CANARY}-gone], dataset: {tmp_path}/data/lost}}"
    config = tmp_path / "sites.yaml"
    config.write_text(f"kind: flow-ingest\nstate: {tmp_path}/state\nretries: 0\nsites: [{site}, {lost}]\n")
    home = tmp_path / "home"
    home.mkdir()

    command = [*offline(), sys.executable, "-m", "flows.ingest", "--once", str(config)]
    done = subprocess.run(command, env=environment() | {"HOME": str(home)}, capture_output=True, cwd=home, check=False)
    assert done.returncode == 3, done.stderr.decode()
    record = last(tmp_path / "state")
    assert record.steps[0].done == 1
    assert [(failure.item, failure.reason) for failure in record.failures] == [
        ("lost", "[source]: there is no such file or folder")
    ]
    assert (tmp_path / "state" / "prefect" / "prefect.db").is_file()
    # matplotlib keeps its fonts in a home; Prefect has nothing there.
    assert not list(home.rglob("*refect*"))
    told = done.stdout + done.stderr
    for name in (CANARY, CANARY.upper(), CANARY.lower()):
        assert name.encode() not in told
        found = [
            path for path in (tmp_path / "state").rglob("*") if path.is_file() and name.encode() in path.read_bytes()
        ]
        assert not found


def write_scans(folder: Path, head: Volume, count: int) -> None:
    folder.mkdir()
    for number in range(count):
        write_volume(Volume(head.data + np.float32(number), head.geometry, head.modality), folder / f"{number}.nii.gz")


@pytest.fixture
def config(tmp_path: Path, small_head: Volume) -> Path:
    write_scans(tmp_path / "scans", small_head, 40)
    path = tmp_path / "restore.yaml"
    path.write_text(
        f"kind: flow-reconstruct\nstate: {tmp_path}/state\nsource: {{kind: folder, folder: {tmp_path}/scans}}\n"
        f"output: {tmp_path}/out\noptions: {{fast: true}}\nrunner: {{kind: threads, workers: 1}}\n"
    )
    return path


def start(config: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-m", "flows.reconstruct", "--once", str(config)], env=environment())


def results(state: Path) -> int:
    """Steps that are done; a file that is half written has a name of its own."""
    return len(list((state / "results").rglob("[0-9a-f]*.json")))


def states_in_prefect(state: Path) -> list[str]:
    with sqlite3.connect(state / "prefect" / "prefect.db") as database:
        return [row[0] for row in database.execute("SELECT state_type FROM flow_run ORDER BY created")]


@pytest.mark.slow
def test_a_run_that_is_killed_is_told_as_crashed_and_gone_on_with(config: Path, tmp_path: Path) -> None:
    state = tmp_path / "state"
    before = children_marked()
    process = start(config)
    until(lambda: results(state) >= 3, process)
    process.kill()
    process.wait()
    done = results(state)
    assert last(state).status == "running"
    assert [record.run for record in Ledger(state).abandoned()] == [last(state).run]
    deadline = time.monotonic() + 30
    while children_marked() - before:  # Prefect's server goes as well
        assert time.monotonic() < deadline, "a process outlived its run"
        time.sleep(0.1)

    # Somebody holds SQLite's write lock for some seconds while the next run begins.
    process = start(config)
    until(lambda: last(state).status == "running" and len(list(Ledger(state).runs())) == 2, process)
    holder = sqlite3.connect(state / "prefect" / "prefect.db", timeout=60, check_same_thread=False)
    holder.execute("BEGIN IMMEDIATE")
    release = threading.Timer(5, holder.rollback)
    release.start()
    assert process.wait(300) == 0
    release.join()
    holder.close()
    second, first = Ledger(state).runs()
    assert (first.status, second.status) == ("crashed", "completed")
    assert calls(state)["reconstruct"] == 40 - done
    assert second.steps[0].cached == done
    assert states_in_prefect(state) == ["CRASHED", "COMPLETED"]
    assert len(list((tmp_path / "out").glob("*.nii.gz"))) == 40


def children_marked() -> set[int]:
    """Processes that carry the mark of a run."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if b"MEDIDIFF_RUN_MARK=" in (entry / "environ").read_bytes():
                    found.add(int(entry.name))
            except OSError:
                continue
    return found


@pytest.mark.slow
def test_a_run_that_is_asked_to_end_ends_and_leaves_nothing_half_done(config: Path, tmp_path: Path) -> None:
    state = tmp_path / "state"
    process = start(config)
    until(lambda: results(state) >= 2, process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 130
    assert last(state).status == "crashed"
    assert Ledger(state).at_work() is None
    assert states_in_prefect(state) in (["CRASHED"], ["CANCELLED"])
    assert not list(tmp_path.rglob(".medidiff-*"))
    assert len(list((tmp_path / "out").glob("*.nii.gz"))) < 40


class Served:
    """``python -m flows.serve`` with one deployment of the reconstruct flow."""

    def __init__(self, config: Path, schedules: str) -> None:
        self.state = config.parent / "state"
        file = config.parent / "prefect.yaml"
        file.write_text(
            "name: test\ndeployments:\n  - name: here\n"
            f"    entrypoint: {REPOSITORY}/flows/reconstruct.py:reconstruct\n"
            f"    parameters: {{config: restore}}\n    schedules: {schedules}\n"
            "    concurrency_limit: {limit: 1, collision_strategy: ENQUEUE}\n    work_pool: {name: medidiff}\n"
        )
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        places = ["--file", str(file), "--state", str(self.state), "--port", str(self.port)]
        told = environment() | {"MEDIDIFF_CONFIGS": str(config.parent)}
        command = [sys.executable, "-m", "flows.serve", *places]
        self.process = subprocess.Popen(command, env=told, cwd=REPOSITORY)

    def end(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(120) == 0

    def prefect(self, *words: str) -> None:
        """One command of Prefect's against this server."""
        told = environment() | {
            "PREFECT_API_URL": f"http://127.0.0.1:{self.port}/api",
            "PREFECT_HOME": str(self.state / "prefect"),
        }
        subprocess.run([sys.executable, "-m", "prefect", *words], env=told, check=True, capture_output=True)

    def ended(self) -> list[str]:
        """How runs ended that are over, the latest first."""
        return [run.status for run in Ledger(self.state).runs() if run.ended]


@pytest.mark.slow
def test_a_served_flow_fires_on_its_schedule(config: Path, tmp_path: Path) -> None:
    served = Served(config, "[{cron: '* * * * *'}]")
    try:
        until(lambda: (served.state / "runs").is_dir() and bool(served.ended()), served.process, 600)
    finally:
        served.end()
    assert served.ended()[-1] == "completed"
    assert len(list((tmp_path / "out").glob("*.nii.gz"))) == 40


@pytest.mark.slow
def test_a_served_run_that_is_killed_is_picked_up_by_the_worker(config: Path, tmp_path: Path) -> None:
    """Prefect's own process worker takes the run, and takes it again: no slot was held, nothing done is done again."""
    served, state = Served(config, "[]"), tmp_path / "state"
    try:
        until(lambda: POOL in pools(state), served.process, 600)
        served.prefect("deployment", "run", "reconstruct/here")
        until(lambda: results(state) >= 3, served.process, 600)
        os.kill(last(state).pid, signal.SIGKILL)
        killed, done = datetime.now(UTC), results(state)
        until(lambda: states_in_prefect(state) == ["COMPLETED"], served.process, 600)
    finally:
        served.end()
    second, first = Ledger(state).runs()
    picked_up = (datetime.fromisoformat(second.started) - killed).total_seconds()
    print(f"picked up after {picked_up:.0f} s")
    assert (first.status, first.flow_run, second.attempt) == ("crashed", second.flow_run, 2)
    assert calls(state)["reconstruct"] == 40 - done
    assert len(list((tmp_path / "out").glob("*.nii.gz"))) == 40


def pools(state: Path) -> list[str]:
    """Work pools with a worker that has been heard of."""
    if not (state / "prefect" / "prefect.db").is_file():
        return []
    with sqlite3.connect(f"file:{state}/prefect/prefect.db?mode=ro", uri=True) as database:
        words = "SELECT work_pool.name FROM work_pool JOIN worker ON worker.work_pool_id = work_pool.id"
        try:
            return [row[0] for row in database.execute(words)]
        except sqlite3.OperationalError:  # the tables are being made
            return []
