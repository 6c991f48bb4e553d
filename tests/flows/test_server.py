"""Prefect's embedded server on a machine that is busy: waited for, and given up in one line."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from prefect.server.api.server import SubprocessASGIServer
from prefect.settings import PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS, temporary_settings

from flows.engine.server import started
from medidiff.errors import MedidiffError

REPOSITORY = Path(__file__).parents[2]

# Python runs a file of this name first; in the server's process alone it takes the server's place.
_STANDS_IN = """
import sys
if "prefect.server.api.server:create_app" in sys.orig_argv:
    import socketserver, time
    from http.server import BaseHTTPRequestHandler
    port = int(sys.orig_argv[sys.orig_argv.index("--port") + 1])
    silent_seconds = {silent}
    begun = time.monotonic()
    class Health(BaseHTTPRequestHandler):
        def do_GET(self):
            time.sleep(max(0.0, silent_seconds - (time.monotonic() - begun)))
            self.send_response(200)
            self.end_headers()
        def log_message(self, *words):
            pass
    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
    with Server(("127.0.0.1", port), Health) as server:
        server.serve_forever()
"""


def stand_in(folder: Path, silent: float) -> dict[str, str]:
    """An environment in which the embedded server takes connections, and answers after so many seconds."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(_STANDS_IN.format(silent=silent))
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT")}
    return kept | {"PYTHONPATH": f"{folder}{os.pathsep}{REPOSITORY}"}


@pytest.fixture
def server() -> SubprocessASGIServer:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return SubprocessASGIServer(port=free.getsockname()[1])


def test_a_server_whose_first_answer_is_slow_is_waited_for(
    server: SubprocessASGIServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Prefect gives an answer five seconds.
    monkeypatch.setenv("PYTHONPATH", stand_in(tmp_path / "site", silent=7)["PYTHONPATH"])
    try:
        started(server)
        assert server.running
        assert server.server_process is not None
        assert server.server_process.poll() is None
    finally:
        server.stop()


def test_a_server_that_ends_is_not_waited_for(
    server: SubprocessASGIServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "sitecustomize.py").write_text("import os, sys\nif 'uvicorn' in sys.orig_argv:\n    os._exit(1)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    patience = temporary_settings({PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS: 2})
    with patience, pytest.raises(MedidiffError, match="ended as it started; is the machine overloaded"):
        started(server)


def test_a_run_whose_server_never_answers_ends_in_one_line(tmp_path: Path) -> None:
    config = tmp_path / "sites.yaml"
    site = f"{{name: ward, sources: [{tmp_path}], dataset: {tmp_path}/ward}}"
    config.write_text(f"kind: flow-ingest\nstate: {tmp_path}/state\nsites: [{site}]\n")
    told = stand_in(tmp_path / "site", silent=3600) | {"PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "6"}
    command = [sys.executable, "-m", "flows.ingest", "--once", str(config)]
    done = subprocess.run(command, env=told, capture_output=True, cwd=tmp_path, check=False, text=True)
    assert done.returncode == 1
    assert done.stderr == (
        "medidiff: Prefect's embedded server gave no answer within 6 s; is the machine overloaded? run it again later\n"
    )
