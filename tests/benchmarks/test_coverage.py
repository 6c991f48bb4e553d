"""The coverage benchmark: real people go all the way through, and what was scored is not scored again."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from benchmarks.coverage.__main__ import main


def test_held_out_people_are_scored_once(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["--out", str(tmp_path), "--people", "hippocampus", "--limit", "2", "--factors", "3"]
    main(arguments)
    with (tmp_path / "coverage.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["profile"], row["factor"], row["axis"]) for row in rows] == [
        ("box", "3", "R"), ("gaussian", "3", "R"), ("box", "3", "A"), ("gaussian", "3", "A"),
    ]  # fmt: skip
    for row in rows:
        assert 0.8 < float(row["covered"]) < 1
        assert float(row["correlation"]) > 0.1
    assert (tmp_path / "coverage.png").read_bytes().startswith(b"\x89PNG")
    table = (tmp_path / "coverage.md").read_text()
    assert "box x3" in table
    monkeypatch.setattr("benchmarks.coverage.__main__.restored", None)
    main([*arguments, "--resume"])
    assert (tmp_path / "coverage.md").read_text() == table
