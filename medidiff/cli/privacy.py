"""``medidiff deidentify`` and ``medidiff audit-phi``: clean DICOM, and the search for what must not be there."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medidiff.cli import console

if TYPE_CHECKING:
    from medidiff.privacy.audit import AuditReport

# What an ordinary export holds besides images.
_ORDINARY = ("directory", "not-an-image", "not-dicom")
_MOST_LINES = 50


def deidentify(
    source: Annotated[Path, typer.Argument(help="A DICOM file, or a folder of them.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the clean copy; names are pseudonyms.")],
    key: Annotated[
        Path | None,
        typer.Option("--key", help="File of the privacy key, made if missing; keep it (default: OUTPUT.key)."),
    ] = None,
    keep_uids: Annotated[bool, typer.Option("--keep-uids", help="Keep UIDs: links the copy to the source.")] = False,
    keep_characteristics: Annotated[
        bool, typer.Option("--keep-characteristics", help="Keep sex, age (90 and above as 90), size and weight.")
    ] = False,
    no_pixels: Annotated[
        bool, typer.Option("--no-pixels", help="Do not search the pixels for burned-in text; files say so.")
    ] = False,
    keep_face: Annotated[
        bool, typer.Option("--keep-face", help="Leave the faces of head MR and CT as they are; files say so.")
    ] = False,
    body_part: Annotated[
        str, typer.Option("--body-part", help="auto, head or other: what all images show, against their headers.")
    ] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for a program.")] = False,
) -> None:
    """Copy the DICOM images of SOURCE without anything that says whose they are."""
    from medidiff.errors import EXIT_BAD_INPUT, ConfigError, InputError
    from medidiff.privacy.deidentify_tree import deidentify_tree
    from medidiff.privacy.keys import PrivacyKey
    from medidiff.privacy.policy import DeidentifyPolicy

    place = output.resolve()
    # Before the key: a wrong place must not leave one there.
    if not source.exists():
        raise InputError(f"{source}: there is no such file or folder")
    if place.is_relative_to(source.resolve()) or source.resolve().is_relative_to(place):
        raise ConfigError("source and output lie inside one another; give an output folder outside the source")
    if body_part not in ("auto", "head", "other"):
        raise ConfigError(f"--body-part must be auto, head or other, got {body_part!r}")
    policy = DeidentifyPolicy(
        clean_pixels=not no_pixels,
        clean_faces=not keep_face,
        body_part=body_part,  # type: ignore[arg-type]
        keep_uids=keep_uids,
        keep_characteristics=keep_characteristics,
    )
    secret = PrivacyKey.load_or_create(key or place.with_name(f"{place.name}.key"), outside=place)
    with console.progress("de-identifying") as on_progress:
        report = deidentify_tree(source, output, policy, secret, lambda done, total: on_progress(done, total, ""))
    if as_json:
        console.print_json(
            {
                "written": len(report.written),
                "unchanged": len(report.unchanged),
                "patients": report.patients,
                "pixels": report.pixels,
                "faces": report.faces,
                "set_apart": [
                    {"file": item.token, "reason": item.reason, "text": item.explanation} for item in report.set_apart
                ],
            }
        )
    else:
        facts: dict[str, object] = {"written": len(report.written), "unchanged": len(report.unchanged)}
        facts["patients"] = report.patients
        facts["faces"] = ", ".join(f"{count} {word}" for word, count in sorted(report.faces.items())) or "none"
        console.facts("", facts)
        for item in report.set_apart[:_MOST_LINES]:
            console.say(f"set apart  {item.token}  {item.reason}: {item.explanation}")
        if len(report.set_apart) > _MOST_LINES:
            console.say(f"and {len(report.set_apart) - _MOST_LINES} more; --json lists all")
    nothing = not report.written and not report.unchanged
    if nothing or any(item.reason not in _ORDINARY for item in report.set_apart):
        raise typer.Exit(EXIT_BAD_INPUT)


def audit_phi(
    dataset: Annotated[Path, typer.Argument(help="A file or folder: outputs, logs, reports, databases.")],
    key: Annotated[
        Path,
        typer.Option("--key", help="The strings that must not be there: one a line, or JSON such as an answer key."),
    ],
    pixels: Annotated[
        bool,
        typer.Option(
            "--pixels/--no-pixels",
            help="Read pictures, DICOM images and volumes with tesseract, too; --no-pixels leaves them unread.",
        ),
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for a program.")] = False,
) -> None:
    """Search everything below DATASET for given identifiers; they are named by their number, never printed.

    What could not be searched is listed, and is no clean bill; pixels where tesseract is missing are among that.
    """
    from medidiff.errors import EXIT_REFUSED
    from medidiff.privacy.audit import audit_phi as audit
    from medidiff.privacy.audit import load_secrets

    secrets = load_secrets(key)
    with console.progress("searching") as on_progress:
        report = audit(dataset, secrets, lambda done, total: on_progress(done, total, ""), pixels=pixels)
    if as_json:
        console.print_json(_as_json(report))
    else:
        _print(report)
    if not report.clean:
        raise typer.Exit(EXIT_REFUSED)


def _as_json(report: AuditReport) -> dict[str, object]:
    return {
        "files": report.files,
        "strings": report.secrets,
        "findings": [{"place": item.place, "string": item.secret, "how": item.how} for item in report.findings],
        "unsearched": [{"place": place, "why": why} for place, why in report.unsearched],
        "too_short": list(report.skipped),
        "pixels": {
            "searched": not report.pixels,
            "why_not": report.pixels,
            "pictures": report.pictures,
            "planes": report.planes,
            "read": report.read,
        },
    }


def _print(report: AuditReport) -> None:
    seen = f"{report.pictures} pictures and volumes, {report.planes} planes looked at, {report.read} read"
    console.facts(
        "",
        {
            "files": report.files,
            "strings": report.secrets,
            "pixels": f"{report.pixels}; {report.pictures} files hold pictures" if report.pixels else seen,
            "found": len(report.findings),
            "not searched": len(report.unsearched),
        },
    )
    for item in report.findings[:_MOST_LINES]:
        console.say(f"found  string {item.secret}  in {item.place}  ({item.how})")
    for place, why in report.unsearched[:_MOST_LINES]:
        console.say(f"not searched  {place}: {why}")
    left = max(len(report.findings) - _MOST_LINES, 0) + max(len(report.unsearched) - _MOST_LINES, 0)
    if left:
        console.say(f"and {left} more lines; --json lists all")
    if report.skipped:
        console.say(f"{len(report.skipped)} strings are too short to be searched for")
