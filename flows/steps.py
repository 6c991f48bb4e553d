"""The steps of all flows: each is one call of the library."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from flows.engine.steps import BAD_INPUT, Made, Order, StepFailed, Work, step


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
        raise StepFailed("no volume came of it; the page in the dataset's folder report says why", BAD_INPUT)
    return Made((result.dataset,), facts)


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
