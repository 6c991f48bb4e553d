"""Every night: new scans into the dataset, a generator tuned to it, a set made and examined, a release candidate."""

from __future__ import annotations

from flows.engine.command import main

if __name__ == "__main__":
    main("nightly", "NightlyFlow")  # ends here; what follows is imported anew once Prefect's surroundings are set

from flows.engine.flow import unattended
from flows.engine.run import Run
from flows.sites import ingested
from flows.synthesize_and_release import released
from flows.train import trained
from medidiff.unattended import NightlyFlow


@unattended("nightly", NightlyFlow)
def nightly(run: Run[NightlyFlow]) -> None:
    """New scans, dataset, training, evaluation, a release candidate; where nothing is new, nothing is done."""
    plan = run.plan
    for site in plan.sites:
        ingested(run, site)
    model = trained(run, plan.train)
    candidate = plan.candidate
    synthesize = candidate.synthesize.model_copy(update={"model": str(model)})
    audit = candidate.audit.model_copy(update={"model": str(model)})
    released(run, candidate.model_copy(update={"synthesize": synthesize, "audit": audit}))
