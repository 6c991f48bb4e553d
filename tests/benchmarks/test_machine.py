"""Costs are real costs."""

from __future__ import annotations

import sys
import time

import numpy as np
import pytest
import torch

from benchmarks.machine import describe, measure


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can reset the peak of the resident set")
def test_the_peak_is_seen_even_if_given_back_and_an_older_peak_is_not() -> None:
    np.ones(60_000_000).sum()  # 480 MB before: must not count

    def call() -> float:
        return float(torch.ones(50_000_000).sum())  # 200 MB, gone again when it returns

    measured = measure(call)
    assert measured.result == 50_000_000
    assert measured.cost.memory_mb is not None
    assert 150 < measured.cost.memory_mb < 300


def test_waiting_costs_time_but_no_processor() -> None:
    cost = measure(lambda: time.sleep(0.2)).cost
    assert cost.seconds >= 0.2
    assert cost.cpu_seconds < cost.seconds / 2


def test_the_machine_is_named() -> None:
    about = describe()
    assert about["torch"] == torch.__version__
    assert about["cores"] >= 1  # type: ignore[operator]
    assert about["cpu"] not in ("", "unknown")
