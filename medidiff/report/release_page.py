"""The page that a data-protection officer reads before a synthetic set goes out, and that goes out with it.

Two versions of one page: the public one shows no training data; the one that stays in the house also shows synthetic
items beside the training volumes nearest to them, which are pictures of real people.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from medidiff.report.contact import Thumbnail, contact_sheets, thumbnail_png
from medidiff.report.html import (
    Block,
    Cell,
    Facts,
    Page,
    Paragraph,
    Picture,
    Section,
    Status,
    Table,
    Verdict,
)
from medidiff.report.privacy_blocks import attack_plot, neighbour_blocks, notes
from medidiff.synthetic.gate import Judgement
from medidiff.synthetic.marks import SENTENCE
from medidiff.synthetic.metadata import QUASI_IDENTIFIERS, K, combination
from medidiff.synthetic.records import SetRecord
from medidiff.synthetic.reports import (
    Family,
    Metric,
    Outcome,
    PrivacyReport,
    QualityReport,
)
from medidiff.synthetic.stored import SyntheticSet

MOST_SAMPLES = 36
_STATUS = {Outcome.PASSED: Status.PASSED, Outcome.FAILED: Status.FAILED, Outcome.INCONCLUSIVE: Status.FAILED}
_COLUMNS = ("figure", "value", "interval", "n", "real against real", "known bad sets", "limit", "outcome")
_MEANING = {
    Family.FIDELITY: "Do the images look like real ones?",
    Family.DIVERSITY: "Do they cover what real ones show, or repeat a few?",
    Family.STRUCTURE: "Do labelled structures have the sizes and shapes of real ones?",
    Family.UTILITY: "Is a model that was trained on them of use on real scans?",
    Family.MEMORISATION: "Does an item copy a scan that the generator was trained on?",
    Family.MEMBERSHIP: "Can somebody find out whether a person was among those trained on?",
    Family.DIFFERENTIAL_PRIVACY: "What does the way of training guarantee?",
}


def release_page(judgement: Judgement, formats: Sequence[str], *, internal: bool) -> Page:
    """The page of a judged set.

    Args:
        judgement: What the gate found.
        formats: What is released, or was asked for.
        internal: With pictures of training volumes, where the privacy report has them. Never for a release.
    """
    synthetic = judgement.synthetic
    name = synthetic.record.name if synthetic else "a set that cannot be read"
    sections = [Section("Decision", list(_decision(judgement)))]
    if synthetic:
        sections.append(Section("What it is", list(_what(synthetic, formats))))
        sections.append(Section("What it was made from", list(_sources(synthetic.record))))
    sections.append(Section("Privacy", list(_privacy(judgement.privacy))))
    if judgement.privacy and judgement.privacy.neighbours:
        blocks = list(neighbour_blocks(judgement.privacy.neighbours, internal=internal))
        sections.append(Section("Nearest training volumes", blocks))
    sections.append(Section("Quality", list(_quality(judgement.quality))))
    if synthetic:
        sections.append(Section("Metadata", list(_metadata(synthetic))))
        if not judgement.reasons or not synthetic.faults():
            sections.append(Section("Samples", list(_samples(synthetic))))
    sections.append(Section("How to read this page", [Paragraph(" ".join(text.split())) for text in _READING]))
    subtitle = "For the house only: shows training data" if internal and _shows_people(judgement) else SENTENCE
    return Page(f"Release of {name} (synthetic)", sections, subtitle, _footer(synthetic))


def _shows_people(judgement: Judgement) -> bool:
    neighbours = judgement.privacy.neighbours if judgement.privacy else ()
    return any(neighbour.nearest_png for neighbour in neighbours)


def _decision(judgement: Judgement) -> Iterator[Block]:
    if not judgement.reasons:
        yield Verdict(
            Status.PASSED, "May be released", "both reports are fresh, speak of exactly these files, and passed"
        )
        return
    yield Verdict(Status.FAILED, "Refused", f"{len(judgement.reasons)} reasons")
    yield Table(["reason"], [[reason] for reason in judgement.reasons])


def _what(synthetic: SyntheticSet, formats: Sequence[str]) -> Iterator[Block]:
    record = synthetic.record
    yield Paragraph(SENTENCE)
    if record.note:
        yield Verdict(Status.WARNING, "Note", record.note)
    yield Paragraph(record.description)
    labels = ", ".join(f"{entry.value} {entry.name}" for entry in record.labels)
    yield Facts(
        {
            "items": len(synthetic.items),
            "kinds": ", ".join(sorted({f"{item.modality.value} {item.suffix}" for item in synthetic.items})),
            "label maps": sum(item.label is not None for item in synthetic.items),
            "label values": labels or None,
            "formats": ", ".join(formats),
            "licence": record.licence,
            "made": f"{record.created:%Y-%m-%d %H:%M:%S} UTC",
            "generator": record.generator.name,
            "SHA-256 of the generator": record.generator.sha256,
            "SHA-256 of the set": synthetic.sha256,
        }
    )


def _sources(record: SetRecord) -> Iterator[Block]:
    rows: list[list[Cell]] = [
        [source.name, source.people, source.licence, source.citation] for source in record.sources
    ]
    yield Table(["dataset", "people trained on", "licence", "citation"], rows)
    yield Facts({"SHA-256 of the training split": record.training_split_sha256})


def _privacy(report: PrivacyReport | None) -> Iterator[Block]:
    if report is None:
        yield Verdict(Status.FAILED, "No privacy report", "nothing is known of what the set leaks")
        return
    yield from _verdict("Privacy", report)
    told = f"Tested with {report.members} people of the training set and {report.non_members} others."
    yield Paragraph(told)
    guarantee = report.differential_privacy
    if guarantee:
        text = f"epsilon {guarantee.epsilon:g}, delta {guarantee.delta:g}, per person, {guarantee.people} people"
        yield Verdict(Status.INFO, "Differential privacy", f"{text}; {guarantee.accountant}")
    else:
        yield Verdict(Status.INFO, "Differential privacy", "training gave no such guarantee")
    yield from attack_plot(report.metrics)
    yield from _figures(report.metrics)
    yield from (Paragraph(note) for note in report.notes)


def _quality(report: QualityReport | None) -> Iterator[Block]:
    if report is None:
        yield Verdict(Status.FAILED, "No quality report", "nothing is known of how good the set is")
        return
    yield from _verdict("Quality", report)
    yield from _figures(report.metrics)
    yield from (Paragraph(note) for note in report.notes)


def _verdict(title: str, report: QualityReport | PrivacyReport) -> Iterator[Block]:
    refuses = "" if report.verdict is Outcome.PASSED else ", which refuses a release"
    yield Verdict(_STATUS[report.verdict], f"{title}: {report.verdict.value}{refuses}", "; ".join(report.reasons))
    yield Facts({"examined": f"{report.created:%Y-%m-%d %H:%M:%S} UTC", "by": f"medidiff {report.code_version}"})


def _figures(metrics: Sequence[Metric]) -> Iterator[Block]:
    """A table for each family of figures, under the question that it answers."""
    for family in Family:
        rows = [_row(metric) for metric in metrics if metric.family is family]
        if rows:
            yield Table(_COLUMNS, rows, f"{family.value.capitalize()}. {_MEANING[family]}")
    yield from notes(metrics)


def _row(metric: Metric) -> list[str | float | None]:
    between = f"{metric.interval[0]:.4g} to {metric.interval[1]:.4g}, {metric.level:.0%}" if metric.interval else None
    floors = ", ".join(f"{name} {value:.4g}" for name, value in sorted(metric.floors.items()))
    outcome = metric.outcome.value if metric.outcome else "told only"
    count = f"{metric.n} {metric.unit}"
    name = metric.name if metric.better == "neither" else f"{metric.name} ({metric.better} is better)"
    return [name, metric.value, between, count, metric.ceiling, floors or None, metric.limit or None, outcome]


def _metadata(synthetic: SyntheticSet) -> Iterator[Block]:
    counts = Counter(combination(item) for item in synthetic.items)
    least = min(counts.values())
    status = Status.PASSED if least >= K else Status.FAILED
    text = f"each combination occurs {least} times or more; {K} are needed"
    yield Verdict(status, f"k-anonymity: k = {least}", text)
    rows: list[list[Cell]] = [[*found, count] for found, count in sorted(counts.items())]
    yield Table([*QUASI_IDENTIFIERS, "items"], rows)
    yield Paragraph(f"Metadata is sampled, not copied: {synthetic.record.metadata_model}.")


def _samples(synthetic: SyntheticSet) -> Iterator[Block]:
    """Items evenly spread over the set, so that nobody can choose the best ones."""
    step = max(1, -(-len(synthetic.items) // MOST_SAMPLES))
    chosen = synthetic.items[::step]
    thumbnails = []
    for item in chosen:
        spacing = " x ".join(f"{size:.3g}" for size in item.grid.geometry.spacing)
        note = f"{' x '.join(str(n) for n in item.grid.shape)}, {spacing} mm"
        thumbnails.append(Thumbnail(thumbnail_png(synthetic.image(item)), f"synthetic {item.id}", note))
    text = f"{len(chosen)} of {len(synthetic.items)} items, one in {step}, in order: axial, coronal, sagittal"
    yield from (Picture(sheet, text, "contact sheet of synthetic items") for sheet in contact_sheets(thumbnails))


def _footer(synthetic: SyntheticSet | None) -> tuple[str, ...]:
    if synthetic is None:
        return ("medidiff",)
    return (f"Set {synthetic.sha256}, made by medidiff {synthetic.record.code_version}", "Not for diagnosis.")


_READING = (
    """A figure stands with the number of cases it rests on and an interval that shows how far chance alone could move
    it. Real against real is the best that could be had; known bad sets (blurred, noisy, copied, collapsed) show that
    the figure can tell good from bad.""",
    """Inconclusive means too few cases to know, and refuses a release as failed does. Passed means that the tests that
    were run found nothing. It is evidence, not proof: an attack that nobody tried may still find something.""",
    """Reports name the set by a hash that covers every file of it. A set that was changed after it was examined is
    refused.""",
)
