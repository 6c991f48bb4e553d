"""The coverage benchmark: its rival covers as much, and a real person goes all the way through."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from benchmarks.coverage.__main__ import Kept, main
from benchmarks.coverage.summary import single_width


def test_the_rival_covers_as_much_person_by_person() -> None:
    rng = np.random.default_rng(0)
    kept = []
    for size in (0.5, 1.0, 2.0):
        local = rng.uniform(0.2, 2, 20_000)
        kept.append(Kept("g", "box x4", np.abs(size * local * rng.normal(size=20_000)), 1.5 * local))
    goal = np.mean([(k.error <= k.half_width).mean() for k in kept])
    rival, own = single_width(kept)
    assert np.mean([(k.error <= rival).mean() for k in kept]) == pytest.approx(goal, abs=2e-3)
    assert own == pytest.approx(np.mean([k.half_width.mean() for k in kept]))


def test_a_held_out_person_is_scored(shared: Path, tmp_path: Path) -> None:
    main(["--out", str(tmp_path), "--people", "hippocampus", "--limit", "2", "--factors", "3"])
    with (tmp_path / "coverage.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["profile"], row["factor"], row["axis"]) for row in rows] == [
        ("box", "3", "R"), ("gaussian", "3", "R"), ("box", "3", "A"), ("gaussian", "3", "A"),
    ]  # fmt: skip
    for row in rows:
        assert 0.8 < float(row["covered"]) < 1
        assert float(row["correlation"]) > 0.1
    assert (tmp_path / "coverage.png").read_bytes().startswith(b"\x89PNG")
    assert "box x3" in (tmp_path / "coverage.md").read_text()
