"""One run at a time in a state folder; the system lets go of the lock however the run ends."""

from __future__ import annotations

import fcntl
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from medidiff.errors import ConfigError
from medidiff.ledger import Ledger, boot_id

_LOOK_EVERY_SECONDS = 0.2


@contextmanager
def held(ledger: Ledger, run: str, wait_seconds: float) -> Iterator[None]:
    """Hold the lock of a state folder, for this process and none of its children.

    Raises:
        ConfigError: another run is at work there, and still was after ``wait_seconds``.
    """
    descriptor = os.open(ledger.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    holding = [descriptor]

    def let_go() -> None:
        if holding:
            os.close(holding.pop())

    # A forked child would keep the lock alive after its parent was killed.
    os.register_at_fork(after_in_child=let_go)
    try:
        _acquire(descriptor, ledger, wait_seconds)
        os.ftruncate(descriptor, 0)
        holder = {"run": run, "pid": os.getpid(), "boot": boot_id()}
        os.pwrite(descriptor, json.dumps(holder).encode(), 0)
        yield
    finally:
        let_go()


def _acquire(descriptor: int, ledger: Ledger, wait_seconds: float) -> None:
    deadline = time.monotonic() + wait_seconds
    said = False
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            who = ledger.at_work() or {}
            holder = f"run {who.get('run', '?')}, process {who.get('pid', '?')}"
            text = f"another run is at work in this state folder ({holder})"
            if time.monotonic() >= deadline:
                raise ConfigError(f"{text}; wait for it, or give this flow a state folder of its own") from None
            if not said:
                said = True
                sys.stderr.write(f"medidiff: {text}; waiting up to {wait_seconds:g} s\n")
            time.sleep(_LOOK_EVERY_SECONDS)
        else:
            return
