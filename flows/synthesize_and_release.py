"""Synthetic sets, made, measured, searched for what they leak, and released; or refused, with every reason."""

from __future__ import annotations

from flows.engine.command import main

if __name__ == "__main__":
    main("synthesize_and_release", "ReleaseFlow")  # ends here; the rest is imported anew, Prefect's surroundings set

from pathlib import Path
from typing import Any

from flows.engine.flow import unattended
from flows.engine.keys import files_below
from flows.engine.run import Item, Refused, Run
from flows.engine.steps import StepFailed
from flows.inputs import content_of
from flows.steps import audit_set, evaluate_set, release_set, synthesize_set
from medidiff.unattended import ReleaseFlow, SyntheticRelease


@unattended("synthesize-and-release", ReleaseFlow)
def synthesize_and_release(run: Run[ReleaseFlow]) -> None:
    """Synthetic sets, released or refused."""
    plan = {each.name: each for each in run.plan.sets}
    items = [_item(run, each) for each in run.plan.sets]
    refused = False
    # Sets side by side; what is found out about each, one after the other.
    for item, _ in run.fan_out(synthesize_set, items, lambda item: item.inputs, len(items)):
        try:
            judged(run, plan[item.token], item.arguments["folder"])
        except Refused:
            refused = True
        except StepFailed as failure:
            run.fail("release", item.token, failure.reason)
    if refused:
        raise Refused


def released(run: Run[Any], job: SyntheticRelease) -> Path:
    """The folder of the release of one set.

    Raises:
        Refused: the gate refused.
        StepFailed: a step came to nothing.
    """
    item = _item(run, job)
    run.step(synthesize_set, item.inputs, item.base, item.arguments, item.sources)
    return judged(run, job, item.arguments["folder"])


def judged(run: Run[Any], job: SyntheticRelease, folder: Path) -> Path:
    """Measure a set, search it for what it leaks, and release it.

    Raises:
        Refused: the gate refused.
        StepFailed: a step came to nothing.
    """
    made = run.fingerprints.of(folder / "set.json")
    for call, module, options in (
        (evaluate_set, "medidiff.evaluate", job.evaluate),
        (audit_set, "medidiff.audit", job.audit),
    ):
        inputs, sources = content_of(run.fingerprints, options)
        key = run.key(call.name, module, options, f"{made} {inputs}")
        run.step(call, key, folder, {"folder": folder, "options": options}, sources)
    content = " ".join(f"{name} {run.fingerprints.of(path)}" for name, path in files_below(folder))
    key = run.key("release", "medidiff.release", job.release, content)
    job.releases.mkdir(parents=True, exist_ok=True)
    target = job.releases / f"{job.name}-{key[:12]}"
    arguments = {"folder": folder, "target": target, "options": job.release}
    run.step(release_set, key, job.releases, arguments)
    return target


def _item(run: Run[Any], job: SyntheticRelease) -> Item:
    """A set as an item; it has a folder of its own, named by what it is made from."""
    inputs, sources = content_of(run.fingerprints, job.synthesize)
    key = run.key("synthesize", "medidiff.synthesize", job.synthesize, inputs)
    job.sets.mkdir(parents=True, exist_ok=True)
    arguments = {"folder": job.sets / f"{job.name}-{key[:12]}", "options": job.synthesize}
    return Item(job.name, key, job.sets, arguments, sources)
