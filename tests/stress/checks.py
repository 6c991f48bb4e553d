"""What must hold whenever a run has died, and once the next one has ended well."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from safetensors import safe_open

from medidiff.io.atomic import is_temporary
from medidiff.ledger import Ledger
from tests.stress.scenarios import Scenario, content_of, hidden, left


def after_death(scenario: Scenario, folder: Path, expected: Mapping[str, str]) -> list[str]:
    """Faults that a reader would see now: half a file, a wrong one, a result whose files are not there, a held lock."""
    faults = []
    for path in sorted((folder / "out").rglob("*")):
        name = path.relative_to(folder / "out").as_posix()
        if not path.is_file() or hidden(name):
            continue
        if (fault := _unreadable(path)) is not None:
            faults.append(f"{name}: {fault}")
        elif name.startswith("site/") and not name.endswith((".nii.gz", ".json")):
            continue  # the lists of a dataset are written anew at the end of each run
        elif not name.endswith(scenario.evolving or ("\0",)):
            if name not in expected:
                faults.append(f"{name}: is in no run that went well")
            elif hashlib.sha256(content_of(path, folder)).hexdigest() != expected[name]:
                faults.append(f"{name}: other content than after a run that went well")
    if (folder / "state").is_dir():
        faults += _state(folder)
    return faults


def _state(folder: Path) -> list[str]:
    faults = [
        f"state/{path.relative_to(folder / 'state')}: {fault}"
        for path in sorted((folder / "state").rglob("*.json"))
        if not is_temporary(path) and (fault := _unreadable(path)) is not None
    ]
    for path in (folder / "state").glob("*.sqlite"):
        try:
            with closing(sqlite3.connect(path)) as memory:
                sound = memory.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        except sqlite3.DatabaseError:
            sound = False
        faults += [] if sound else [f"{path.name}: damaged"]
    if Ledger(folder / "state").at_work() is not None:
        faults.append("the lock is held by nobody alive")
    for result in results(folder).values():
        faults += [
            f"a result speaks of {output['path']}, which is not there"
            for output in result["outputs"]
            if not (folder / "out" / output["path"]).exists()
        ]
    return faults


def results(folder: Path) -> dict[str, dict[str, Any]]:
    """Steps that are done, by key."""
    found = (folder / "state" / "results").rglob("*.json")
    return {path.stem: json.loads(path.read_text()) for path in found if not is_temporary(path)}


def begun(folder: Path) -> list[tuple[str, str]]:
    """Key and run of every step that was begun, from the journals; a line that a kill cut off is nobody's."""
    found = []
    for path in sorted((folder / "state" / "logs").glob("*.jsonl")):
        for line in path.read_text().splitlines():
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            if entry["event"] == "begin":
                found.append((entry["key"], entry["run"]))
    return found


def after_recovery(folder: Path, expected: Mapping[str, str], done_at_death: set[str], begun_before: int) -> list[str]:
    """Faults once a run has ended well: other bits, work that was done already and was done again, a run left open."""
    found = left(folder)
    faults = [f"{name}: missing" for name in expected.keys() - found.keys()]
    faults += [f"{name}: too much" for name in found.keys() - expected.keys()]
    faults += [f"{name}: other bits" for name in expected.keys() & found.keys() if expected[name] != found[name]]
    again = {key for key, _ in begun(folder)[begun_before:]} & done_at_death
    faults += [f"{key[:12]}: done again" for key in sorted(again)]
    statuses = [record.status for record in Ledger(folder / "state").runs()]
    if "running" in statuses:
        faults.append("a run that is over is said to be running")
    return faults


def _unreadable(path: Path) -> str | None:
    try:
        if path.suffix == ".json":
            json.loads(path.read_text())
        elif path.suffix == ".jsonl":
            [json.loads(line) for line in path.read_text().splitlines()]
        elif path.suffix == ".safetensors":
            with safe_open(path, framework="np") as file:
                for name in file.keys():  # noqa: SIM118
                    file.get_tensor(name)
        elif path.name.endswith(".nii.gz"):
            import nibabel
            import numpy as np

            np.asarray(nibabel.load(path).dataobj)
    except Exception as error:  # noqa: BLE001 - whatever a reader would stumble over
        return f"unreadable ({type(error).__name__})"
    return None
