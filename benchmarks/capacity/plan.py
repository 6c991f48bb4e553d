"""A user's site as stations, and what it costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from benchmarks.capacity.simulate import Passage, Station, simulate
from medidiff.config import Config
from medidiff.errors import ConfigError

Stage = Literal["ingest", "reconstruct", "synthesize", "audit", "release"]


class Figures(Config):
    """What one volume costs; measured, or somebody's own.

    Args:
        core_seconds: Of one core, a volume, by stage.
        gpu_seconds: Of one GPU, a volume, for stages that have one; those then need no core.
        written_mb, read_mb: To and from the store, a volume, over all stages.
        kept_mb: That stays in the store.
        tasks_per_second: That the database of the flows takes: Prefect's server on it, one task a stage.
        volumes_per_task: One, where scans fan out; a set's items, where a set is one task.
    """

    core_seconds: dict[Stage, float]
    gpu_seconds: dict[Stage, float] = Field(default_factory=dict)
    written_mb: float = Field(gt=0)
    read_mb: float = Field(gt=0)
    kept_mb: float = Field(gt=0)
    tasks_per_second: float = Field(gt=0)
    volumes_per_task: int = Field(1, ge=1)

    def on_core(self, stages: Sequence[Stage]) -> float:
        """Core-seconds of a volume that goes through these stages.

        Raises:
            ConfigError: what one of them costs is not known.
        """
        unknown = [stage for stage in stages if stage not in self.core_seconds]
        if unknown:
            raise ConfigError(f"core_seconds: no figure for {', '.join(unknown)}: measure it, or leave the stage out")
        return sum(self.core_seconds[stage] for stage in stages)


class Site(Config):
    """What a user has, wants and pays; prices are placeholders for one's own.

    Args:
        stages: What is done with every volume.
        cores, gpus: Over all machines.
        store_mb_per_second: Of the file system or object store, over all clients.
        core_hour, gpu_hour, gb_month: Prices.
        months: That results are kept.
    """

    volumes: int = Field(1_000_000, ge=1)
    stages: tuple[Stage, ...] = ("ingest", "reconstruct")
    cores: int = Field(64, ge=1)
    gpus: int = Field(0, ge=0)
    store_mb_per_second: float = Field(500.0, gt=0)
    core_hour: float = Field(0.04, ge=0)
    gpu_hour: float = Field(2.5, ge=0)
    gb_month: float = Field(0.023, ge=0)
    months: float = Field(12.0, ge=0)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a site can expect.

    Args:
        hours: From the first volume to the last.
        bottleneck: What saturates first, and the share of its time that it is used.
        core_hours, gpu_hours: Of work.
        stored_gb: At the end.
        cost_work, cost_store: In the currency of the prices.
    """

    hours: float
    bottleneck: str
    used: float
    core_hours: float
    gpu_hours: float
    stored_gb: float
    cost_work: float
    cost_store: float


def stations_of(site: Site, figures: Figures) -> list[Station]:
    """The line: the store is read, the database told, cores and GPUs work, the store is written.

    Stages that share the cores are one station: a core does all of them, one volume after the other.
    """
    on_gpu = [stage for stage in site.stages if site.gpus and stage in figures.gpu_seconds]
    cores = figures.on_core([stage for stage in site.stages if stage not in on_gpu])
    line = [
        Station("store, reading", 1, figures.read_mb / site.store_mb_per_second),
        Station("database", 1, len(site.stages) / figures.volumes_per_task / figures.tasks_per_second),
        Station("cores", site.cores, cores),
    ]
    if on_gpu:
        line.append(Station("GPUs", site.gpus, sum(figures.gpu_seconds[stage] for stage in on_gpu)))
    return [*line, Station("store, writing", 1, figures.written_mb / site.store_mb_per_second)]


def answer(site: Site, figures: Figures, *, simulated: int | None = None, seed: int = 0) -> Answer:
    """Simulate a site.

    Args:
        simulated: Fewer volumes than the site's, in proportion; all of them if None.
    """
    count = min(site.volumes, simulated or site.volumes)
    passage: Passage = simulate(stations_of(site, figures), count, seed=seed)
    scale = site.volumes / count
    on_gpu = [stage for stage in site.stages if site.gpus and stage in figures.gpu_seconds]
    core_hours = site.volumes * figures.on_core([s for s in site.stages if s not in on_gpu]) / 3600
    gpu_hours = site.volumes * sum(figures.gpu_seconds[s] for s in on_gpu) / 3600
    stored = site.volumes * figures.kept_mb / 1000
    return Answer(
        hours=passage.seconds * scale / 3600,
        bottleneck=passage.bottleneck.station.name,
        used=passage.bottleneck.used,
        core_hours=core_hours,
        gpu_hours=gpu_hours,
        stored_gb=stored,
        cost_work=core_hours * site.core_hour + gpu_hours * site.gpu_hour,
        cost_store=stored * site.gb_month * site.months,
    )


def sweep(
    site: Site, figures: Figures, cores: Sequence[int], *, simulated: int | None = None
) -> list[tuple[int, Answer]]:
    """The same site with more and more cores: where more of them help no longer."""
    return [(count, answer(site.model_copy(update={"cores": count}), figures, simulated=simulated)) for count in cores]
