"""Two steps of the flow *synthesize-and-release* as flows of their own.

In between lie measuring and auditing, which take minutes on data worth measuring, and the gate, which rightly refuses
what a network of random weights drew. So the set that is released here is one that passes.
"""

from __future__ import annotations

from pathlib import Path

from flows.engine.flow import unattended
from flows.engine.keys import files_below
from flows.engine.run import Item, Run
from flows.inputs import content_of
from flows.steps import release_set, synthesize_set
from medidiff.release import ReleaseOptions
from medidiff.synthesize import SynthesizeOptions
from medidiff.unattended import FlowConfig


class SynthesizeFlow(FlowConfig):
    """A set to make."""

    kind: str = "flow-synthesize"
    sets: Path
    options: SynthesizeOptions


class ReleasePart(FlowConfig):
    """A set that passed, to release."""

    kind: str = "flow-release-part"
    source: Path
    releases: Path
    options: ReleaseOptions


@unattended("synthesize-and-release", SynthesizeFlow)
def synthesize(run: Run[SynthesizeFlow]) -> None:
    """A set, made as the flow makes it."""
    plan = run.plan
    inputs, sources = content_of(run.fingerprints, plan.options)
    key = run.key("synthesize", "medidiff.synthesize", plan.options, inputs)
    plan.sets.mkdir(parents=True, exist_ok=True)
    arguments = {"folder": plan.sets / f"set-{key[:12]}", "options": plan.options}
    for _ in run.fan_out(synthesize_set, [Item("set", key, plan.sets, arguments, sources)], lambda item: item.inputs):
        pass


@unattended("synthesize-and-release", ReleasePart)
def release(run: Run[ReleasePart]) -> None:
    """A release, as the flow makes it."""
    plan = run.plan
    content = " ".join(f"{name} {run.fingerprints.of(path)}" for name, path in files_below(plan.source))
    key = run.key("release", "medidiff.release", plan.options, content)
    plan.releases.mkdir(parents=True, exist_ok=True)
    target = plan.releases / f"set-{key[:12]}"
    run.step(release_set, key, plan.releases, {"folder": plan.source, "target": target, "options": plan.options})
