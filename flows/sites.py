"""Sites, which several flows ingest: when their heap counts as changed, and what of it must stay hidden."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from flows.engine.run import Item, Run
from flows.engine.steps import StepFailed
from flows.steps import ingest_site
from medidiff.errors import EXIT_BAD_INPUT
from medidiff.unattended import Site

_SERVERS = ("dicomweb://", "dicomwebs://", "dimse://")


def ingest_sites(run: Run[Any], sites: Iterable[Site]) -> None:
    """Ingest sites side by side; one that fails is noted."""
    sites = tuple(sites)
    options = {site.name: site.options for site in sites}

    def key(item: Item) -> str:
        # Where the dataset lies does not matter: whether it is there and as it was made is looked at by its hash.
        return run.key("ingest", "medidiff.ingest", options[item.token], item.inputs)

    for _ in run.fan_out(ingest_site, (_item(run, site) for site in sites), key, len(sites)):
        pass


def ingested(run: Run[Any], site: Site) -> None:
    """Ingest a site that all that follows depends on.

    Raises:
        StepFailed: nothing came of it.
    """
    before = len(run.record.failures)
    ingest_sites(run, (site,))
    if len(run.record.failures) > before:
        raise StepFailed(run.record.failures[-1].reason, EXIT_BAD_INPUT)


def _item(run: Run[Any], site: Site) -> Item:
    digest = hashlib.sha256()
    for source in site.sources:
        # What a server holds is known only by asking it, so every run does.
        content = run.record.run if source.startswith(_SERVERS) else run.fingerprints.of(Path(source))
        digest.update(f"{content}\n".encode())
    return Item(site.name, digest.hexdigest(), site.dataset.parent, {"site": site}, site.sources)
