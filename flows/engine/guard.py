"""No process outlives the run that started it: Prefect's embedded server would go on for ever after a kill -9.

A guard waits at the end of a pipe whose other end only this process holds. When the pipe closes, however that came,
the guard ends every process that carries the run's mark in its environment.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_MARK = "MEDIDIFF_RUN_MARK"

_GUARD = """
import os, signal, sys, time
mark = sys.argv[1].encode()
while os.read(0, 1):
    pass
def marked():
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid():
            try:
                with open(f"/proc/{name}/environ", "rb") as stream:
                    if mark in stream.read().split(b"\\0"):
                        yield int(name)
            except OSError:
                pass
for number, wait in ((signal.SIGTERM, 3.0), (signal.SIGKILL, 0.0)):
    for pid in marked():
        try:
            os.kill(pid, number)
        except OSError:
            pass
    until = time.monotonic() + wait
    while time.monotonic() < until and any(marked()):
        time.sleep(0.05)
"""


@contextmanager
def children() -> Iterator[None]:
    """Processes that are started in this block end with this process, at the latest."""
    mark = secrets.token_hex(16)
    reading, writing = os.pipe()
    command = [sys.executable, "-I", "-S", "-c", _GUARD, f"{_MARK}={mark}"]
    # A session of its own: what ends the run's group must not end the guard first.
    guard = subprocess.Popen(command, stdin=reading, start_new_session=True)
    os.close(reading)
    os.environ[_MARK] = mark
    try:
        yield
    finally:
        os.environ.pop(_MARK, None)
        # The guard stays until this process ends, and with it the pipe: Prefect stops its server at exit.
        guard.returncode = 0
        del writing
