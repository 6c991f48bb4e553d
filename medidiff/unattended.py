"""What a flow is told: one YAML file each, made of the options of the use cases that it calls.

The schemas lie here, so that ``medidiff config show`` reads them without knowing the flows.
"""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, field_validator

from medidiff.audit import AuditOptions
from medidiff.config import Config, read_kind
from medidiff.errors import ConfigError
from medidiff.evaluate import EvaluateOptions
from medidiff.ingest import IngestOptions
from medidiff.reconstruct.options import ReconstructOptions
from medidiff.release import ReleaseOptions
from medidiff.synthesize import SynthesizeOptions
from medidiff.train import TrainConfig
from medidiff.training.generative import GenerativeTrainConfig

# A name that may be seen everywhere: in the database, in logs, as a file name.
NAME = r"^[a-z0-9][a-z0-9-]{0,62}$"


class Threads(Config):
    """Threads of the flow's own process."""

    kind: Literal["threads"] = "threads"
    workers: int = Field(2, ge=1, le=1024)


class Dask(Config):
    """Dask: processes of this machine, or a cluster at an address. Needs the extra ``dask``."""

    kind: Literal["dask"] = "dask"
    workers: int = Field(2, ge=1, le=10_000)
    address: str | None = Field(None, description="such as tcp://scheduler:8786; its workers must see the same files")


class Ray(Config):
    """Ray: this machine, or a cluster at an address. Needs the package prefect-ray."""

    kind: Literal["ray"] = "ray"
    workers: int = Field(2, ge=1, le=10_000)
    address: str | None = Field(None, description="such as ray://head:10001; its workers must see the same files")


Runner = Annotated[Threads | Dask | Ray, Field(discriminator="kind")]


class FlowConfig(Config):
    """What every flow is told.

    Args:
        state: Folder of its state; one run at a time works in it.
        runner: What carries out the items of a step that fans out.
        wait_seconds: How long to wait while another run is at work in ``state``.
        retries: How often a step is tried again after a passing fault (a full disk, a server that is away).
        retry_seconds: Wait before the first retry; doubled for each that follows.
    """

    state: Path = Path("medidiff-state")
    runner: Runner = Threads()
    wait_seconds: float = Field(60.0, ge=0, le=86_400)
    retries: int = Field(3, ge=0, le=20)
    retry_seconds: float = Field(5.0, ge=0, le=3600)


class Site(Config):
    """A heap, and the dataset that it becomes."""

    name: str = Field(pattern=NAME)
    sources: tuple[str, ...] = Field(min_length=1, description="folders, files, archives or servers")
    dataset: Path
    options: IngestOptions = IngestOptions()


class IngestFlow(FlowConfig):
    """New scans into datasets, site by site."""

    kind: Literal["flow-ingest"] = "flow-ingest"
    sites: tuple[Site, ...] = Field(min_length=1)

    @field_validator("sites")
    @classmethod
    def _different(cls, sites: tuple[Site, ...]) -> tuple[Site, ...]:
        if len({site.name for site in sites}) < len(sites) or len({site.dataset for site in sites}) < len(sites):
            raise ValueError("each site needs a name and a dataset of its own")
        return sites


class Training(Config):
    """A model to train.

    Args:
        config: As of ``medidiff train``.
        output: Folder of models; each training run has a folder of its own in it.
        device: CUDA where there is one, by default.
        checkpoint_minutes: How much is lost at most when it is killed.
    """

    config: Annotated[TrainConfig | GenerativeTrainConfig, Field(discriminator="kind")]
    output: Path
    device: str | None = Field(None, pattern=r"^(cpu|cuda(:\d+)?)$")
    checkpoint_minutes: float = Field(3.0, gt=0)


class TrainFlow(FlowConfig):
    """Models to train, one after the other."""

    kind: Literal["flow-train"] = "flow-train"
    models: tuple[Training, ...] = Field(min_length=1)


class FromFolder(Config):
    """Every scan of a folder and of those in it: a file a scan."""

    kind: Literal["folder"] = "folder"
    folder: Path


