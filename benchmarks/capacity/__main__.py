"""``python -m benchmarks.capacity``: measure what a volume costs here, then simulate a million.

python -m benchmarks.capacity measure --out capacity.json        # about ten CPU-minutes, most of them the first audit
python -m benchmarks.capacity simulate --figures capacity.json   # --site site.yaml for one's own site
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.capacity.measure import Measurement, ingest, overhead, reconstruct, synthesize
from benchmarks.capacity.plan import Figures, Site, answer, sweep
from benchmarks.capacity.sets import audited, released
from benchmarks.machine import describe
from medidiff.config import load_config
from medidiff.io.atomic import atomic_write_json

CORES = (16, 64, 256, 1024, 4096)
MEASURES: dict[str, Callable[..., Measurement]] = {
    "ingest": ingest,
    "reconstruct": reconstruct,
    "synthesize": synthesize,
    "audit": audited,
    "release": released,
}


def main() -> None:
    """Print tables in Markdown."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.capacity", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    measuring = commands.add_parser("measure", help="what a volume costs on one core")
    measuring.add_argument("--out", type=Path, default=Path("capacity.json"))
    measuring.add_argument("--repetitions", type=int, default=3)
    measuring.add_argument("--tasks", type=int, default=100, help="for Prefect's own cost")
    measuring.add_argument(
        "--people", type=Path, help="work folder of an audit: what it learned of people is kept there"
    )
    measuring.add_argument("--stages", default=",".join(MEASURES), help="with commas between; what is on file stays")
    simulating = commands.add_parser("simulate", help="a site with these figures")
    simulating.add_argument("--figures", type=Path, required=True, help="a YAML file of what a volume costs")
    simulating.add_argument("--site", type=Path, help="a YAML file of what a site has, wants and pays")
    simulating.add_argument("--simulated", type=int, help="so many volumes, in proportion, instead of all")
    given = parser.parse_args()
    if given.command == "measure":
        stages = [name for name in given.stages.split(",") if name]
        measure(given.out, given.repetitions, given.tasks, stages, given.people)
    else:
        site = load_config(given.site, Site) if given.site else Site()
        show(site, load_config(given.figures, Figures), given.simulated)


def measure(out: Path, repetitions: int, tasks: int, stages: list[str], people: Path | None) -> None:
    """Stage after stage; what is done is on file, and a killed run goes on with ``--stages``."""
    found: dict[str, Any] = json.loads(out.read_text()) if out.exists() else {"machine": describe(), "stages": {}}
    for name in stages:
        with tempfile.TemporaryDirectory(prefix="medidiff-capacity-") as place:
            more = {"people": people} if name == "audit" else {}
            result = MEASURES[name](Path(place), repetitions, **more)
        low, high = result.interval
        found["stages"][name] = {**asdict(result), "mean": result.mean, "low": low, "high": high}
        atomic_write_json(out, found)
        print(
            f"| {name} | {result.unit} | {result.mean:.2f} [{low:.2f}, {high:.2f}] | {repetitions} "
            f"| {result.written_mb:.2f} | {result.fixed:.1f} |"
        )
    if tasks:
        with tempfile.TemporaryDirectory(prefix="medidiff-capacity-") as place:
            found["prefect"] = overhead(Path(place), tasks)
        atomic_write_json(out, found)
        print(f"Prefect, a task: {json.dumps(found['prefect'])}")


def show(site: Site, figures: Figures, simulated: int | None) -> None:
    """The site, and the same with more cores."""
    print(f"{site.volumes:,} volumes: {', '.join(site.stages)}\n")
    print("| cores | GPUs | hours | saturated first | core-hours | GPU-hours | stored, TB | work | store |")
    print("|---|---|---|---|---|---|---|---|---|")
    rows = [(site.cores, answer(site, figures, simulated=simulated)), *sweep(site, figures, CORES, simulated=simulated)]
    for cores, each in rows:
        full = f"{each.bottleneck} ({each.used:.0%})"
        work = f"{each.core_hours:,.0f} | {each.gpu_hours:,.0f} | {each.stored_gb / 1000:.1f}"
        paid = f"{each.cost_work:,.0f} | {each.cost_store:,.0f}"
        print(f"| {cores} | {site.gpus} | {each.hours:,.0f} | {full} | {work} | {paid} |")


if __name__ == "__main__":
    main()
