"""The papers of a release, written from its records: card, datasheet, card of the model, licences.

Source of the datasheet's questions: Gebru et al. (2021), Datasheets for datasets, abridged and in our words; of the
card's front matter: the dataset cards of Hugging Face.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from medidiff.export.synthetic_facts import kind_of
from medidiff.synthetic.marks import SENTENCE
from medidiff.synthetic.metadata import QUASI_IDENTIFIERS, K
from medidiff.synthetic.records import SetRecord
from medidiff.synthetic.reports import Metric, PrivacyReport, QualityReport
from medidiff.synthetic.stored import SyntheticSet

# Licences that Hugging Face has a word for, among those that data come under.
_KNOWN_LICENCES = frozenset(
    {
        "cc0-1.0",
        "cc-by-4.0",
        "cc-by-sa-4.0",
        "cc-by-nc-4.0",
        "cc-by-nc-sa-4.0",
        "odbl",
        "apache-2.0",
        "mit",
        "bsd-3-clause",
    }
)
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
_CONTENTS = {
    "bids": "BIDS derivative dataset, `desc-synthetic` in every name",
    "nnunet": "nnU-Net v2 raw dataset",
    "dicom": "DICOM series, label maps as DICOM segmentations",
    "croissant": "NIfTI files with a table and Croissant metadata",
}


def write_cards(
    synthetic: SyntheticSet,
    quality: QualityReport,
    privacy: PrivacyReport,
    formats: Sequence[str],
    target: Path,
) -> None:
    """Write README.md, DATASHEET.md, MODEL_CARD.md and LICENSES.md into ``target``."""
    pages = {
        "README.md": _card(synthetic, quality, privacy, formats),
        "DATASHEET.md": _datasheet(synthetic, quality, privacy, formats),
        "MODEL_CARD.md": _model_card(synthetic.record),
        "LICENSES.md": _licences(synthetic.record),
    }
    for name, lines in pages.items():
        (target / name).write_text("\n".join(lines) + "\n", encoding="utf-8")


def metric_rows(metrics: Sequence[Metric]) -> list[list[str]]:
    """Name, value, interval, n, ceiling, floors, limit, outcome of each figure, as text."""
    return [
        [
            metric.name,
            "not computed" if metric.value is None else f"{metric.value:.4g}",
            f"{metric.interval[0]:.4g} to {metric.interval[1]:.4g} ({metric.level:.0%})" if metric.interval else "none",
            f"{metric.n} {metric.unit}",
            "" if metric.ceiling is None else f"{metric.ceiling:.4g}",
            ", ".join(f"{name} {value:.4g}" for name, value in sorted(metric.floors.items())),
            metric.limit,
            metric.outcome.value if metric.outcome else "told only",
        ]
        for metric in metrics
    ]


METRIC_COLUMNS = ("figure", "value", "interval", "n", "real against real", "known bad sets", "limit", "outcome")


def _card(
    synthetic: SyntheticSet, quality: QualityReport, privacy: PrivacyReport, formats: Sequence[str]
) -> Iterator[str]:
    record = synthetic.record
    yield "---"
    yield yaml.safe_dump(_front_matter(synthetic), sort_keys=False, allow_unicode=True).rstrip()
    yield "---"
    yield f"\n# {record.name}\n\n**{SENTENCE}** Not for diagnosis.\n"
    if record.note:
        yield f"> {record.note}\n"
    yield f"{record.description}\n"
    yield f"{len(synthetic.items)} items by the generator `{record.generator.name}`, {record.created:%Y-%m-%d}."
    yield f"Hash of the set: `{synthetic.sha256}`.\n\n## What is in it\n"
    yield from (f"- `{name}/`: {_CONTENTS[name]}" for name in formats)
    yield "- `report.html`: verdicts, figures and samples, for reading and printing"
    yield "- `quality.json`, `privacy.json`: the same for programs; `release.json`: what this release was made from"
    yield "- `DATASHEET.md`, `MODEL_CARD.md`, `LICENSES.md`; `SHA256SUMS` for `sha256sum -c`\n"
    if record.labels:
        yield "Label values: 0 background, " + ", ".join(f"{x.value} {x.name}" for x in record.labels) + ".\n"
    yield f"## Quality: {quality.verdict.value}\n"
    yield from _table(METRIC_COLUMNS, metric_rows(quality.metrics))
    yield f"\n## Privacy: {privacy.verdict.value}\n"
    yield f"Tested with {privacy.members} people of the training set and {privacy.non_members} others.\n"
    yield from _table(METRIC_COLUMNS, metric_rows(privacy.metrics))
    yield f"\n{_privacy_sentence(privacy)}\n\n## Metadata\n"
    yield f"{_metadata_sentence(record)}\n\n## Sources\n"
    yield from _sources(record)
    yield "\n## Not for\n\nDiagnosis, treatment, or claims about how often something occurs in people."


def _front_matter(synthetic: SyntheticSet) -> dict[str, Any]:
    record = synthetic.record
    licence = record.licence.lower()
    stated = (
        {"license": licence} if licence in _KNOWN_LICENCES else {"license": "other", "license_name": record.licence}
    )
    count = len(synthetic.items)
    contrasts = sorted({kind_of(item).suffix.lower() for item in synthetic.items})
    return {
        **stated,
        "pretty_name": f"{record.name} (synthetic)",
        "task_categories": ["image-segmentation"] if record.labels else ["unconditional-image-generation"],
        "annotations_creators": ["machine-generated"] if record.labels else ["no-annotation"],
        "size_categories": [next((text for limit, text in _SIZES if count < limit), "n>1M")],
        "source_datasets": ["extended"],
        "tags": ["synthetic", "medical", "3d", *contrasts],
    }


def _datasheet(
    synthetic: SyntheticSet, quality: QualityReport, privacy: PrivacyReport, formats: Sequence[str]
) -> Iterator[str]:
    record = synthetic.record
    yield f"# Datasheet of {record.name}\n\n{SENTENCE}\n"
    for title, answers in _questions(synthetic, quality, privacy, formats).items():
        yield f"## {title}\n"
        for question, answer in answers.items():
            yield f"**{question}** {answer}\n"


def _questions(
    synthetic: SyntheticSet, quality: QualityReport, privacy: PrivacyReport, formats: Sequence[str]
) -> dict[str, dict[str, str]]:
    record, items = synthetic.record, synthetic.items
    people = sum(source.people for source in record.sources)
    labelled = sum(item.label is not None for item in items)
    shapes = sorted({" x ".join(str(n) for n in item.grid.shape) for item in items})
    return {
        "Motivation": {
            "What is it for?": record.description,
            "Who made it?": f"The generative model {record.generator.name}, run by medidiff {record.code_version}.",
        },
        "Composition": {
            "What is an item?": "A synthetic three-dimensional image"
            + (" with its label map." if labelled else ", without a label map."),
            "How many are there?": f"{len(items)}, of which {labelled} have a label map.",
            "Is it a sample of something larger?": "It is a finite sample of what the generator can draw, by seeds "
            f"that follow from {record.seed}; the seed of each item is recorded.",
            "What does an item hold?": f"Voxels ({'; '.join(shapes[:4])}{' and others' if len(shapes) > 4 else ''}), "
            "whole numbers, with their place in space; and sampled metadata.",
            "What may be wrong in it?": "Anatomy that no person has; missing rare findings; label maps that the image "
            "does not bear out. The figures under Quality say how far this was looked for.",
            "Does it hold data of persons?": f"No item was acquired from a person. {_privacy_sentence(privacy)}",
            "Does it say to which group a subject belongs?": _metadata_sentence(record),
        },
        "Making": {
            "How was it made?": f"By sampling the model {record.generator.name} (SHA-256 {record.generator.sha256}) "
            f"with {_flat_words(record.generator.sampler) or 'its default settings'}; configuration SHA-256 "
            f"{record.config_sha256}.",
            "From which data did the model learn?": "; ".join(
                f"{source.name}, {source.people} people, {source.licence}" for source in record.sources
            )
            + f". List of what was trained on: SHA-256 {record.training_split_sha256}.",
            "When?": f"{record.created:%Y-%m-%d %H:%M:%S} UTC.",
            "Was anybody asked?": f"The {people} people of the sources were dealt with under the terms of these; "
            "consult them.",
        },
        "Processing": {
            "What was done to the images?": "Values were rounded to whole numbers: CT to Hounsfield units, MR onto 0 "
            "to 4095 where it was not whole; every format holds the same numbers.",
            "How is it marked?": "Every file says that it is synthetic: text of the NIfTI header, fields of each "
            "sidecar, Synthetic Data (0008,001C) and Contributing Equipment in DICOM.",
        },
        "Uses": {
            "What can it be used for?": "Research and teaching on image analysis.",
            "What must it not be used for?": "Diagnosis; estimates of how often something occurs; training without a "
            "test on real scans.",
            "How good is it?": f"Verdict: {quality.verdict.value}. "
            + "; ".join(_told(m) for m in quality.metrics)
            + ".",
        },
        "Distribution": {
            "In which forms?": ", ".join(_CONTENTS[name] for name in formats) + ".",
            "Under which licence?": f"{record.licence}; the licences of the sources are in LICENSES.md.",
        },
        "Maintenance": {
            "Will it change?": "No. A release is known by the hash of its set; a corrected one has another.",
            "How is an error told?": "To whoever handed it to you, with the hash of the set.",
        },
    }


def _model_card(record: SetRecord) -> Iterator[str]:
    generator = record.generator
    yield f"# Model card of {generator.name}\n"
    yield f"The model that made this synthetic set. SHA-256 of the file: `{generator.sha256}`. Copied from the model.\n"
    yield from (f"- **{name}**: {value}" for name, value in flat(generator.card))
    if not generator.card:
        yield "The model has no card."


def _licences(record: SetRecord) -> Iterator[str]:
    yield f"# Licences\n\nThis synthetic set: {record.licence}.\n\nThe data that its generator was trained on:\n"
    yield from _sources(record)


def _sources(record: SetRecord) -> Iterator[str]:
    for source in record.sources:
        tail = " ".join(filter(None, (source.citation, source.url)))
        yield f"- {source.name}: {source.people} people, {source.licence}. {tail}".rstrip()


def _privacy_sentence(privacy: PrivacyReport) -> str:
    text = "What the images may tell about the people of the training set was tested: "
    text += "; ".join(_told(metric) for metric in privacy.metrics) + "."
    guarantee = privacy.differential_privacy
    if guarantee:
        text += f" Training was differentially private: epsilon {guarantee.epsilon:g} at delta {guarantee.delta:g}"
        text += f" for each of {guarantee.people} people ({guarantee.accountant})."
    else:
        text += " Training gave no differential privacy guarantee."
    return text + " A test that passed is evidence, not proof."


def _metadata_sentence(record: SetRecord) -> str:
    names = ", ".join(QUASI_IDENTIFIERS)
    text = f"Metadata is sampled, not copied ({record.metadata_model}). "
    return text + f"Each combination of {names} occurs {K} times or more."


def _told(metric: Metric) -> str:
    name, value, interval, count, *_ = metric_rows([metric])[0]
    return f"{name} {value} (interval {interval}, n = {count})"


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield "| " + " | ".join(columns) + " |"
    yield "|" + "---|" * len(columns)
    for row in rows:
        yield "| " + " | ".join(cell.replace("|", "/").replace("\n", " ") for cell in row) + " |"


def flat(tree: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str]]:
    """The leaves of a tree by their dotted names."""
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{before}{name}.")
        else:
            yield f"{before}{name}".replace("_", " "), str(value)


def _flat_words(tree: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in flat(tree))
