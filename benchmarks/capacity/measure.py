"""What one volume costs on one core of this machine: each use case on small real volumes, in processor seconds.

Processor time of this process and its children; wall time would say how busy the machine was.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np


@dataclass(frozen=True, slots=True)
class Measurement:
    """Processor seconds a unit, one value a repetition, and what lies on the disk afterwards.

    Args:
        stage: Use case.
        unit: What one unit is.
        seconds: Each repetition's.
        written_mb: A unit, 10^6 bytes.
        fixed: Processor seconds that come on top once for each set, whatever its size.
    """

    stage: str
    unit: str
    seconds: tuple[float, ...]
    written_mb: float
    fixed: float = 0.0

    @property
    def mean(self) -> float:
        return float(np.mean(self.seconds))

    @property
    def interval(self) -> tuple[float, float]:
        """95% for the mean, by Student's t; the mean alone where there is one repetition."""
        if len(self.seconds) < 2:
            return (self.mean, self.mean)
        from scipy.stats import t

        half = t.ppf(0.975, len(self.seconds) - 1) * float(np.std(self.seconds, ddof=1)) / len(self.seconds) ** 0.5
        return (self.mean - half, self.mean + half)


def processor_seconds() -> float:
    """Of this process and of its children that have ended."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def timed(call: Callable[[], object]) -> float:
    before = processor_seconds()
    call()
    return processor_seconds() - before


def size_mb(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def head(cells: int) -> Any:
    """The packaged MNI head at 1 mm, cut to whole slabs of ``cells`` slices and averaged over them."""
    from nilearn.datasets import struct

    from medidiff.geometry import Geometry
    from medidiff.io import read_volume
    from medidiff.volume import Volume

    whole = read_volume(Path(struct.MNI152_FILE_PATH))
    slices = whole.data.shape[3] // cells * cells
    data = whole.data[..., :slices].reshape(*whole.data.shape[:3], -1, cells).mean(-1)
    affine = whole.geometry.affine @ np.diag([1.0, 1, cells, 1])
    return Volume(np.ascontiguousarray(data), Geometry(affine, data.shape[1:]), whole.modality)


def ingest(place: Path, repetitions: int) -> Measurement:
    """Heads of 1 mm, without faces already: what reading, judging, hashing and writing cost."""
    from medidiff.ingest import IngestOptions, ingest
    from medidiff.io import write_volume

    seconds, kept = [], 0.0
    for number in range(repetitions):
        heap = place / f"heap{number}"
        heap.mkdir()
        volume = head(1)
        write_volume(volume, heap / "head_T1w.nii.gz")
        options = IngestOptions(body_part="other", clean_pixels=False, workers=1)
        dataset = place / f"dataset{number}"
        seconds.append(timed(partial(ingest, [str(heap)], dataset, options)))
        kept = size_mb(dataset)
    return Measurement("ingest", "head, 197 x 233 x 189 voxels, NIfTI, no face removed", tuple(seconds), kept)


def reconstruct(place: Path, repetitions: int) -> Measurement:
    """A head with slices of 4 mm to 1 mm, posterior mean, on the processor."""
    from medidiff.io import write_volume
    from medidiff.reconstruct import ReconstructOptions, reconstruct

    scan = place / "thick.nii.gz"
    write_volume(head(4), scan)
    seconds = []
    for number in range(repetitions):
        out = place / f"restored{number}" / "out.nii.gz"
        out.parent.mkdir()
        seconds.append(timed(partial(reconstruct, scan, out, ReconstructOptions(device="cpu"))))
    return Measurement("reconstruct", "head, 4 mm slices to 1 mm, one evaluation", tuple(seconds), size_mb(out.parent))


def synthesize(place: Path, repetitions: int, count: int = 2) -> Measurement:
    """Labelled items of the generator that ships."""
    from medidiff.synthesize import SynthesizeOptions, synthesize

    seconds = []
    for number in range(repetitions):
        out, options = place / f"set{number}", SynthesizeOptions(count=count, seed=number, device="cpu")
        seconds.append(timed(partial(synthesize, out, options)) / count)
    return Measurement("synthesize", "labelled 40 x 56 x 40 item, 18 steps", tuple(seconds), size_mb(out) / count)


@contextmanager
def _prefect_server(home: Path, port: int) -> Iterator[int]:
    from flows.engine.environment import settle

    settle()
    os.environ |= {"PREFECT_HOME": str(home), "PREFECT_API_URL": f"http://127.0.0.1:{port}/api"}
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        import urllib.request

        for _ in range(600):
            with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/api/health", timeout=5):
                break
            time.sleep(0.3)
        yield server.pid
    finally:
        server.terminate()
        server.wait()


def _tree_seconds(pid: int) -> float:
    """Processor seconds of a process and of those that it started."""
    ticks, total = os.sysconf("SC_CLK_TCK"), 0.0
    pids = [pid]
    while pids:
        current = pids.pop()
        with suppress(OSError):
            fields = Path(f"/proc/{current}/stat").read_text().rpartition(")")[2].split()
            total += sum(int(field) for field in fields[11:15]) / ticks
            pids += [int(p) for p in Path(f"/proc/{current}/task/{current}/children").read_text().split()]
    return total


def overhead(place: Path, tasks: int, port: int = 4391) -> dict[str, float]:
    """What Prefect itself costs: tasks that do nothing, on SQLite, until the server has every one of them on file.

    Tasks are told of as events, which the server takes in behind the flow: what counts is when it has caught up.
    """
    with _prefect_server(place / "prefect", port) as server:
        from prefect import flow, task

        @task(persist_result=False)
        def nothing(number: int) -> int:
            return number

        @flow(persist_result=False)
        def many(count: int) -> int:
            futures = [nothing.submit(number) for number in range(count)]
            return len([future.result() for future in futures])

        many(2)
        _await_tasks(port, 2)
        mine, theirs, begun = processor_seconds(), _tree_seconds(server), time.monotonic()
        many(tasks)
        mine, ended = processor_seconds() - mine, time.monotonic() - begun
        _await_tasks(port, 2 + tasks)
        wall = time.monotonic() - begun
        return {
            "tasks": tasks,
            "flow_seconds": mine / tasks,
            "server_seconds": (_tree_seconds(server) - theirs) / tasks,
            "flow_wall_seconds": ended / tasks,
            "wall_seconds": wall / tasks,
        }


def _await_tasks(port: int, count: int) -> None:
    """Wait until the server knows of so many tasks that they are done."""
    import json
    import urllib.request

    done = {"task_runs": {"state": {"type": {"any_": ["COMPLETED"]}}}}
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/api/task_runs/count", json.dumps(done).encode(), {"Content-Type": "application/json"}
    )
    known = 0
    while known < count:
        time.sleep(0.2)
        with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310 - this machine
            known = int(answer.read())
