"""A tiny training run in a process of its own, to be killed: ``python -m tests.training.killable FOLDER [--resume]``.

It saves its state after every step, so that most kills fall into a write.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from medidiff.training.distributed import Alone, Team
from medidiff.training.loop import OptimizerConfig, Progress, Trainer
from medidiff.training.objective import PathConfig, Restoration
from tests.training.scans import CPU, TINY, tiny_batches

STEPS = 18


def make_trainer(folder: Path, team: Team | None = None) -> Trainer:
    data = np.load(folder / "head.npy")
    optimizer = OptimizerConfig(steps=STEPS, lr=2e-3, warmup=4)
    objective = Restoration(TINY, PathConfig())
    return Trainer(objective, optimizer, tiny_batches(data), folder, "identity", 0, CPU, team=team or Alone())


def main() -> None:
    trainer = make_trainer(Path(sys.argv[1]))
    if "--resume" in sys.argv and trainer.state_path.exists():
        trainer.resume()

    def tell(progress: Progress) -> None:
        print(progress.step, flush=True)

    trainer.run(checkpoint_every=-1, on_progress=tell, report_every=1)


if __name__ == "__main__":
    main()
