"""Prefect's embedded server, waited for as long as the configuration says, on a busy machine as well."""

from __future__ import annotations

import time
from contextlib import suppress

import httpx
from prefect.server.api.server import SubprocessASGIServer
from prefect.settings import PREFECT_API_URL, PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS

from medidiff.errors import MedidiffError

_ONE_ANSWER_SECONDS = 60.0
_LOOK_SECONDS = 0.2


def start_server() -> None:
    """Start the embedded server, unless Prefect was told the address of another.

    Raises:
        MedidiffError: it did not start.
    """
    if not PREFECT_API_URL.value():
        started(SubprocessASGIServer())


def started(server: SubprocessASGIServer) -> None:
    """Start a server and wait until it answers.

    Raises:
        MedidiffError: it ended, or gave no answer within ``PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS``.
    """
    limit = float(PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS.value())
    deadline = time.monotonic() + limit
    with suppress(RuntimeError, httpx.TransportError):
        server.start()
        return
    # Prefect's own wait ends with the first answer that takes longer than five seconds; its process goes on starting.
    process = server.server_process
    while process is not None and process.poll() is None and (left := deadline - time.monotonic()) > 0:
        with suppress(httpx.TransportError):
            if httpx.get(f"{server.api_url}/health", timeout=min(left, _ONE_ANSWER_SECONDS)).is_success:
                server.running = True
                return
        time.sleep(_LOOK_SECONDS)
    ended = process is None or process.poll() is not None
    server.stop()
    found = "ended as it started" if ended else f"gave no answer within {limit:.0f} s"
    raise MedidiffError(f"Prefect's embedded server {found}; is the machine overloaded? run it again later")
