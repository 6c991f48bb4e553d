"""Models, one after the other; each is gone on with where it was killed, and trained once."""

from __future__ import annotations

from flows.engine.command import main

if __name__ == "__main__":
    main("train", "TrainFlow")  # ends here; what follows is imported anew once Prefect's surroundings are set

from pathlib import Path
from typing import Any

from flows.engine.flow import unattended
from flows.engine.run import Run
from flows.inputs import content_of
from flows.steps import train_model
from medidiff.unattended import TrainFlow, Training


@unattended("train", TrainFlow)
def train(run: Run[TrainFlow]) -> None:
    """Models to train."""
    for training in run.plan.models:
        trained(run, training)


def trained(run: Run[Any], training: Training) -> Path:
    """The file of a trained model; each has a folder of its own, named by what it was made from."""
    inputs, sources = content_of(run.fingerprints, training.config)
    key = run.key("train", "medidiff.train", training.config, inputs)
    folder = training.output / f"{training.config.name}-{key[:12]}"
    result = run.step(train_model, key, training.output, {"training": training, "folder": folder}, sources)
    return training.output / result.outputs[0].path
