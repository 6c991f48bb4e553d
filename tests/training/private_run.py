"""A tiny private run, also as a process to be killed: ``python -m tests.training.private_run PEOPLE FOLDER KEY``."""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from medidiff.config import parse_config
from medidiff.training.generative import GenerativeTrainConfig, generative_plan
from medidiff.training.loop import Progress
from medidiff.training.private import PrivateTrainer

CPU = torch.device("cpu")
PEOPLE = 24
PUBLIC = """
kind: train-generator
name: public
people: {kind: procedural, count: 8}
shape: [8, 12, 8]
labels: [{value: 1, name: front}, {value: 2, name: back}]
network: {channels: [8], blocks: 1}
items: {size: 2, warp: {shift: 1, crop: 1}}
optimizer: {steps: 3, warmup: 1}
"""


def private_text(folder: Path) -> str:
    """A private run on the people of a folder."""
    return f"""
kind: train-generator
name: private
seed: 0
people: {{images: {folder}/images, labels: {folder}/labels}}
shape: [8, 12, 8]
labels: [{{value: 1, name: front}}, {{value: 2, name: back}}]
network: {{channels: [8], blocks: 1}}
items: {{warp: {{shift: 1, crop: 1}}}}
begin_from: {folder}/public/public.safetensors
dp: {{epsilon: 8, sampling: 0.3, draws: 3}}
optimizer: {{steps: 6, lr: 1.0e-2, warmup: 1}}
"""


def make_trainer(people: Path, folder: Path, key: bytes | None = None) -> PrivateTrainer:
    config = parse_config(private_text(people), GenerativeTrainConfig)
    plan = generative_plan(config, CPU)
    assert plan.budget is not None
    folder.mkdir(parents=True, exist_ok=True)
    keys = {} if key is None else {"key": key}
    trainer = PrivateTrainer(
        plan.objective, config.optimizer, plan.batches, folder, plan.identity, 0, CPU, budget=plan.budget, **keys
    )
    assert config.begin_from is not None
    trainer.begin_from(config.begin_from)
    return trainer


def main() -> None:
    trainer = make_trainer(Path(sys.argv[1]), Path(sys.argv[2]), bytes.fromhex(sys.argv[3]))

    def tell(progress: Progress) -> None:
        print(progress.step, flush=True)

    trainer.run(checkpoint_every=-1, on_progress=tell, report_every=1)


if __name__ == "__main__":
    main()
