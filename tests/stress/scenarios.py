"""The flows as they are killed: tiny inputs, the configuration, and what is left when all went well."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from medidiff.geometry import Geometry
from medidiff.io import write_volume
from medidiff.volume import Volume
from tests.ingest.heaps import body, nifti, series
from tests.synthetic.sets import write_releasable
from tests.tiny_generator import write_tiny_generator
from tests.tiny_model import write_tiny_model

# What a record says of the run and not of the result.
_OF_THE_RUN = frozenset({"seconds", "peak_memory_mb", "created", "written", "started", "ended"})


@dataclass(frozen=True, slots=True)
class Scenario:
    """A flow with something to do.

    Args:
        name: Of the scenario and of its configuration.
        flow: Module and function.
        kind: Of the configuration.
        prepare: Writes the inputs into a folder, and gives the configuration.
        evolving: Endings of names of files that change while a run goes on; all others are final once they appear.
    """

    name: str
    flow: str
    kind: str
    prepare: Callable[[Path], dict[str, Any]]
    evolving: tuple[str, ...] = ()

    def make(self, folder: Path) -> None:
        """Lay inputs and configuration out; outputs and state come into ``out`` and ``state``."""
        for name in ("in", "out", "configs"):
            (folder / name).mkdir(parents=True)
        common = {"state": str(folder / "state"), "runner": {"kind": "threads", "workers": 1}, "retries": 0}
        plan = {"kind": self.kind, **common, **self.prepare(folder)}
        (folder / "configs" / f"{self.name}.yaml").write_text(yaml.safe_dump(plan))


def _ingest(folder: Path) -> dict[str, Any]:
    heap = folder / "in"
    series(heap / "a", "P-1")
    nifti(heap / "scan_T1w.nii.gz")
    shutil.copy(heap / "scan_T1w.nii.gz", heap / "copy_T1w.nii.gz")
    (folder / "site.key").write_bytes(_key())
    (folder / "site.key").chmod(0o600)
    options = {"body_part": "other", "clean_pixels": False, "key": str(folder / "site.key"), "workers": 1}
    return {
        "sites": [{"name": "site", "sources": [str(heap)], "dataset": str(folder / "out" / "site"), "options": options}]
    }


def _key() -> bytes:
    """The same pseudonyms in every copy."""
    import tempfile

    from medidiff.privacy.keys import PrivacyKey

    global _made_key  # noqa: PLW0603 - made once for all copies
    if _made_key is None:
        with tempfile.TemporaryDirectory() as place:
            PrivacyKey.create(Path(place) / "key")
            _made_key = (Path(place) / "key").read_bytes()
    return _made_key


_made_key: bytes | None = None


def thick_scan(path: Path, seed: int) -> None:
    """Slices four times as thick as a pixel, 24 x 24 x 6."""
    values = body(6, 24, 24, seed).astype(np.float32).transpose(2, 1, 0)[None]
    write_volume(Volume(values, Geometry(np.diag([1.0, 1, 4, 1]), values.shape[1:])), path)


def _reconstruct(folder: Path) -> dict[str, Any]:
    for seed in range(3):
        thick_scan(folder / "in" / f"s{seed}.nii.gz", seed)
    model = write_tiny_model(folder / "model.safetensors")
    return {
        "source": {"kind": "folder", "folder": str(folder / "in")},
        "output": str(folder / "out"),
        "options": {"model": str(model), "device": "cpu", "samples": 1, "steps": 2, "seed": 0},
    }


def _train(folder: Path) -> dict[str, Any]:
    values = body(32, 32, 32, 0).astype(np.float32).transpose(2, 1, 0)[None]
    write_volume(Volume(np.ascontiguousarray(values), Geometry(np.eye(4), (32, 32, 32))), folder / "in" / "a.nii.gz")
    config = {
        "kind": "train",
        "name": "tiny",
        "data": {"root": str(folder / "in"), "train": [{"files": "a.nii.gz"}]},
        "network": {"channels": [8], "blocks": 1},
        "batches": {"size": 2, "patch": 16, "line": 32, "operators": 4, "factors": [1.5, 3]},
        "optimizer": {"steps": 8, "warmup": 2},
    }
    return {"models": [{"config": config, "output": str(folder / "out"), "device": "cpu", "checkpoint_minutes": 1e-9}]}


def _synthesize(folder: Path) -> dict[str, Any]:
    model = write_tiny_generator(folder / "generator.safetensors")
    options = {"kind": "synthesize", "model": str(model), "count": 5, "steps": 2, "device": "cpu"}
    return {"sets": str(folder / "out"), "options": options}


def _release(folder: Path) -> dict[str, Any]:
    from nilearn.datasets import struct

    from medidiff.io import read_volume

    write_releasable(folder / "in" / "set", read_volume(Path(struct.MNI152_FILE_PATH)))
    return {"source": str(folder / "in" / "set"), "releases": str(folder / "out"), "options": {"formats": ["bids"]}}


SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario("ingest", "flows.ingest:ingest", "flow-ingest", _ingest),
        Scenario("train", "flows.train:train", "flow-train", _train, ("state.safetensors", "curve.csv")),
        Scenario("reconstruct", "flows.reconstruct:reconstruct", "flow-reconstruct", _reconstruct),
        Scenario(
            "synthesize",
            "tests.stress.parts:synthesize",
            "flow-synthesize",
            _synthesize,
            ("synthetic.jsonl", "plan.json"),
        ),
        Scenario("release", "tests.stress.parts:release", "flow-release-part", _release),
    )
}


def left(folder: Path) -> dict[str, str]:
    """What a reader of ``out`` sees: every file and the hash of its content, without the time it took."""
    found = {}
    for path in sorted((folder / "out").rglob("*")):
        name = path.relative_to(folder / "out").as_posix()
        if path.is_file() and not hidden(name):
            found[name] = hashlib.sha256(content_of(path, folder)).hexdigest()
    return found


def hidden(name: str) -> bool:
    """Whether a name is one that readers pass over: temporary files, workshops, indices."""
    return any(part.startswith(".medidiff") or ".medidiff-" in part for part in name.split("/"))


def content_of(path: Path, folder: Path) -> bytes:
    """A file's bytes; of JSON, all but what is about the run or names the folder."""
    if path.suffix != ".json":
        return path.read_bytes().replace(str(folder).encode(), b"")
    return json.dumps(_without(json.loads(path.read_text())), sort_keys=True).replace(str(folder), "").encode()


def _without(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without(inner) for key, inner in value.items() if key not in _OF_THE_RUN}
    return [_without(inner) for inner in value] if isinstance(value, list) else value
