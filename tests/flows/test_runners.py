"""Items on other processes than the flow's: the same results, whatever becomes of the processes."""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from prefect.client.orchestration import get_client

from flows.engine.flow import unattended
from flows.engine.run import Item, Run
from flows.engine.steps import Made, Order, Work, step
from flows.reconstruct import reconstruct
from medidiff.geometry import Geometry
from medidiff.io import write_volume
from medidiff.ledger import Ledger
from medidiff.unattended import ReconstructFlow
from medidiff.volume import Volume
from tests.flows.plans import RECONSTRUCT
from tests.flows.told import calls, last
from tests.ingest import heaps

pytestmark = pytest.mark.usefixtures("prefect_server")


def volumes(folder: Path) -> dict[str, object]:
    """Restored scans that a reader of a folder sees, with their content."""
    return {name: content for name, content in heaps.tree(folder).items() if re.match(r"^[0-9a-f]{16}\.nii\.gz$", name)}


def unfinished() -> list[str]:
    """Runs and tasks that Prefect believes to be going on."""
    with get_client(sync_client=True) as client:
        everything = (*client.read_flow_runs(), *client.read_task_runs())
    return [each.name for each in everything if each.state is None or not each.state.is_final()]


@pytest.mark.slow
def test_dask_makes_what_threads_make(restore, configs: Path, heads: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    pytest.importorskip("prefect_dask")
    restore()
    threads = volumes(tmp_path / "out")
    text = (configs / "restore.yaml").read_text().replace(f"{tmp_path}/state", f"{tmp_path}/state-dask")
    text = text.replace(f"{tmp_path}/out", f"{tmp_path}/out-dask") + "runner: {kind: dask, workers: 2}\n"
    (heads / "broken.nii.gz").write_bytes(b"no volume")
    (configs / "dask.yaml").write_text(text)
    assert reconstruct(config="dask", return_state=True).name == "CompletedWithFailures"
    assert calls(tmp_path / "state-dask") == Counter(reconstruct=3)
    assert last(tmp_path / "state-dask").failures[0].reason.startswith("[source] is no volume")
    assert threads
    assert volumes(tmp_path / "out-dask") == threads


class Killer(threading.Thread):
    """Kills with -9 the first process that is writing a result; what readers saw at that moment is ``seen``."""

    def __init__(self, output: Path) -> None:
        super().__init__(daemon=True)
        self.killed: int | None = None
        self.seen: dict[str, object] = {}
        self._output = output

    def run(self) -> None:
        until = time.monotonic() + 240
        while self.killed is None and time.monotonic() < until:
            for half in self._output.glob(".medidiff-tmp-*.nii.gz"):
                self.killed = int(half.name.split("-")[2])
                os.kill(self.killed, signal.SIGKILL)
                self.seen = volumes(self._output)
                break
            time.sleep(0.001)


@pytest.mark.slow
def test_a_dask_worker_that_is_killed_as_it_writes_costs_its_own_item_alone(
    restore, configs: Path, heads: Path, tmp_path: Path, mni: Volume
) -> None:  # type: ignore[no-untyped-def]
    pytest.importorskip("prefect_dask")
    data = np.ascontiguousarray(mni.data[:, ::2, ::2, ::2])
    geometry = Geometry(mni.geometry.affine @ np.diag([2.0, 2, 2, 1]), data.shape[1:])  # type: ignore[arg-type]
    for number in range(3):  # large enough to be caught being written
        write_volume(Volume(data + np.float32(number), geometry, mni.modality), heads / f"{number}.nii.gz")
    restore(spacing=1.5)
    expected, state, output = volumes(tmp_path / "out"), tmp_path / "state-dask", tmp_path / "out-dask"
    text = RECONSTRUCT.format(state=state, source=heads, output=output, spacing=1.5)
    (configs / "dask.yaml").write_text(text + "runner: {kind: dask, workers: 2}\n")

    killer = Killer(output)
    killer.start()
    found = reconstruct(config="dask", return_state=True)
    killer.join()
    assert killer.killed not in (None, os.getpid())
    assert found.name == "Completed"
    # Nothing half visible at the kill, nothing other at the end, and one item begun once more.
    assert killer.seen.items() <= expected.items()
    assert volumes(output) == expected
    assert calls(state)["reconstruct"] == len(expected) + 1
    assert (last(state).steps[0].done, last(state).failures) == (5, ())
    assert Ledger(state).at_work() is None
    assert unfinished() == []

    assert reconstruct(config="dask", return_state=True).name == "Completed"
    assert calls(state) == Counter()


@step("deadly")
def deadly(order: Order, work: Work) -> Made:
    """One item takes its worker with it, each time, as one does that is too large for the machine."""
    if order.item == "deadly":
        os.kill(os.getpid(), signal.SIGKILL)
    made = order.base / order.item
    made.write_text(order.item)
    return Made((made,))


@pytest.mark.slow
def test_an_item_that_kills_every_worker_is_listed_and_the_rest_is_done(configs: Path, tmp_path: Path) -> None:
    pytest.importorskip("prefect_dask")
    dask = pytest.importorskip("dask")
    names = ("a", "deadly", "b", "c")

    @unattended("reconstruct", ReconstructFlow)
    def dying(run: Run[ReconstructFlow]) -> None:
        items = [Item(name, name, tmp_path, {}) for name in names]
        for _ in run.fan_out(deadly, items, lambda item: item.token.ljust(64, "0")):
            pass

    text = RECONSTRUCT.format(state=tmp_path / "state", source=tmp_path, output=tmp_path, spacing=4)
    (configs / "die.yaml").write_text(text + "runner: {kind: dask, workers: 1}\n")
    with dask.config.set({"distributed.scheduler.allowed-failures": 1}):  # 3 of itself; each costs a worker's start
        assert dying(config="die", return_state=True).name == "CompletedWithFailures"
    failures = {failure.item: failure.reason for failure in last(tmp_path / "state").failures}
    assert failures["deadly"] == "the worker that had it died or was stopped"
    assert {name for name in names if (tmp_path / name).is_file()} >= {"a", "b", "c"} - failures.keys()
    assert Ledger(tmp_path / "state").at_work() is None
    assert unfinished() == []