class FromDataset(Config):
    """Every usable volume of a dataset that was ingested."""

    kind: Literal["dataset"] = "dataset"
    dataset: Path


class FromHeap(Config):
    """Whatever a heap or a server holds; it becomes a dataset first."""

    kind: Literal["heap"] = "heap"
    site: Site


class ReconstructFlow(FlowConfig):
    """Scans to restore, each an item.

    Args:
        source: Where they are.
        output: Folder of the results; each has the name of its token, ``sha256sum SCAN | cut -c-16``.
        options: As of ``medidiff reconstruct``, with underscores.
        suffix: Form of the results.
    """

    kind: Literal["flow-reconstruct"] = "flow-reconstruct"
    source: Annotated[FromFolder | FromDataset | FromHeap, Field(discriminator="kind")]
    output: Path
    options: dict[str, Any] = Field(default_factory=dict)
    suffix: Literal[".nii.gz", ".nii", ".mgz", ".nrrd"] = ".nii.gz"

    @field_validator("options")
    @classmethod
    def _fit(cls, options: dict[str, Any]) -> dict[str, Any]:
        known = {each.name for each in fields(ReconstructOptions)}
        for name in options:
            if name not in known:
                raise ValueError(f"{name}: no such setting")
            if name in ("preview", "report", "inpaint"):
                raise ValueError(f"{name}: this is for one scan, and a flow has many")
        try:
            TypeAdapter(ReconstructOptions).validate_python(options)
        except ConfigError as error:
            raise ValueError(str(error)) from None
        return options

    @property
    def reconstruct(self) -> ReconstructOptions:
        """The options as the use case takes them."""
        return TypeAdapter(ReconstructOptions).validate_python(self.options)


class SyntheticRelease(Config):
    """A synthetic set, and its release.

    Args:
        name: Of both folders, with the first digits of their keys behind it.
        sets: Folder of sets.
        releases: Folder of releases.
        synthesize, evaluate, audit, release: As of the commands of these names.
    """

    name: str = Field(pattern=NAME)
    sets: Path
    releases: Path
    synthesize: SynthesizeOptions
    evaluate: EvaluateOptions
    audit: AuditOptions
    release: ReleaseOptions = ReleaseOptions()


class ReleaseFlow(FlowConfig):
    """Synthetic sets to make, examine and release."""

    kind: Literal["flow-release"] = "flow-release"
    sets: tuple[SyntheticRelease, ...] = Field(min_length=1)

    @field_validator("sets")
    @classmethod
    def _different(cls, sets: tuple[SyntheticRelease, ...]) -> tuple[SyntheticRelease, ...]:
        if len({each.name for each in sets}) < len(sets):
            raise ValueError("each set needs a name of its own")
        return sets


class NightlyFlow(FlowConfig):
    """New scans, dataset, training, evaluation, a release candidate.

    Args:
        sites: Heaps and servers with new scans.
        train: What is trained on what they have become; ``begin_from`` makes it fine-tuning.
        candidate: The set that the trained model makes; whichever model its options name, the trained one is taken.
    """

    kind: Literal["flow-nightly"] = "flow-nightly"
    sites: tuple[Site, ...] = Field(min_length=1)
    train: Training
    candidate: SyntheticRelease


SCHEMAS: dict[str, type[FlowConfig]] = {
    str(schema.model_fields["kind"].default): schema
    for schema in (IngestFlow, TrainFlow, ReconstructFlow, ReleaseFlow, NightlyFlow)
}


def schema_of(path: Path) -> type[FlowConfig]:
    """The schema of a flow's configuration, by its ``kind``.

    Raises:
        InputError: the file cannot be read.
        ConfigError: it configures no flow.
    """
    kind = read_kind(path)
    if kind not in SCHEMAS:
        raise ConfigError(f"{path}: kind: expected one of {', '.join(SCHEMAS)}, got {kind!r}")
    return SCHEMAS[kind]
