"""What carries out the items of a step: threads, Dask or Ray, by configuration."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import httpx
from prefect.client.orchestration import get_client
from prefect.futures import PrefectFuture
from prefect.states import Crashed
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
        import dask
        from prefect_dask.task_runners import DaskTaskRunner
    except ImportError:
        raise ConfigError("runner: dask is not installed; pip install 'medidiff[flows,dask]'") from None
    if config.address is not None:
        return DaskTaskRunner(address=config.address)
    # No dashboard, and none of the pages that the scheduler serves without one: they show what is at work.
    dask.config.set({"distributed.scheduler.http.routes": [], "distributed.worker.http.routes": []})
    here = {"n_workers": config.workers, "threads_per_worker": 1, "processes": True, "dashboard_address": None}
    return DaskTaskRunner(cluster_kwargs={**here, "host": "127.0.0.1"})


def _ray(config: Ray) -> TaskRunner[Any]:
    try:
        from prefect_ray.task_runners import RayTaskRunner
    except ImportError:
        raise ConfigError("runner: ray is not installed; pip install 'medidiff[flows]' prefect-ray") from None
    here = {"num_cpus": config.workers, "include_dashboard": False, "log_to_driver": False}
    runner: TaskRunner[Any] = RayTaskRunner(address=config.address, init_kwargs={} if config.address else here)
    return runner


def outcome_of(future: PrefectFuture[Any]) -> Any:
    """What a task came to, once it is over: its value, its error, or None where no worker lived to tell."""
    try:
        return future.result(raise_on_failure=False)
    except Exception:  # noqa: BLE001 - Dask and Ray have errors of their own for a task whose workers all died
        _crash(future)
        return None


def _crash(future: PrefectFuture[Any]) -> None:
    """Tell Prefect, which believes for ever that a task goes on whose worker is gone."""
    with get_client(sync_client=True) as client, suppress(httpx.HTTPStatusError):  # of some it never heard
        client.set_task_run_state(future.task_run_id, Crashed(message="its worker is gone"), force=True)
