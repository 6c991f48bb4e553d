"""Limits for files that nobody has vouched for: how much memory a volume may take, before it takes it."""

from __future__ import annotations

import os
from pathlib import Path

from medidiff.errors import BudgetError

GIB = 1024**3
MOST_BYTES = 16 * GIB

# No deflate stream can expand further: a length-258 match costs at least two bits.
DEFLATE_RATIO = 1032


def default_budget() -> int:
    """Bytes that one volume may take: half of the memory at hand, at most 16 GiB."""
    return min(_available_memory() // 2, MOST_BYTES)


def check_budget(needed: int, path: str | os.PathLike[str], budget: int | None = None) -> None:
    """Refuse a volume that would not fit, before anything is allocated.

    Args:
        needed: Bytes the volume takes in memory.
        path: The file, for the message.
        budget: Bytes allowed; ``default_budget()`` if None.
    Raises:
        BudgetError: needed exceeds the budget.
    """
    allowed = default_budget() if budget is None else budget
    if needed > allowed:
        raise BudgetError(
            f"{path} declares {human_bytes(needed)} of voxels, the memory budget is {human_bytes(allowed)}; "
            "raise the budget if the file is right, or crop or split it"
        )


def human_bytes(count: int) -> str:
    """A byte count as people read it: ``1.5 GiB``."""
    size = float(count)
    for unit in ("bytes", "KiB", "MiB", "GiB", "TiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.3g} PiB"


def _available_memory() -> int:
    """Free memory in bytes, as the kernel estimates it, and no more than the container's limit leaves."""
    available = 4 * GIB  # where neither source exists: a small laptop
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                available = int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
        if limit != "max":
            available = min(available, max(int(limit) - used, 0))
    except (OSError, ValueError):
        pass
    return available
