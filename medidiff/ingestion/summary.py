"""The end of a run: manifest, tables, lines of all files, and the page for people."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from medidiff import __version__
from medidiff.data.manifest import MANIFEST, SPLITS, ManifestRecord, split_of, write_manifest
from medidiff.export.bids import scans_table, write_dataset_files, write_participants
from medidiff.ingestion.lines import KEPT, FileLine
from medidiff.ingestion.quality import QualityGate, outliers
from medidiff.ingestion.spool import Spool
from medidiff.ingestion.state import STATE, DatasetState
from medidiff.io.atomic import atomic_file, atomic_write_bytes, atomic_write_text
from medidiff.report.contact import PER_SHEET, Thumbnail, contact_sheets
from medidiff.report.html import Facts, Page, Paragraph, Picture, Section, Status, Table, Verdict, write_html

FILES = "files.jsonl"
REPORT = "report"
# A page with more rows than this is no page; the rest is in the JSON lines beside it.
_MOST_ROWS = 400
_MOST_SHEETS = 3


@dataclass(frozen=True, slots=True)
class Sheets:
    """Contact sheets: the first few, for the page, and how many lie beside it."""

    shown: list[bytes]
    count: int


@dataclass(frozen=True, slots=True)
class Summary:
    """Counts of the whole dataset."""

    report: Path
    volumes: int
    usable: int
    patients: int
    splits: dict[str, int]


def finish(
    state: DatasetState, spool: Spool, gate: QualityGate, shares: tuple[float, float, float], name: str
) -> Summary:
    """Write all that speaks of the dataset as a whole. The same volumes and lines give the same bytes."""
    dataset = state.dataset
    _join_earlier_lines(dataset / FILES, spool)
    state.sweep()
    records = _records(state, gate, shares)
    write_dataset_files(dataset, name, __version__, (MANIFEST, FILES, REPORT))
    write_participants(dataset, [r.subject for r in records], {r.subject: r.split for r in records})
    _write_scans(dataset, records)
    _write_lines(dataset / FILES, spool.lines())
    report = dataset / REPORT / "index.html"
    report.parent.mkdir(exist_ok=True)
    sheets = _write_sheets(dataset, records)
    write_html(_page(name, records, spool, sheets), report)
    write_manifest(records, dataset / MANIFEST)
    splits = Counter(record.split for record in records)
    return Summary(
        report=report,
        volumes=len(records),
        usable=sum(record.usable for record in records),
        patients=len({record.subject for record in records}),
        splits={split: splits[split] for split in SPLITS},
    )


def _records(state: DatasetState, gate: QualityGate, shares: tuple[float, float, float]) -> list[ManifestRecord]:
    """Every volume, with its split and with the reasons that only the others give."""
    records = [stored.record for stored in state.volumes()]
    far_off = outliers(records, gate)
    finished = []
    for record in records:
        reasons = (*record.reasons, *far_off.get(record.id, ()))
        finished.append(replace(record, split=split_of(record.subject, shares), reasons=reasons, usable=not reasons))
    return sorted(finished, key=lambda record: record.path)


def _join_earlier_lines(path: Path, spool: Spool) -> None:
    """Lines of files that this run did not see stay; those that it saw are its own."""
    seen = {line.file for line in spool.lines()} | spool.settled()
    try:
        with path.open(encoding="utf-8") as stream:
            for text in stream:
                value = json.loads(text)
                if value["file"] not in seen:
                    spool.add_line(FileLine(**value), fresh=False)
    except FileNotFoundError:
        return
    except (OSError, ValueError, KeyError, TypeError):
        return  # it is written anew; what it lost, the next run over the same source finds again


def _write_lines(path: Path, found: Iterable[FileLine]) -> None:
    with atomic_file(path) as temporary, temporary.open("w", encoding="utf-8") as stream:
        for line in found:
            value = {
                "file": line.file,
                "outcome": line.outcome,
                "reason": line.reason,
                "text": line.text,
                "volume": line.volume,
            }
            stream.write(json.dumps(value, ensure_ascii=False) + "\n")


def _write_scans(dataset: Path, records: list[ManifestRecord]) -> None:
    sessions: dict[tuple[str, str], list[ManifestRecord]] = {}
    for record in records:
        sessions.setdefault((record.subject, record.session), []).append(record)
    for (subject, session), members in sessions.items():
        folder = dataset / f"sub-{subject}" / f"ses-{session}"
        prefix = f"sub-{subject}/ses-{session}/"
        rows = [(m.path.removeprefix(prefix), m.acquired, m.usable) for m in members]
        atomic_write_text(folder / f"sub-{subject}_ses-{session}_scans.tsv", scans_table(rows))


def _write_sheets(dataset: Path, records: list[ManifestRecord]) -> Sheets:
    """Contact sheets, one in memory at a time."""
    shown: list[bytes] = []
    count = 0
    for start in range(0, len(records), PER_SHEET):
        thumbnails = [_thumbnail(dataset, record) for record in records[start : start + PER_SHEET]]
        for sheet in contact_sheets(thumbnails):
            count += 1
            atomic_write_bytes(dataset / REPORT / f"contact-{count:03d}.png", sheet)
            shown += [sheet] if count <= _MOST_SHEETS else []
    for stale in (dataset / REPORT).glob("contact-*.png"):
        if int(stale.stem.removeprefix("contact-")) > count:
            stale.unlink()
    return Sheets(shown, count)


def _thumbnail(dataset: Path, record: ManifestRecord) -> Thumbnail:
    shape = " x ".join(str(n) for n in record.shape)
    spacing = " x ".join(f"{s:.3g}" for s in record.spacing)
    note = "; ".join(record.reasons) if record.reasons else f"{shape}, {spacing} mm, {record.split}"
    png = (dataset / STATE / "thumbs" / f"{record.id}.png").read_bytes()
    return Thumbnail(png, f"{record.suffix}  {record.subject}  {record.id}", note, bool(record.reasons))


def _page(name: str, records: list[ManifestRecord], spool: Spool, sheets: Sheets) -> Page:
    outcomes: Counter[tuple[str, str]] = Counter()
    example: dict[tuple[str, str], str] = {}
    attention: list[FileLine] = []
    bad = 0
    for line in spool.lines():
        outcomes[line.outcome, line.reason] += 1
        example.setdefault((line.outcome, line.reason), line.text)
        if line.is_bad_input:
            bad += 1
            if len(attention) < _MOST_ROWS:
                attention.append(line)
    files = sum(outcomes.values())
    kept = sum(count for (outcome, _), count in outcomes.items() if outcome == KEPT)
    splits = Counter(record.split for record in records)
    facts: dict[str, str | int] = {
        "source files": files,
        "in a volume": kept,
        "in none": files - kept,
        "volumes": len(records),
        "usable": sum(record.usable for record in records),
        "patients": len({record.subject for record in records}),
        "train, validation, test": ", ".join(str(splits[split]) for split in SPLITS),
    }
    sections = [
        Section("What came in", [Facts(facts), *_verdicts(records, bad)]),
        Section("Where it went", [_outcome_table(outcomes, example)]),
        Section("Volumes", [_volume_table(records)]),
    ]
    if attention:
        rows = [[line.file, line.reason, line.text] for line in attention]
        more = f" The first {_MOST_ROWS} of {bad}; all are in {FILES}." if bad > len(attention) else ""
        caption = f"Files that were meant to be scans and are in no volume.{more}"
        sections.append(Section("To be looked at", [Table(["file", "reason", "what was found"], rows, caption)]))
    if sheets.count:
        pictures = [
            Picture(
                sheet, f"Sheet {number}: axial, coronal, sagittal; a frame marks what is not usable", "contact sheet"
            )
            for number, sheet in enumerate(sheets.shown, 1)
        ]
        left = sheets.count - len(sheets.shown)
        more_sheets = [Paragraph(f"{left} more sheets lie beside this page.")] if left else []
        sections.append(Section("Contact sheet", [*pictures, *more_sheets]))
    footer = (f"medidiff {__version__}", "Research software: not a medical device.")
    return Page(name, sections, "What was ingested, and what became of it", footer)


def _verdicts(records: list[ManifestRecord], bad: int) -> list[Verdict]:
    unusable = sum(not record.usable for record in records)
    faces = Counter(str(record.deidentification.get("face", {}).get("done", "")) for record in records)
    return [
        Verdict(
            Status.WARNING if bad else Status.PASSED,
            "Every file has a line",
            f"{bad} files need a look" if bad else "no file that was meant to be a scan was lost",
        ),
        Verdict(
            Status.WARNING if unusable else Status.PASSED,
            "Quality gate",
            f"{unusable} volumes are marked as not usable" if unusable else "all volumes passed",
        ),
        Verdict(
            Status.WARNING if faces["kept"] else Status.PASSED,
            "Faces",
            f"removed from {faces['removed']}, none to be seen in {faces['nothing']}, kept in {faces['kept']}",
        ),
    ]


def _outcome_table(outcomes: Counter[tuple[str, str]], example: dict[tuple[str, str], str]) -> Table:
    rows = [
        [outcome, reason or None, count, example[outcome, reason] or None]
        for (outcome, reason), count in sorted(outcomes.items())
    ]
    return Table(["outcome", "reason", "files", "for instance"], rows)


def _volume_table(records: list[ManifestRecord]) -> Table:
    rows = [
        [
            record.id,
            record.subject,
            record.session,
            record.suffix,
            " x ".join(str(n) for n in record.shape) + (f" x {record.frames}" if record.frames > 1 else ""),
            " x ".join(f"{step:.3g}" for step in record.spacing),
            record.split,
            "yes" if record.usable else "; ".join(record.reasons),
        ]
        for record in records[:_MOST_ROWS]
    ]
    caption = f"The first {_MOST_ROWS} of {len(records)}; all are in {MANIFEST}." if len(records) > _MOST_ROWS else ""
    return Table(["volume", "patient", "session", "kind", "voxels", "spacing (mm)", "split", "usable"], rows, caption)
