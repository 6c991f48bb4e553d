"""Prefect's surroundings, set before it is imported: no telemetry, time to start, patience with SQLite."""

from __future__ import annotations

import os
from pathlib import Path

# The folder of the configurations that flows are told by name.
CONFIGS = "MEDIDIFF_CONFIGS"

_ALWAYS = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "RAY_USAGE_STATS_ENABLED": "0",
    # What a person did not ask for is not fetched from the network.
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
}
_UNLESS_SET = {
    # Starting takes 15 s of processor time: over Prefect's limit of 20 s on two busy cores, minutes on crowded ones.
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "900",
    "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "true",
    # Another process may hold SQLite's one write lock for some seconds: wait for it, then try again.
    "PREFECT_SERVER_DATABASE_TIMEOUT": "60",
    "PREFECT_SERVER_DATABASE_CONNECTION_TIMEOUT": "30",
    "PREFECT_API_REQUEST_TIMEOUT": "120",
    "PREFECT_CLIENT_MAX_RETRIES": "8",
    # A traceback or a library's warning may quote a name; what the flows say is enough.
    "PREFECT_LOGGING_LEVEL": "WARNING",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    # Values of steps stay in memory; what is to last is in the state folder, as JSON and never pickled.
    "PREFECT_RESULTS_PERSIST_BY_DEFAULT": "false",
    "PREFECT_RESULTS_DEFAULT_SERIALIZER": "json",
    # Two spinning thread pools on two cores can be nine times slower than one thread.
    "OMP_WAIT_POLICY": "PASSIVE",
}


def settle() -> None:
    """Set what holds for every process of the flows."""
    os.environ.update(_ALWAYS)
    for name, value in _UNLESS_SET.items():
        os.environ.setdefault(name, value)


def settle_home(state: Path) -> None:
    """Keep Prefect's own files in the state folder, unless the user said where they are to be."""
    os.environ.setdefault("PREFECT_HOME", str((state / "prefect").resolve()))
    os.environ.setdefault("PREFECT_PROFILES_PATH", str(Path(os.environ["PREFECT_HOME"]) / "profiles.toml"))
