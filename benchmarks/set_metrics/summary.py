"""What the rows say: whether each figure ranks what it must, and what catches each kind of damage."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from scipy.stats import spearmanr

from benchmarks.rows import Row
from benchmarks.set_metrics.damage import KINDS
from benchmarks.set_metrics.run import NONE
from medidiff.evaluate.agreement import RULES as AGREEMENT_RULES
from medidiff.evaluate.judgement import RULES
from medidiff.synthetic.reports import Outcome

WANTED = 0.95
_BETTER = {name: rule.better for name, rule in (*RULES.items(), *AGREEMENT_RULES.items())}


@dataclass(frozen=True, slots=True)
class Ranking:
    """How a figure ranks a kind of damage.

    Args:
        values: Undamaged, then the four amounts.
        spearman: Of the four amounts and badness; 1 is right.
    """

    kind: str
    figure: str
    values: tuple[float, ...]
    spearman: float


def rankings(rows: Sequence[Row]) -> Iterator[Ranking]:
    """Every figure over every kind of damage that is whole, whether it must rank it or not."""
    clean = {row["figure"]: float(row["value"]) for row in rows if row["kind"] == NONE}
    for kind in KINDS:
        by_figure: dict[str, dict[int, float]] = {}
        for row in rows:
            if row["kind"] == kind:
                by_figure.setdefault(row["figure"], {})[int(row["severity"])] = float(row["value"])
        for figure, values in by_figure.items():
            if len(values) == 4 and figure in clean:
                series = (clean[figure], *(values[severity] for severity in sorted(values)))
                sign = 1 if _BETTER[figure] == "lower" else -1
                found = spearmanr(range(4), [sign * value for value in series[1:]]).statistic
                yield Ranking(kind, figure, series, float(found))


def caught_by(rows: Sequence[Row]) -> Mapping[str, Mapping[int, list[str]]]:
    """For each kind and severity, the figures that failed the set."""
    found: dict[str, dict[int, list[str]]] = {}
    for row in rows:
        if row["kind"] != NONE:
            names = found.setdefault(row["kind"], {}).setdefault(int(row["severity"]), [])
            if row["outcome"] == Outcome.FAILED:
                names.append(row["figure"])
    return found


def page(rows: Sequence[Row], machine: Mapping[str, object]) -> str:
    """Both tables in Markdown."""
    found = {(ranking.kind, ranking.figure): ranking for ranking in rankings(rows)}
    lines = ["| damage | figure | none | 1 | 2 | 3 | 4 | Spearman |", "|---|---|---|---|---|---|---|---|"]
    for name, kind in KINDS.items():
        for figure in kind.seen_by:
            ranking = found.get((name, figure))
            if ranking is not None:
                values = " | ".join(f"{value:.3g}" for value in ranking.values)
                lines.append(f"| {name} | {figure} | {values} | {ranking.spearman:.2f} |")
    lines += ["", "| damage | amounts | fails at | failed by | why not the other figures |", "|---|---|---|---|---|"]
    caught = caught_by(rows)
    for name, kind in KINDS.items():
        failed = caught.get(name, {})
        severities = [severity for severity in sorted(failed) if failed[severity]]
        by = ", ".join(failed[severities[-1]]) if severities else "nothing"
        amounts = ", ".join(f"{amount:g}" for amount in kind.amounts)
        first = f"{severities[0]} of 4 on" if severities else "-"
        lines.append(f"| {name} | {amounts} ({kind.unit}) | {first} | {by} | {kind.why} |")
    must = [found[name, figure] for name, kind in KINDS.items() for figure in kind.seen_by if (name, figure) in found]
    right = sum(ranking.spearman >= WANTED for ranking in must)
    clean = [row for row in rows if row["kind"] == NONE]
    spoiled = sum(row["outcome"] not in ("", Outcome.PASSED) for row in clean)
    n = max((int(row["n"]) for row in clean), default=0)
    told = (
        f"{right} of {len(must)} pairs of damage and figure reach a Spearman of {WANTED:g}. n = {n} people on either "
        f"side; undamaged people fail {spoiled} figures. {machine['cpu']}, {machine['threads']} thread."
    )
    return "\n".join([*lines, "", told]) + "\n"
