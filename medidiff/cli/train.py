"""``medidiff train``: a config in, a model file out."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medidiff.cli import console
from medidiff.cli.config import warn_of_card
from medidiff.cli.memory import reuse_freed_memory
from medidiff.progress import OnProgress

if TYPE_CHECKING:
    from medidiff.train import AnyTrainConfig
    from medidiff.training.loop import Progress

# A log file is told this often how far training is; a terminal sees a bar that moves.
LINE_SECONDS = 60.0


def train(
    config: Annotated[
        Path, typer.Argument(metavar="CONFIG", help="A YAML file: configs/brain-t1.yaml, configs/hippocampus.yaml, ...")
    ],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder of the model, state and loss curve (default: runs/NAME)."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the state in the output folder.")] = False,
    max_minutes: Annotated[float | None, typer.Option(min=0, help="Stop after so many minutes; resume later.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda (default: cuda if there is one).")] = None,
    dp: Annotated[
        str | None,
        typer.Option(metavar="epsilon=8", help="Differential privacy of everybody in training (generators only)."),
    ] = None,
) -> None:
    """Train a model as CONFIG says.

    For several processes, `torchrun --nproc-per-node 2 -m medidiff train CONFIG`.
    """
    reuse_freed_memory()
    if os.environ.get("RANK", "0") != "0":
        console.configure(quiet=True)  # of several processes, the first one talks
    from medidiff import train as use_case
    from medidiff.config import load_config, read_kind
    from medidiff.training.generative import GenerativeTrainConfig

    kind = read_kind(config)
    if kind == "train-encoder":
        _train_encoder(config, output, resume, max_minutes)
        return
    generator = kind == "train-generator"
    settings: use_case.AnyTrainConfig = (
        load_config(config, GenerativeTrainConfig) if generator else load_config(config, use_case.TrainConfig)
    )
    warn_of_card(settings)
    if dp is not None:
        settings = _private(settings, dp)
    options = use_case.TrainOptions(
        output=output or Path("runs") / settings.name, resume=resume, max_minutes=max_minutes, device=device
    )
    with console.progress(f"training {settings.name}") as on_progress:
        result = use_case.train(settings, options, _Reporter(on_progress, "" if generator else " dB"))
    facts: dict[str, object] = {"model": result.model, "steps": result.steps}
    if result.validation_psnr_db is not None:
        facts["validation (dB)"] = f"{result.validation_psnr_db:.2f}"
        facts["cubic + projection (dB)"] = f"{result.baseline_psnr_db:.2f}"
    if result.held_out_loss is not None:
        facts["loss on held-out people"] = f"{result.held_out_loss:.4f}"
    if result.privacy is not None:
        spent = result.privacy
        facts["privacy spent"] = (
            f"epsilon {spent['epsilon']:.2f} at delta {spent['delta']:.2g}, {spent['people']} people"
        )
    if not result.finished:
        facts["stopped"] = f"before the last step: go on with `medidiff train {config} --resume`"
    console.facts("", facts)


def _train_encoder(config: Path, output: Path | None, resume: bool, max_minutes: float | None) -> None:
    """Of the network that sets are compared by."""
    from medidiff.config import load_config
    from medidiff.training.encoder import EncoderTrainConfig, train_encoder

    settings = load_config(config, EncoderTrainConfig)
    with console.progress(f"training {settings.name}") as on_progress:
        result = train_encoder(
            settings,
            output or Path("runs") / settings.name,
            resume=resume,
            max_minutes=max_minutes,
            on_progress=on_progress,
        )
    facts: dict[str, object] = {"model": result.model, "steps": result.steps, "loss": f"{result.loss:.3f}"}
    if not result.finished:
        facts["stopped"] = f"before the last step: go on with `medidiff train {config} --resume`"
    console.facts("", facts)


def _private(settings: AnyTrainConfig, dp: str) -> AnyTrainConfig:
    """The same run within a privacy budget."""
    from medidiff.errors import ConfigError
    from medidiff.training.generative import GenerativeTrainConfig
    from medidiff.training.privacy_budget import with_budget

    if not isinstance(settings, GenerativeTrainConfig):
        raise ConfigError("--dp: only generators (`kind: train-generator`) are trained under differential privacy")
    return settings.model_copy(update={"dp": with_budget(dp, settings.dp)})


class _Reporter:
    """Turns what the training loop reports into a moving bar, or into lines where nobody watches."""

    def __init__(self, on_progress: OnProgress, unit: str) -> None:
        self.on_progress, self.unit = on_progress, unit
        self.score = ""
        self.last_line = 0.0

    def __call__(self, progress: Progress) -> None:
        if progress.score is not None:
            self.score = f", validation {progress.score:.{2 if self.unit else 4}f}{self.unit}"
        what = f"{progress.told} {progress.loss:.4f}{self.score}"
        self.on_progress(progress.step, progress.steps, what)
        due = progress.score is not None or progress.seconds - self.last_line >= LINE_SECONDS
        if due and not sys.stderr.isatty():
            self.last_line = progress.seconds
            clock = time.strftime("%H:%M:%S", time.gmtime(progress.seconds))
            console.log(f"step {progress.step} of {progress.steps}, {clock}, {what}")
