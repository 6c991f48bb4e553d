"""``medidiff deidentify`` and ``medidiff audit-phi``: clean DICOM, and the search for what must not be there."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medidiff.cli import console

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
    policy = DeidentifyPolicy(
        clean_pixels=not no_pixels, keep_uids=keep_uids, keep_characteristics=keep_characteristics
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
                "set_apart": [
                    {"file": item.token, "reason": item.reason, "text": item.explanation} for item in report.set_apart
                ],
            }
        )
    else:
        facts: dict[str, object] = {"written": len(report.written), "unchanged": len(report.unchanged)}
        facts["patients"] = report.patients
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
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for a program.")] = False,
) -> None:
    """Search everything below DATASET for given identifiers; they are named by their number, never printed."""
    from medidiff.errors import EXIT_REFUSED
    from medidiff.privacy.audit import audit_phi as audit
    from medidiff.privacy.audit import load_secrets

    secrets = load_secrets(key)
    with console.progress("searching") as on_progress:
        report = audit(dataset, secrets, lambda done, total: on_progress(done, total, ""))
    if as_json:
        findings = [{"place": item.place, "string": item.secret, "how": item.how} for item in report.findings]
        unsearched = [{"place": place, "why": why} for place, why in report.unsearched]
        console.print_json(
            {"files": report.files, "strings": report.secrets, "findings": findings, "unsearched": unsearched,
             "too_short": list(report.skipped)}
        )  # fmt: skip
    else:
        console.facts("", {"files": report.files, "strings": report.secrets, "found": len(report.findings)})
        for item in report.findings[:_MOST_LINES]:
            console.say(f"found  string {item.secret}  in {item.place}  ({item.how})")
        for place, why in report.unsearched[:_MOST_LINES]:
            console.say(f"not searched  {place}: {why}")
        if report.skipped:
            console.say(f"{len(report.skipped)} strings are too short to be searched for")
    if not report.clean:
        raise typer.Exit(EXIT_REFUSED)
