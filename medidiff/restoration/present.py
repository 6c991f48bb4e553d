"""A reconstruction for people: the preview picture and the report page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medidiff.io.atomic import atomic_write_bytes
from medidiff.report.figures import preview_png
from medidiff.report.html import Code, Facts, Page, Paragraph, Picture, Section, Status, Table, Verdict, write_html
from medidiff.volume import Volume

# What the command line and the README promise.
CONSISTENCY_LIMIT = 0.01

NOT_FOR = (
    "Not a medical device. What lies between the measured slices is an estimate from a statistical prior: it may "
    "miss small lesions or show structure that is not there. Do not diagnose from it."
)

_CAPTION = (
    "The scan as acquired, cubic interpolation with exact projection onto the data, ours, and what the two differ in; "
    "with a truth, that and our error as well."
)


def write_presentation(
    volumes: Mapping[str, Volume],
    record: Mapping[str, Any],
    *,
    preview: Path | None,
    report: Path | None,
    truth: Volume | None = None,
    table: Table | None = None,
) -> None:
    """Write the picture, the page, or both.

    Args:
        volumes: ``input``, ``baseline`` and ``restored``.
        record: What the JSON record says.
        table: Scores against a truth, where there is one.
    """
    panels = {"Cubic + projection": volumes["baseline"], "medidiff": volumes["restored"]}
    picture = preview_png(volumes["input"], panels, title=_title(record), truth=truth)
    if preview is not None:
        atomic_write_bytes(preview, picture)
    if report is not None:
        write_html(_page(record, picture, table), report)


def _title(record: Mapping[str, Any]) -> str:
    factors = " x ".join(f"{stage['factor']:.3g}" for stage in record["operators"]) or "none"
    return f"medidiff reconstruct: slice factor {factors}"


def _page(record: Mapping[str, Any], picture: bytes, table: Table | None) -> Page:
    error = float(record["data_consistency_nrmse"])
    consistent = Verdict(
        Status.PASSED if error <= CONSISTENCY_LIMIT else Status.FAILED,
        f"Data consistency: {error:.2%}",
        f"Slicing the result again as the scanner did gives back the input within this error; limit "
        f"{CONSISTENCY_LIMIT:.0%}.",
    )
    warnings = [Verdict(Status.WARNING, "Beyond what was tested", text) for text in record["warnings"]]
    model = record["model"]
    facts = {
        "Model": f"{model['name']} ({model['sha256'][:16]})" if model else None,
        "Estimate": record["estimate"],
        "Samples": record["samples"],
        "Seed": record["seed"],
        "Device": record["device"],
        "Seconds": record["seconds"],
        "Peak memory (MB)": record["peak_memory_mb"],
    }
    sections = [
        Section(
            "What was lost, and what was done", [*(Paragraph(text) for text in record["plan"]), consistent, *warnings]
        ),
        Section("Picture", [Picture(picture, _CAPTION)]),
        *([Section("Against the truth", [table])] if table is not None else []),
        Section("How", [Facts(facts)]),
        Section("Operators", [Code("\n".join(str(dict(stage)) for stage in record["operators"]) or "none")]),
        Section("Limits", [Paragraph(NOT_FOR)]),
    ]
    return Page("Reconstruction report", sections, footer=(f"medidiff {record['medidiff']}",))
