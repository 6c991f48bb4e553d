"""A reconstruction for people: the preview picture and the report page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
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


@dataclass(frozen=True, slots=True)
class Words:
    """How pictures and pages speak of one kind of job.

    Args:
        baseline: Name of the answer without a network; None if it is not worth a panel.
        caption: What the picture shows.
        consistent: What agreement with the data means here.
        limit: Largest relative disagreement that passes; None where noisy data are not to be met exactly.
    """

    baseline: str | None
    caption: str
    consistent: str
    limit: float | None = None


WORDS = {
    "slices": Words(
        "Cubic + projection",
        "The scan as acquired, cubic interpolation with exact projection onto the data, ours, and what the two differ "
        "in; with a truth, that and our error as well.",
        "Slicing the result again as the scanner did gives back the input within this error; limit "
        f"{CONSISTENCY_LIMIT:.0%}.",
        CONSISTENCY_LIMIT,
    ),
    "inpaint": Words(
        "Smooth fill",
        "The scan with its holes, the holes filled smoothly from their surroundings, ours, and what the two differ in.",
        "What was not marked as missing is what it was.",
        CONSISTENCY_LIMIT,
    ),
    "kspace": Words(
        "Sparse in wavelets",
        "The coils' images where every sample that was not taken is zero; the classical answer, sparse in wavelets and "
        "without a network; ours; and what the two differ in.",
        "Sampling the result again gives back the measured k-space within this error; noise is not reproduced.",
    ),
    "stacks": Words(
        "Joint least squares",
        "The first stack as acquired; the smoothest image that agrees with all stacks, without a network; ours; and "
        "what the two differ in.",
        "Slicing the result again as each stack was taken, where each was found to lie, gives back all of them within "
        "this error; noise, and what moved otherwise, is not reproduced.",
    ),
    "motion": Words(
        "Slices put in place",
        "The scan as acquired, its slices where the head was found to be; the smoothest image that agrees with them, "
        "without a network; ours; and what the two differ in.",
        "Slicing the result again, in each place where the head was found, gives back the slices within this error; "
        "what the estimated motion cannot explain is not reproduced.",
    ),
    "composed": Words(
        "Least squares",
        "The scan as acquired, the classical answer to the steps of the file, ours, and what the two differ in.",
        "The steps of the file, done again to the result, give back the scan within this error; stated noise is not "
        "reproduced.",
    ),
    "denoise": Words(None, "The scan as acquired, and ours.", ""),
}
# A kind without words of its own.
PLAIN = Words(
    "Without a prior",
    "What was measured, the classical answer, ours, and what the two differ in.",
    "Measuring the result again gives back the data within this error; noise is not reproduced.",
)
# Noise taken out over noise there was: much less, and noise is left; more, and anatomy went with it.
NOISE_TAKEN = (0.7, 1.1)


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
        volumes: ``input``, ``baseline`` and ``restored``; ``interval`` where there is one.
        record: What the JSON record says.
        table: Scores against a truth, where there is one.
    """
    simple = _words(record).baseline
    panels = {simple: volumes["baseline"]} if simple else {}
    panels["medidiff"] = volumes["restored"]
    picture = preview_png(
        volumes["input"], panels, title=_title(record), truth=truth, uncertainty=volumes.get("interval")
    )
    if preview is not None:
        atomic_write_bytes(preview, picture)
    if report is not None:
        write_html(_page(record, picture, table), report)


def _title(record: Mapping[str, Any]) -> str:
    if record["kind"] != "slices":
        return f"medidiff reconstruct: {record['kind']}"
    factors = " x ".join(f"{stage['factor']:.3g}" for stage in record["operators"]) or "none"
    return f"medidiff reconstruct: slice factor {factors}"


def _words(record: Mapping[str, Any]) -> Words:
    return WORDS.get(str(record["kind"]), PLAIN)


def _consistency(record: Mapping[str, Any]) -> list[Verdict]:
    if record["kind"] == "denoise":
        low, high = NOISE_TAKEN
        return [
            Verdict(
                Status.PASSED if low <= frame["residual_over_noise"] <= high else Status.WARNING,
                f"Taken out: {frame['residual_over_noise']:.0%} of the noise",
                f"Of noise with a standard deviation of {frame['noise_std']:.4g}; {low:.0%} to {high:.0%} is expected.",
            )
            for frame in record["by_frame"]
        ]
    error = float(record["data_consistency_nrmse"])
    words, status = _words(record), Status.INFO
    if words.limit is not None:
        status = Status.PASSED if error <= words.limit else Status.FAILED
    return [Verdict(status, f"Data consistency: {error:.2%}", words.consistent)]


def _certainty(record: Mapping[str, Any]) -> list[Verdict]:
    """How sure the result is, where that was asked for."""
    found = []
    if interval := record.get("interval"):
        status = Status.INFO if interval["calibrated"] else Status.WARNING
        found.append(Verdict(status, "Interval", f"{interval['says']}."))
    if shares := record.get("provenance"):
        text = (
            f"{shares['share']:.1%} of the energy of the contrast is fixed by no measurement; "
            f"{shares['learned_share']:.1%} is what the network changed in the classical answer. The rest is the same "
            "in every image that reproduces the data."
        )
        found.append(Verdict(Status.INFO, "From the prior", text))
    return found


def _page(record: Mapping[str, Any], picture: bytes, table: Table | None) -> Page:
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
            "What was lost, and what was done",
            [*(Paragraph(text) for text in record["plan"]), *_consistency(record), *_certainty(record), *warnings],
        ),
        Section("Picture", [Picture(picture, _words(record).caption)]),
        *([Section("Against the truth", [table])] if table is not None else []),
        Section("How", [Facts(facts)]),
        Section("Operators", [Code("\n".join(str(dict(stage)) for stage in record["operators"]) or "none")]),
        Section("Limits", [Paragraph(NOT_FOR)]),
    ]
    return Page("Reconstruction report", sections, footer=(f"medidiff {record['medidiff']}",))
