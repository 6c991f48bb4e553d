"""What the records of a state folder say."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

from medidiff.ledger import Ledger, RunRecord


def last(state: Path) -> RunRecord:
    """The record of the latest run."""
    return next(iter(Ledger(state).runs()))


def calls(state: Path) -> Counter[str]:
    """Library calls that the latest run made, by step: each writes a line before it is made."""
    lines = (state / "logs" / f"{last(state).run}.jsonl").read_text(encoding="utf-8").splitlines()
    events = [json.loads(line) for line in lines]
    assert {event["run"] for event in events} == {last(state).run}
    return Counter(event["step"] for event in events if event["event"] == "begin")
