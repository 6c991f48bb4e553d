"""New scans into datasets, site by site; sites side by side, as many as the runner has workers."""

from __future__ import annotations

from flows.engine.command import main

if __name__ == "__main__":
    main("ingest", "IngestFlow")  # ends here; what follows is imported anew once Prefect's surroundings are set

from flows.engine.flow import unattended
from flows.engine.run import Run
from flows.sites import ingest_sites
from medidiff.unattended import IngestFlow


@unattended("ingest", IngestFlow)
def ingest(run: Run[IngestFlow]) -> None:
    """New scans into datasets."""
    ingest_sites(run, run.plan.sites)
