"""``medidiff config show``: what a configuration says once every default is filled in."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medidiff.cli import console

if TYPE_CHECKING:
    from medidiff.config import Config

# Where the schema of each `kind:` lives; loaded when a file of that kind is.
SCHEMAS = {
    "train": "medidiff.train:TrainConfig",
    "train-generator": "medidiff.training.generative:GenerativeTrainConfig",
    "train-encoder": "medidiff.training.encoder:EncoderTrainConfig",
    "features": "medidiff.metrics.features:FeatureConfig",
    "synthesize": "medidiff.synthesize:SynthesizeOptions",
    "ingest": "medidiff.ingest:IngestOptions",
    "evaluate": "medidiff.evaluate:EvaluateOptions",
    "audit": "medidiff.audit:AuditOptions",
    "flow-ingest": "medidiff.unattended:IngestFlow",
    "flow-train": "medidiff.unattended:TrainFlow",
    "flow-reconstruct": "medidiff.unattended:ReconstructFlow",
    "flow-release": "medidiff.unattended:ReleaseFlow",
    "flow-nightly": "medidiff.unattended:NightlyFlow",
    "operator": "medidiff.restoration.operator_config:OperatorConfig",
}

config_app = typer.Typer(no_args_is_help=True, help="Look at configurations.")


@config_app.command()
def show(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A YAML file, such as those in configs/.")],
    digest: Annotated[
        bool, typer.Option("--digest", help="Print only the hash of the resolved configuration.")
    ] = False,
) -> None:
    """Check FILE and print it with every default filled in, and its hash."""
    from medidiff.config import config_digest, dump_config

    config = load(file)
    warn_of_card(config)
    if not digest:
        console.say(dump_config(config))
    console.say(config_digest(config) if digest else f"# digest {config_digest(config)}")


def warn_of_card(config: Config) -> None:
    """Hours of training are a late place to learn that nothing that is made with a generator could go out."""
    if missing := getattr(config, "missing_on_card", None):
        console.log(
            f"medidiff: warning: card: does not tell {', '.join(missing)}: no set made with this generator could go out"
        )


def load(path: Path) -> Config:
    """Read a configuration of whatever kind the file says it is.

    Raises:
        ConfigError: no such kind, or the content does not fit it.
    """
    from medidiff.config import load_config, read_kind
    from medidiff.errors import ConfigError

    kind = read_kind(path)
    if kind not in SCHEMAS:
        raise ConfigError(f"{path}: kind: expected one of {', '.join(SCHEMAS)}, got {kind!r}")
    module, _, name = SCHEMAS[kind].partition(":")
    schema: type[Config] = getattr(import_module(module), name)
    return load_config(path, schema)
