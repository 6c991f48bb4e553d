"""A real Orthanc on loopback, in a network namespace of its own, and our client beside it.

Orthanc 1.10 listens on all addresses whatever its configuration says, so it is started where there are none but
loopback: ``unshare -n``, with the client in the same namespace.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

WEB_PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
REPOSITORY = Path(__file__).resolve().parents[2]

# Runs inside the namespace: start the server, wait for its port, upload, run the client, stop the server.
SCRIPT = r"""
import json, pathlib, socket, subprocess, sys, time, urllib.request
config, log, uploads, client = sys.argv[1], sys.argv[2], json.loads(sys.argv[3]), json.loads(sys.argv[4])
subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
with open(log, "wb") as out:
    server = subprocess.Popen(["Orthanc", config], stdout=out, stderr=subprocess.STDOUT)
try:
    for _ in range(300):
        try:
            socket.create_connection(("127.0.0.1", 18042), 1).close()
            socket.create_connection(("127.0.0.1", 14242), 1).close()
            break
        except OSError:
            if server.poll() is not None:
                sys.exit("Orthanc ended")
            time.sleep(0.1)
    else:
        sys.exit("Orthanc does not answer")
    for name in uploads:
        data = pathlib.Path(name).read_bytes()
        request = urllib.request.Request("http://127.0.0.1:18042/instances", data=data, method="POST")
        urllib.request.urlopen(request, timeout=60).read()
    done = subprocess.run(client, timeout=240)
    sys.exit(done.returncode)
finally:
    server.terminate()
    server.wait(30)
"""


def require(*, web: bool = False) -> None:
    """Skip where there is no Orthanc, or no right to a network namespace."""
    if shutil.which("Orthanc") is None:
        pytest.skip("Orthanc is not installed (Debian package orthanc)")
    if web and not WEB_PLUGIN.exists():
        pytest.skip("Orthanc's DICOMweb plugin is not installed (Debian package orthanc-dicomweb)")
    pytest.importorskip("pynetdicom")
    pytest.importorskip("dicomweb_client")
    if shutil.which("unshare") is None or shutil.which("ip") is None:
        pytest.skip("unshare and ip (util-linux, iproute2) are not installed")
    if subprocess.run(["unshare", "-n", "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("no right to a network namespace of our own")


def run_beside(
    folder: Path, uploads: Sequence[Path], client: Sequence[str], *, get: bool = True, web: bool = False
) -> subprocess.CompletedProcess[str]:
    """Start Orthanc with the given files in it and run a client command beside it."""
    config = {
        "StorageDirectory": str(folder / "storage"), "IndexDirectory": str(folder / "index"),
        "RemoteAccessAllowed": False, "AuthenticationEnabled": False, "HttpPort": 18042, "DicomAet": "ORTHANC",
        "DicomPort": 14242, "DicomCheckCalledAet": False, "DicomAlwaysAllowStore": True,
        "DicomAlwaysAllowFind": True, "DicomAlwaysAllowMove": True, "DicomAlwaysAllowGet": get,
        "DicomModalities": {"medidiff": ["MEDIDIFF", "127.0.0.1", 11112]},
        "Plugins": [str(WEB_PLUGIN)] if web else [],
    }  # fmt: skip
    path = folder / "orthanc.json"
    path.write_text(json.dumps(config))
    command = [
        "unshare", "-n", sys.executable, "-c", SCRIPT, str(path), str(folder / "orthanc.log"),
        json.dumps([str(name) for name in uploads]), json.dumps(list(client)),
    ]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "NO_COLOR": "1", "COLUMNS": "120"}
    return subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=300, env=environment, cwd=folder
    )
