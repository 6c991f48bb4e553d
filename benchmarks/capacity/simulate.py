"""A million volumes through a line of stations, each a queue with so many servers.

Every volume visits every station in turn, first come, first served; a server that is free takes the next. That is all
that the simulation knows. When each volume leaves a station follows from when it arrives and when a server is free
(Lindley's recursion, with a heap in place of one server).
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Times = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Station:
    """Where volumes wait.

    Args:
        name: What it is.
        servers: How many volumes it takes at a time.
        seconds: Mean time with one volume.
        spread: Coefficient of variation; times are gamma-distributed.
    """

    name: str
    servers: int
    seconds: float
    spread: float = 0.3


@dataclass(frozen=True, slots=True)
class Load:
    """What a station had to do: share of its servers' time that was used, longest and mean wait in seconds."""

    station: Station
    used: float
    mean_wait: float
    longest_wait: float


@dataclass(frozen=True, slots=True)
class Passage:
    """How a line went: seconds from the first arrival to the last departure, and the load of each station."""

    seconds: float
    loads: tuple[Load, ...]

    @property
    def bottleneck(self) -> Load:
        """What saturates first: the station whose servers are busiest."""
        return max(self.loads, key=lambda load: load.used)


def simulate(stations: Sequence[Station], volumes: int, *, per_second: float | None = None, seed: int = 0) -> Passage:
    """Send volumes down the line.

    Args:
        stations: In order.
        volumes: How many.
        per_second: How often one arrives, at random (Poisson); all are there from the beginning if None.
        seed: Of arrivals and times.
    """
    rng = np.random.default_rng(seed)
    arrive = np.zeros(volumes) if per_second is None else np.cumsum(rng.exponential(1 / per_second, volumes))
    first, loads = float(arrive[0]), []
    served = []
    for station in stations:
        needed = _times(station, volumes, rng)
        begin = _begin(arrive, needed, station.servers)
        served.append((station, needed.sum(), begin - arrive))
        # Whoever is done first is first in the next queue.
        arrive = np.sort(begin + needed)
    seconds = float(arrive[-1]) - first
    for station, busy, waits in served:
        used = float(busy) / (station.servers * seconds) if seconds else 0.0
        loads.append(Load(station, used, float(waits.mean()), float(waits.max())))
    return Passage(seconds, tuple(loads))


def _times(station: Station, volumes: int, rng: np.random.Generator) -> Times:
    if station.seconds == 0 or station.spread == 0:
        return np.full(volumes, station.seconds)
    shape = station.spread**-2
    return rng.gamma(shape, station.seconds / shape, volumes)


def _begin(arrive: Times, needed: Times, servers: int) -> Times:
    """When each volume is taken: at its arrival, or when a server is free."""
    free = [0.0] * servers
    begin = np.empty_like(arrive)
    for number, (here, long) in enumerate(zip(arrive.tolist(), needed.tolist(), strict=True)):
        start = max(here, free[0])
        heapq.heapreplace(free, start + long)
        begin[number] = start
    return begin
