"""How this process asks the system for memory: a policy for a program, which a library may not impose."""

from __future__ import annotations

import contextlib
import ctypes

# Parameters of glibc's mallopt (malloc.h).
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
LARGEST_INT = 2**31 - 1


def reuse_freed_memory() -> None:
    """Keep freed memory for the next layer of the network instead of giving it back each time.

    A network's activations are some hundred megabytes each. glibc returns such blocks to the system at once and gets
    them again, page by page, zeroed: a third of the processor time of a reconstruction, for 0.6 GB less of memory.
    Elsewhere this does nothing.
    """
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, LARGEST_INT)
