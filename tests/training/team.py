"""Tiny training runs of several processes, for torchrun to start: ``-m tests.training.team TASK FOLDER``.

``die``: the last process kills itself after step 7; ``finish``: a straight run, and the dead one resumed; ``split``: a
run whose weights are split over the processes.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from medidiff.training.distributed import ProcessesConfig, Team, join_team
from medidiff.training.loop import Trainer
from tests.training.killable import make_trainer

DIES_AFTER = 7


def run(folder: Path, team: Team, *, resume: bool = False, dies: bool = False) -> None:
    trainer = make_trainer(folder, team)
    if resume:
        trainer.resume()
    if dies and team.rank == team.size - 1:
        trainer.batches = Deadly(trainer)  # type: ignore[assignment]
    trainer.run(checkpoint_every=-1, report_every=1)
    trainer.export(folder / "model.safetensors", {"name": "tiny"})


class Deadly:
    """Batches whose reader is killed, as if the machine had gone, when it asks for the one after the last."""

    def __init__(self, trainer: Trainer) -> None:
        self.batches = trainer.batches

    def __getitem__(self, step: int) -> object:
        if step == DIES_AFTER:
            os.kill(os.getpid(), signal.SIGKILL)
        return self.batches[step]


def main() -> None:
    task, folder = sys.argv[1], Path(sys.argv[2])
    processes = ProcessesConfig(strategy="fsdp") if task == "split" else ProcessesConfig(count=2)
    with join_team(processes, "cpu") as team:
        if task == "finish":
            run(folder / "straight", team)
            run(folder / "killed", team, resume=True)
        else:
            run(folder / {"die": "killed"}.get(task, task), team, dies=task == "die")


if __name__ == "__main__":
    main()
    # All is written. On a crowded machine gloo's threads now and then abort an interpreter that ends beside them.
    sys.stdout.flush()
    os._exit(0)
