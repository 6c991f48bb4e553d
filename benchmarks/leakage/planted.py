"""Near-copies planted among real scans: how many the gate finds, and how often it errs on real people.

Twenty of each of ten kinds of copy of training people, and of two harder ones; the people who were not trained on are
the false alarms. The limit is the audit's own: learned from the training people, for a set of two hundred.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.rows import Rows
from medidiff.data.cohort import Cohort, load_people, people
from medidiff.privacy.leakage.decision import share
from medidiff.privacy.leakage.examine import PIECE
from medidiff.privacy.leakage.memorisation import Limit, apart, fit_limit
from medidiff.privacy.leakage.planting import HARDER, KINDS, plant
from medidiff.privacy.leakage.resemblance import Gallery, Match
from medidiff.privacy.leakage.store import Store

Array = NDArray[Any]
SHAPE = (40, 56, 40)
EACH = 20
KEY = ("kind", "number")
COLUMNS = (*KEY, "source", "found_person", "likeness", "lead", "limit", "caught")


def load(folder: Path, trained: int, held_out: int) -> tuple[Array, Array]:
    """Volumes of the people trained on and of the others, each of shape (n, i, j, k)."""
    images = folder / "images"
    one = load_people(people(Cohort(images=images, first=trained)), SHAPE).images[:, 0]
    other = load_people(people(Cohort(images=images, last=held_out)), SHAPE).images[:, 0]
    return one, other


def run(trained: Array, others: Array, each: int, rows: Rows, store: Store, *, seed: int = 0) -> Limit:
    """Plant, search and write a row for each; what was done stays done."""
    volumes = np.concatenate([trained, others])
    gallery = Gallery(trained)
    members, rest = list(range(len(trained))), list(range(len(trained), len(volumes)))
    leads = []
    for who, among in [*apart(members), (rest, members)]:
        for start in range(0, len(who), PIECE):
            some = who[start : start + PIECE]
            out = [person if person in members else -1 for person in some]
            leads += _search(gallery, volumes[some], among, out, store, f"people-{some[0]:04d}")
    limit = fit_limit(np.array([match.lead for match in leads[: len(trained)]]), each * len(KINDS))
    for number, match in enumerate(leads[len(trained) :]):
        rows.add(_row("real scan", number, None, match, limit))
    for kind in (*KINDS, *HARDER):
        # Sources spread over everybody, others for every kind.
        start = sorted({**KINDS, **HARDER}).index(kind) * 13
        sources = [(start + 7 * number) % len(trained) for number in range(each)]
        wanted = [n for n in range(each) if {"kind": kind, "number": n} not in rows]
        copies = [plant(kind, sources[n], trained, others, seed=seed + n) for n in wanted]
        if not copies:
            continue
        found = gallery.search(np.stack([copy.volume for copy in copies])).matches[0]
        for number, copy, match in zip(wanted, copies, found, strict=True):
            rows.add(_row(kind, number, copy.source, match, limit))
        print(f"{kind}: {sum(m.lead > limit.value for m in found)} of {len(found)}", flush=True)
    return limit


def _search(
    gallery: Gallery, queries: Array, among: Sequence[int], out: Sequence[int], store: Store, name: str
) -> list[Match]:
    def make() -> dict[str, Array]:
        found = gallery.search(queries, [among], out).matches[0]
        return {"rows": np.array([[m.person, m.likeness, m.lead, *m.flips, m.inverted] for m in found], dtype=float)}

    told = []
    for row in store.arrays(name, make)["rows"]:
        flips = (bool(row[3]), bool(row[4]), bool(row[5]))
        told.append(Match(int(row[0]), float(row[1]), float(row[2]), flips, bool(row[6])))
    return told


def _row(kind: str, number: int, source: int | None, match: Match, limit: Limit) -> dict[str, object]:
    return {
        "kind": kind, "number": number, "source": source, "found_person": match.person, "likeness": match.likeness,
        "lead": match.lead, "limit": limit.value, "caught": int(match.lead > limit.value),
    }  # fmt: skip


def table(rows: Sequence[dict[str, str]]) -> str:
    """What was caught, by kind, as Markdown."""
    lines = [
        "| planted | caught | of | 95% interval | right person | least lead | limit |",
        "|---|--:|--:|---|--:|--:|--:|",
    ]
    kinds = [*KINDS, "all ten", *HARDER, "real scan"]
    for kind in kinds:
        some = [row for row in rows if row["kind"] == kind or (kind == "all ten" and row["kind"] in KINDS)]
        if not some:
            continue
        caught = sum(int(row["caught"]) for row in some)
        low, high = share(caught, len(some))
        right = sum(row["source"] == row["found_person"] for row in some) if kind != "real scan" else "-"
        leads = [float(row["lead"]) for row in some]
        told = f"{max(leads):.3f} at most" if kind == "real scan" else f"{min(leads):.3f}"
        name = "real scans of others (false alarms)" if kind == "real scan" else kind
        interval = f"{low:.1%} to {high:.1%}"
        lines.append(
            f"| {name} | {caught} | {len(some)} | {interval} | {right} | {told} | {float(some[0]['limit']):.3f} |"
        )
    return "\n".join(lines)
