"""What carries out the items of a step: threads, Dask or Ray, by configuration."""

from __future__ import annotations

from typing import Any

from prefect.task_runners import TaskRunner, ThreadPoolTaskRunner

from medidiff.errors import ConfigError
from medidiff.unattended import Dask, Ray, Threads


def task_runner(config: Threads | Dask | Ray) -> TaskRunner[Any]:
    """Prefect's task runner of that kind.

    Raises:
        ConfigError: its package is not installed.
    """
    match config:
        case Threads():
            return ThreadPoolTaskRunner(max_workers=config.workers)
        case Dask():
            return _dask(config)
        case Ray():
            return _ray(config)


def _dask(config: Dask) -> TaskRunner[Any]:
    try:
        from prefect_dask.task_runners import DaskTaskRunner
    except ImportError:
        raise ConfigError("runner: dask is not installed; pip install 'medidiff[flows,dask]'") from None
    if config.address is not None:
        return DaskTaskRunner(address=config.address)
    # No dashboard: nothing listens that nobody asked for, and arguments are shown on it.
    here = {"n_workers": config.workers, "threads_per_worker": 1, "processes": True, "dashboard_address": None}
    return DaskTaskRunner(cluster_kwargs={**here, "host": "127.0.0.1"})


def _ray(config: Ray) -> TaskRunner[Any]:
    try:
        from prefect_ray.task_runners import RayTaskRunner
    except ImportError:
        raise ConfigError("runner: ray is not installed; pip install 'medidiff[flows,ray]'") from None
    here = {"num_cpus": config.workers, "include_dashboard": False, "log_to_driver": False}
    runner: TaskRunner[Any] = RayTaskRunner(address=config.address, init_kwargs={} if config.address else here)
    return runner
