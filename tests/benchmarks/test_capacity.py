"""The simulation of capacity against closed forms, and sites whose bottleneck is known."""

from __future__ import annotations

import math
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from benchmarks.capacity.measure import Measurement
from benchmarks.capacity.plan import Figures, Site, Stage, answer, stations_of, sweep
from benchmarks.capacity.simulate import Station, simulate
from medidiff.config import load_config
from medidiff.errors import ConfigError

FOLDER = Path(__file__).parents[2] / "benchmarks" / "capacity"

FIGURES = Figures(
    core_seconds={"ingest": 8.0, "reconstruct": 10.0, "synthesize": 5.0, "audit": 1.0, "release": 0.2},
    gpu_seconds={"reconstruct": 0.5},
    written_mb=20,
    read_mb=10,
    kept_mb=20,
    tasks_per_second=20,
)


def erlang_c(servers: int, load: float) -> float:
    """Probability of a wait in M/M/c; ``load`` is arrivals over one server's rate."""
    waiting = load**servers / math.factorial(servers) * servers / (servers - load)
    return waiting / (sum(load**k / math.factorial(k) for k in range(servers)) + waiting)


@pytest.mark.parametrize(("servers", "load"), [(1, 0.5), (1, 0.8), (4, 3.0)])
def test_waits_are_those_of_queueing_theory(servers: int, load: float) -> None:
    """Gamma times of spread 1 are exponential: M/M/c, whose mean wait is C / (c mu - lambda)."""
    waits = [
        simulate([Station("s", servers, 1.0, spread=1.0)], 40_000, per_second=load, seed=seed).loads[0].mean_wait
        for seed in range(4)
    ]
    assert np.mean(waits) == pytest.approx(erlang_c(servers, load) / (servers - load), rel=0.08)


def test_work_that_is_all_there_takes_as_long_as_its_slowest_station() -> None:
    """Fixed times: n s / c for the bottleneck, and one passage through the others."""
    line = [Station("a", 1, 0.5, 0), Station("b", 4, 4.0, 0), Station("c", 1, 0.25, 0)]
    passage = simulate(line, 1000)
    assert passage.bottleneck.station.name == "b"
    assert passage.seconds == pytest.approx(1000 * 4.0 / 4, rel=0.01)
    assert passage.loads[0].used == pytest.approx(0.5, rel=0.01)


def test_the_same_seed_gives_the_same_passage_and_another_does_not() -> None:
    line = [Station("a", 3, 1.0)]
    assert simulate(line, 500, per_second=2, seed=1) == simulate(line, 500, per_second=2, seed=1)
    assert simulate(line, 500, per_second=2, seed=1) != simulate(line, 500, per_second=2, seed=2)


def test_more_cores_help_until_something_else_is_full() -> None:
    """18 core-seconds a volume against 2 tasks at 20 a second: the database is full from 180 cores on."""
    rows = dict(sweep(Site(volumes=20_000, store_mb_per_second=5000), FIGURES, (32, 64, 512, 1024)))
    assert rows[32].bottleneck == rows[64].bottleneck == "cores"
    assert rows[64].hours == pytest.approx(rows[32].hours / 2, rel=0.05)
    assert rows[512].bottleneck == rows[1024].bottleneck == "database"
    assert rows[1024].hours == pytest.approx(rows[512].hours, rel=0.02)
    assert rows[1024].hours == pytest.approx(20_000 * 2 / 20 / 3600, rel=0.03)
    slow = answer(Site(volumes=4000, store_mb_per_second=20, cores=512), FIGURES)
    assert slow.bottleneck == "store, writing"


def test_costs_are_work_times_price() -> None:
    site = Site(volumes=1000, cores=8, core_hour=0.1, gb_month=0.02, months=6)
    found = answer(site, FIGURES, simulated=200)
    assert found.core_hours == pytest.approx(1000 * 18 / 3600)
    assert found.cost_work == pytest.approx(0.5)
    assert found.stored_gb == pytest.approx(20)
    assert found.cost_store == pytest.approx(20 * 0.02 * 6)
    assert found.hours == pytest.approx(1000 * 18 / 8 / 3600, rel=0.1)


def test_what_a_gpu_does_no_core_does() -> None:
    with_gpu = Site(gpus=2, stages=("ingest", "reconstruct"))
    line = {station.name: station for station in stations_of(with_gpu, FIGURES)}
    assert line["cores"].seconds == pytest.approx(8)
    assert line["GPUs"] == Station("GPUs", 2, 0.5)
    assert "GPUs" not in {station.name for station in stations_of(Site(gpus=0), FIGURES)}


def test_a_set_is_one_task_however_many_items_it_has() -> None:
    def database(figures: Figures) -> float:
        return {station.name: station for station in stations_of(Site(), figures)}["database"].seconds

    assert database(FIGURES) == pytest.approx(2 / 20)
    assert database(FIGURES.model_copy(update={"volumes_per_task": 128})) == pytest.approx(2 / 20 / 128)


def test_the_figures_on_file_are_enough_for_the_sites_of_the_page() -> None:
    """Every stage has a figure in one of the two files, and both sites can be simulated."""
    heads, sets = (load_config(FOLDER / name, Figures) for name in ("figures.yaml", "figures-sets.yaml"))
    assert answer(Site(volumes=1000), heads).bottleneck == "cores"
    assert answer(Site(volumes=1000, stages=("synthesize", "audit", "release")), sets).bottleneck == "cores"
    assert heads.core_seconds.keys() | sets.core_seconds.keys() == set(get_args(Stage))


def test_a_stage_without_a_figure_is_refused() -> None:
    unknown = FIGURES.model_copy(update={"core_seconds": {"ingest": 8.0}})
    with pytest.raises(ConfigError, match="no figure for reconstruct"):
        answer(Site(volumes=10), unknown)


def test_the_interval_is_students() -> None:
    measured = Measurement("ingest", "head", (1.0, 2.0, 3.0), 4.0)
    assert measured.mean == 2
    assert measured.interval == pytest.approx((2 - 4.3027 / 3**0.5, 2 + 4.3027 / 3**0.5), rel=1e-4)
    assert Measurement("ingest", "head", (1.5,), 4.0).interval == (1.5, 1.5)
