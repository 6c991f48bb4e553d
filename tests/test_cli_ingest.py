"""The commands of ingest and privacy, as a user types them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from medidiff.privacy.keys import PrivacyKey
from tests.command_line import medidiff_process
from tests.ingest.heaps import nifti, series


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a heap, and a dataset made of it."""
    folder = tmp_path_factory.mktemp("desk")
    series(folder / "heap", "QX-4471903")
    nifti(folder / "heap" / "scan_T1w.nii.gz")
    (folder / "no-ocr.yaml").write_text("kind: ingest\nclean_pixels: false\nbody_part: head\n")
    words = ("ingest", "heap", "-o", "out/dataset", "--config", "no-ocr.yaml", "--body-part", "other")
    done = medidiff_process(*words, "--json", folder=folder)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    (folder / "facts.json").write_text(done.stdout)
    return folder


def test_json_says_what_was_done(desk: Path) -> None:
    facts = json.loads((desk / "facts.json").read_text())
    assert (facts["source_files"], facts["in_a_volume"], facts["volumes"], facts["new"]) == (13, 13, 2, 2)
    assert sum(facts["splits"].values()) == 2
    assert Path(facts["report"]).read_text().startswith("<!DOCTYPE html>")
    assert (desk / "out" / "dataset.key").is_file()


def test_a_person_gets_facts(desk: Path) -> None:
    words = ("ingest", "heap", "-o", "out/dataset", "--config", "no-ocr.yaml", "--body-part", "other")
    done = medidiff_process(*words, folder=desk)
    assert done.returncode == 0
    rows = dict(line.split("  ", 1) for line in done.stdout.splitlines())
    assert rows["new"].strip() == "0"
    assert rows["volumes"].strip() == "2"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["ingest", "nowhere", "-o", "x"], 3, "nowhere: there is no such file or folder"),
        (["ingest", "heap", "-o", "heap/x"], 2, "lie inside one another"),
        (["ingest", "heap", "-o", "heap/scan_T1w.nii.gz"], 2, "inside one another"),
        (["ingest", "heap", "-o", "x", "--body-part", "foot"], 2, "--body-part: Input should be 'auto', 'head'"),
        (["ingest", "heap", "-o", "x", "--uneven", "close"], 2, "--uneven"),
        (["ingest", "heap", "-o", "x", "--subject-pattern", "("], 2, "not a regular expression"),
        (["ingest", "heap", "-o", "x", "--config", "none.yaml"], 3, "none.yaml"),
        (["ingest", "heap", "-o", "x", "--key", "no-ocr.yaml"], 2, "open to other users"),
        (["ingest", "ftp://host/x", "-o", "x"], 3, "no such file"),
        (["ingest", "dimse://host", "-o", "x"], 2, "expected dicomweb://"),
        (["deidentify", "nowhere", "-o", "x"], 3, "no such file or folder"),
        (["deidentify", "heap", "-o", "heap/clean"], 2, "inside one another"),
        (["audit-phi", "heap", "--key", "none.txt"], 2, "none.txt"),
        (["listen", "inbox", "--aet", "A-TITLE-THAT-IS-TOO-LONG"], 2, "16 characters"),
    ],
    ids=lambda value: " ".join(value[:3]) if isinstance(value, list) else None,
)
def test_a_mistake_is_one_line(arguments: list[str], code: int, message: str, desk: Path) -> None:
    if arguments[0] == "listen" or "dimse" in arguments[1]:
        pytest.importorskip("pynetdicom")
    (desk / "no-ocr.yaml").chmod(0o644)
    done = medidiff_process(*arguments, folder=desk)
    assert done.returncode == code
    said = [line for line in done.stderr.splitlines() if line.startswith("medidiff: ")]
    assert message in said[-1]
    assert "Traceback" not in done.stderr
    assert not list(desk.glob(".x.*"))


def test_deidentify_then_audit(desk: Path) -> None:
    PrivacyKey.create(desk / "p.key")
    done = medidiff_process("deidentify", "heap", "-o", "clean", "--key", "p.key", "--no-pixels", "--json", folder=desk)
    facts = json.loads(done.stdout)
    assert (facts["written"], facts["patients"]) == (12, 1)
    assert [item["reason"] for item in facts["set_apart"]] == ["not-dicom"]
    assert done.returncode == 0
    (desk / "names.txt").write_text("QX-4471903\nName^QX-4471903\n")
    clean = medidiff_process("audit-phi", "clean", "--key", "names.txt", folder=desk)
    assert (clean.returncode, clean.stderr) == (0, "")
    dirty = medidiff_process("audit-phi", "heap", "--key", "names.txt", folder=desk)
    assert dirty.returncode == 4
    assert "QX-4471903" not in dirty.stdout
    assert "found" in dirty.stdout


def test_an_audit_of_a_dataset_finds_nothing(desk: Path) -> None:
    (desk / "names.txt").write_text("QX-4471903\nscan_T1w\nheap\n")
    done = medidiff_process("audit-phi", "out/dataset", "--key", "names.txt", "--json", folder=desk)
    assert json.loads(done.stdout)["findings"] == []
    assert done.returncode == 0
