"""``python -m tests.stress``: kill flows, fill disks, take locks; a call goes on where the CSV file of the last ends.

Needs the extra ``flows``; strace, and the right to mount, are used where they are there.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

from tests.stress.processes import server, warm_up


def main() -> int:
    """Exit code 0 where nothing was wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.stress", description=__doc__)
    parser.add_argument("--kills", type=int, default=200, help="deaths by -9, over all flows")
    parser.add_argument("--faults", default="", help="also these, with commas between, or all: see faults.py")
    parser.add_argument("--scheduled", type=int, default=0, help="also so many scheduled runs, a tenth of them struck")
    parser.add_argument("--flows", default="", help="only these, with commas between")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=600.0, help="stop after so many; the next call goes on")
    parser.add_argument("--rows", type=Path, default=Path("stress.csv"), help="where every kill is noted")
    parser.add_argument("--work", type=Path, help="a folder for copies (default: a temporary one)")
    parser.add_argument("--port", type=int, default=4377, help="for Prefect's server, on this machine alone")
    given = parser.parse_args()
    work = given.work or Path(tempfile.mkdtemp(prefix="medidiff-stress-"))
    work.mkdir(parents=True, exist_ok=True)
    try:
        with server(work / "prefect", given.port):
            warm_up()
            from tests.stress.kills import campaign
            from tests.stress.scenarios import SCENARIOS

            names = tuple(given.flows.split(",")) if given.flows else tuple(SCENARIOS)
            deaths, faults = campaign(
                work,
                given.rows,
                kills=given.kills,
                seed=given.seed,
                names=names,
                minutes=given.minutes,
                with_calls=shutil.which("strace") is not None,
            )
            if given.faults:
                faults += _other_faults(work, names, given.faults)
            if given.scheduled:
                faults += _scheduled(work, given.scheduled, given.seed)
    finally:
        if given.work is None:
            shutil.rmtree(work, ignore_errors=True)
    print(f"{deaths} of {given.kills} kills, {len(faults)} with a fault")
    for fault in faults[:50]:
        print(f"  {fault}")
    return 1 if faults or deaths < given.kills else 0


def _scheduled(work: Path, runs: int, seed: int) -> list[str]:
    from tests.stress.kills import refer
    from tests.stress.scenarios import SCENARIOS
    from tests.stress.schedule import scheduled

    # Half as often as the machine can: whoever is made due again would otherwise wait behind all that is overdue.
    every = max(1.0, 2 * refer(SCENARIOS["reconstruct"], work, with_calls=False).seconds)
    tally = scheduled(work, runs=runs, seed=seed, every_seconds=every)
    waits = ", ".join(f"{seconds:.0f}" for seconds in tally.picked_up) or "no"
    print(f"{runs} scheduled runs, {len(tally.struck)} struck, picked up after {waits} s: {len(tally.faults)} faults")
    return tally.faults


def _other_faults(work: Path, names: tuple[str, ...], kinds: str) -> list[str]:
    from tests.stress.faults import FAULTS
    from tests.stress.kills import refer
    from tests.stress.scenarios import SCENARIOS

    found = []
    for name in names:
        reference = refer(SCENARIOS[name], work, with_calls=False)
        for kind in FAULTS if kinds == "all" else kinds.split(","):
            try:
                faults = FAULTS[kind](SCENARIOS[name], work, reference)
            except PermissionError as error:
                print(f"{name}, {kind}: left out, {error}")
                continue
            print(f"{name}, {kind}: {'; '.join(faults) or 'right'}", flush=True)
            found += [f"{name}, {kind}: {fault}" for fault in faults]
    return found


if __name__ == "__main__":
    sys.exit(main())
