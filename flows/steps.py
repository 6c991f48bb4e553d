"""The steps of all flows: each is one call of the library."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from flows.engine.steps import Made, Order, StepFailed, Work, step
from medidiff.errors import EXIT_BAD_INPUT, GateRefused, InputError


@step("ingest")
def ingest_site(order: Order, work: Work) -> Made:
    """A heap into its dataset."""
    from medidiff.ingest import ingest

    site = order.arguments["site"]
    result = ingest(site.sources, site.dataset, site.options, work.on_progress)
    facts: dict[str, Any] = {
        "site": site.name,
        "source_files": result.files,
        "in_a_volume": result.kept,
        "set_apart": result.set_apart,
        "to_look_at": result.bad,
        "new": len(result.added),
        "volumes": result.volumes,
        "usable": result.usable,
        "patients": result.patients,
        **{f"in_{split}": count for split, count in result.splits.items()},
    }
    if not result.volumes:
        raise StepFailed("no volume came of it; the page in the dataset's folder report says why", EXIT_BAD_INPUT)
    # By the name that the configuration gives it: the use case gives back what that leads to.
    return Made((site.dataset,), facts, pages=(site.dataset / result.report.relative_to(result.dataset),))


@step("train")
def train_model(order: Order, work: Work) -> Made:
    """A model; a run that was killed is gone on with."""
    from medidiff.train import TrainOptions, train

    training, folder = order.arguments["training"], order.arguments["folder"]
    options = TrainOptions(folder, resume=True, device=training.device, checkpoint_minutes=training.checkpoint_minutes)
    result = train(training.config, options, lambda told: work.on_progress(told.step, told.steps))
    if not result.finished:
        raise StepFailed("training ended before its last step")
    facts = {"model": training.config.name, "steps": result.steps, "psnr_db": result.validation_psnr_db}
    return Made((result.model,), facts)


@step("reconstruct")
def reconstruct_scan(order: Order, work: Work) -> Made:
    """A restored scan and its record."""
    from medidiff.reconstruct import reconstruct

    output: Path = order.arguments["output"]
    result = reconstruct(order.arguments["scan"], output, order.arguments["options"], work.on_progress)
    record = output.with_name(f"{order.item}.json")
    outputs = (result.output, *result.samples, *((result.spread,) if result.spread else ()))
    facts = {
        "warnings": len(result.record["warnings"]),
        "data_consistency_nrmse": result.record["data_consistency_nrmse"],
        "seconds": result.record["seconds"],
    }
    return Made((*outputs, *((record,) if record.is_file() else ())), facts)


@step("synthesize")
def synthesize_set(order: Order, work: Work) -> Made:
    """A synthetic set; one that was begun is gone on with, one that is no longer whole is made anew."""
    from medidiff.synthesize import synthesize
    from medidiff.synthetic import SyntheticSet

    folder: Path = order.arguments["folder"]
    if (folder / "set.json").is_file() and not _is_whole(folder):
        shutil.rmtree(folder)
    result = synthesize(folder, order.arguments["options"], work.on_progress)
    parts = (folder / "set.json", folder / "synthetic.jsonl", folder / "images", folder / "labels")
    facts = {"items": result.items, "labels": len(SyntheticSet.open(folder).record.labels), "set": result.set_sha256}
    return Made(tuple(part for part in parts if part.exists()), facts, pictures=(result.preview,))


def _is_whole(folder: Path) -> bool:
    from medidiff.synthetic import SyntheticSet

    try:
        return not SyntheticSet.open(folder).faults()
    except InputError:
        return False


@step("evaluate")
def evaluate_set(order: Order, work: Work) -> Made:
    """How good a set is: its quality report."""
    from medidiff.evaluate import evaluate

    result = evaluate(order.arguments["folder"], order.arguments["options"], work.on_progress)
    return Made((result.report,), {"verdict": result.verdict.value, **_figures(result.metrics)})


@step("audit")
def audit_set(order: Order, work: Work) -> Made:
    """What a set leaks: its privacy report."""
    from medidiff.audit import audit

    result = audit(order.arguments["folder"], order.arguments["options"], work.on_progress)
    return Made((result.report,), {"verdict": result.verdict.value, **_figures(result.metrics)})


def _figures(metrics: Iterable[Any]) -> dict[str, Any]:
    """Name and value of what was measured and judged."""
    return {metric.name: metric.value for metric in metrics if metric.outcome is not None}


@step("release")
def release_set(order: Order, work: Work) -> Made:
    """A release, or the gate's reasons against it."""
    from medidiff.release import check, release
    from medidiff.synthetic import SyntheticSet

    folder, target = order.arguments["folder"], order.arguments["target"]
    if target.exists():
        # Killed between the release and its record, or altered since: what was altered is put aside, never mended.
        try:
            check(target)
        except (GateRefused, InputError):
            target.rename(target.with_name(f"{target.name}-altered-{secrets.token_hex(4)}"))
    page = folder.with_name(f"{folder.name}-house.html")
    if not target.exists():
        release(folder, target, order.arguments["options"], work.on_progress, report=page)
    synthetic = SyntheticSet.open(folder)
    facts = {"release": target.name, "items": len(synthetic.items), "set": synthetic.sha256}
    return Made((target,), facts, pages=(target / "report.html",))
