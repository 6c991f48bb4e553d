"""What a figure was measured on, and what one call cost: time and peak memory."""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

T = TypeVar("T")

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


def describe() -> dict[str, str | int]:
    """CPU, cores, threads, and the versions that decide speed and values."""
    import numpy as np
    import scipy
    import torch

    import medidiff

    return {
        "cpu": _cpu(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(0) if torch.cuda.is_available() else "cpu",
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "medidiff": medidiff.__version__,
    }


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"


@dataclass(frozen=True, slots=True)
class Cost:
    """What a call cost.

    Args:
        seconds: Wall time; an upper bound on a machine that does other work.
        cpu_seconds: Processor time over all threads.
        memory_mb: Growth of the resident set to its peak during the call, 10^6 bytes; None where unknown.
    """

    seconds: float
    cpu_seconds: float
    memory_mb: float | None


@dataclass(frozen=True, slots=True)
class Measured(Generic[T]):
    result: T
    cost: Cost


def measure(call: Callable[[], T]) -> Measured[T]:
    """Run a call and measure it.

    Resident memory, not Python's own allocations: tensors and NumPy arrays live outside of those. On Linux the
    kernel's peak is reset before the call; elsewhere only a new peak of the whole process can be seen.
    """
    before, resets = _resident_before()
    start, start_cpu = time.perf_counter(), time.process_time()
    result = call()
    seconds, cpu = time.perf_counter() - start, time.process_time() - start_cpu
    peak = _read("VmHWM") if resets else _peak()
    grown = peak - before
    return Measured(result, Cost(seconds, cpu, grown / 1e6 if resets or grown > 0 else None))


def _resident_before() -> tuple[float, bool]:
    with suppress(OSError, AttributeError):  # another C library
        # glibc keeps what was freed; a call that is served from there would seem to need nothing.
        ctypes.CDLL(None).malloc_trim(0)
    try:
        _CLEAR.write_text("5", encoding="ascii")  # resets the peak of the resident set, see proc(5)
        return _read("VmRSS"), True
    except (OSError, ValueError):
        return _peak(), False


def _read(name: str) -> float:
    for line in _STATUS.read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith(name + ":"):
            return float(line.split()[1]) * 1024
    raise ValueError(f"{_STATUS} has no {name}")


def _peak() -> float:
    unit = 1 if platform.system() == "Darwin" else 1024
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit)
