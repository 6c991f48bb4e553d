"""Every scan of a folder, a dataset, a heap or a server, restored; scans side by side, as many as there are workers."""

from __future__ import annotations

from flows.engine.command import main

if __name__ == "__main__":
    main("reconstruct", "ReconstructFlow")  # ends here; the rest is imported anew, once Prefect's surroundings are set

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

from flows.engine.flow import unattended
from flows.engine.keys import files_below
from flows.engine.run import Item, Run
from flows.sites import ingested
from flows.steps import reconstruct_scan
from medidiff.data.manifest import read_manifest
from medidiff.errors import ConfigError
from medidiff.io.places import SUFFIXES
from medidiff.models import find_model, shipped_models
from medidiff.reconstruct.options import ReconstructOptions
from medidiff.unattended import FromDataset, FromFolder, ReconstructFlow

# The first digits of a scan's SHA-256: its name in everything that the flow writes.
TOKEN_DIGITS = 16


@unattended("reconstruct", ReconstructFlow)
def reconstruct(run: Run[ReconstructFlow]) -> None:
    """Scans to restore."""
    plan = run.plan
    plan.output.mkdir(parents=True, exist_ok=True)
    options = plan.reconstruct
    chosen = hashlib.sha256(plan.model_dump_json(include={"options", "suffix"}).encode()).hexdigest()
    beside = " ".join(_beside(run, options))

    def key(item: Item) -> str:
        return run.key("reconstruct", "medidiff.reconstruct", chosen, f"{item.inputs} {beside}")

    scans = list(_scans(run))
    for _ in run.fan_out(reconstruct_scan, _items(run, scans, options), key, len(scans)):
        pass


def _items(run: Run[ReconstructFlow], scans: Iterable[Path], options: ReconstructOptions) -> Iterator[Item]:
    """The scans, each once however often it lies there."""
    plan = run.plan
    seen = set()
    for scan in scans:
        content = run.fingerprints.of(scan)
        token = content[:TOKEN_DIGITS]
        if token not in seen:
            seen.add(token)
            arguments = {"scan": scan, "output": plan.output / f"{token}{plan.suffix}", "options": options}
            yield Item(token, content, plan.output, arguments, (str(scan),))


def _scans(run: Run[ReconstructFlow]) -> Iterator[Path]:
    match run.plan.source:
        case FromFolder(folder=folder):
            if not folder.is_dir():
                raise ConfigError("source.folder: there is no such folder")
            # A pair of header and image is one scan, which goes by its header.
            volumes = tuple(suffix for suffix in SUFFIXES if suffix != ".img")
            yield from (path for name, path in files_below(folder) if name.lower().endswith(volumes))
        case FromDataset(dataset=dataset):
            yield from _volumes(dataset)
        case heap:
            ingested(run, heap.site)
            yield from _volumes(heap.site.dataset)


def _volumes(dataset: Path) -> Iterator[Path]:
    for record in read_manifest(dataset):
        if record.usable and record.modality != "LABEL":
            yield dataset / record.path


def _beside(run: Run[Any], options: ReconstructOptions) -> Iterator[str]:
    """Hashes of everything but the scan that a result depends on: the prior, and files that the options name."""
    models = [find_model(options.model)] if options.model is not None else [info.path for info in shipped_models()]
    for path in () if options.fast else models:
        yield run.fingerprints.of(path)
    for each in fields(options):
        value = getattr(options, each.name)
        if isinstance(value, Path) or (each.name == "profile" and value.lower().endswith(".csv")):
            yield run.fingerprints.of(Path(value))
