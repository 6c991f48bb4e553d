"""Every way in which a set may be unfit for release is planted once, and the gate names it."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from medidiff.errors import InputError
from medidiff.synthetic import (
    Family,
    Metadata,
    Outcome,
    PrivacyReport,
    QualityReport,
    SyntheticSet,
    judge,
    write_report,
)
from medidiff.volume import Volume
from tests.synthetic.sets import CREATED, PEOPLE, PLAN, figure, privacy, quality, write_set

Fault = Callable[[Path], None]


def test_a_good_set_passes(pristine: Path) -> None:
    judgement = judge(pristine)
    assert judgement.reasons == ()
    assert judgement.synthetic is not None
    assert judgement.quality is not None
    assert judgement.privacy is not None


def linked(name: str) -> Fault:
    """The same bytes, but elsewhere: what is released could be another thing than what was judged."""

    def fault(folder: Path) -> None:
        elsewhere = (folder / name).rename(folder.parent / "elsewhere")
        (folder / name).symlink_to(elsewhere)

    return fault


def piped(folder: Path) -> None:
    (folder / "images" / "s003.json").unlink()
    os.mkfifo(folder / "images" / "s003.json")


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(bytes(content))


def rewrite(name: str) -> Callable[[Callable[[dict[str, Any]], object]], Fault]:
    """A change of a report that is sealed again, as whoever wants to cheat would do it."""
    kind = {"quality": QualityReport, "privacy": PrivacyReport}[name]

    def make(change: Callable[[dict[str, Any]], object]) -> Fault:
        def fault(folder: Path) -> None:
            value = json.loads((folder / f"{name}.json").read_text())
            value.pop("seal")
            change(value)
            write_report(kind.model_validate_json(json.dumps(value)), folder)

        return fault

    return make


def concluded(name: str, outcome: Outcome) -> Fault:
    def fault(folder: Path) -> None:
        synthetic = SyntheticSet.open(folder)
        report = {"quality": quality, "privacy": privacy}[name](synthetic)
        family = {"quality": Family.FIDELITY, "privacy": Family.MEMBERSHIP}[name]
        bad = figure("the figure", family, outcome, limit="at most 0.02")
        rest = report.model_dump(exclude={"verdict", "reasons", "metrics"})
        write_report(type(report).conclude([*report.metrics, bad], **rest), folder)

    return fault


def reseal_set(folder: Path) -> None:
    """Reports anew for whatever the folder now says: what a cheat with both programs would have."""
    synthetic = SyntheticSet.open(folder)
    write_report(quality(synthetic), folder)
    write_report(privacy(synthetic), folder)


def strip_header(folder: Path) -> None:
    """The mark is taken out of a header, and every hash above it is made to fit."""
    path = folder / "images" / "s003.nii.gz"
    content = bytearray(gzip.decompress(path.read_bytes()))
    content[148:228] = b"\0" * 80
    path.write_bytes(gzip.compress(bytes(content), mtime=0))
    rehash(folder, "s003", path)


def rehash(folder: Path, item: str, path: Path) -> None:
    lines = [json.loads(line) for line in (folder / "synthetic.jsonl").read_text().splitlines()]
    for line in lines:
        if line["id"] == item:
            kind = path.parent.name.removesuffix("s")
            line[kind] |= {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "size": path.stat().st_size}
    write_lines(folder, lines)
    reseal_set(folder)


def write_lines(folder: Path, lines: list[dict[str, Any]]) -> None:
    texts = [json.dumps(line, sort_keys=True, separators=(",", ":")) + "\n" for line in lines]
    for line, text in zip(lines, texts, strict=True):
        (folder / "images" / f"{line['id']}.json").write_text(text)
    (folder / "synthetic.jsonl").write_text("".join(texts))
    record = json.loads((folder / "set.json").read_text())
    record |= {"items": len(lines), "items_sha256": hashlib.sha256("".join(texts).encode()).hexdigest()}
    (folder / "set.json").write_text(json.dumps(record, indent=2) + "\n")


def unmark_item(folder: Path) -> None:
    lines = [json.loads(line) for line in (folder / "synthetic.jsonl").read_text().splitlines()]
    lines[2]["synthetic"] = False
    write_lines(folder, lines)


def unmark_set(folder: Path) -> None:
    record = json.loads((folder / "set.json").read_text())
    record["synthetic"] = False
    (folder / "set.json").write_text(json.dumps(record))


def move_grid(folder: Path) -> None:
    lines = [json.loads(line) for line in (folder / "synthetic.jsonl").read_text().splitlines()]
    lines[2]["grid"]["affine"][0][3] += 1
    write_lines(folder, lines)
    reseal_set(folder)


def one_image_twice(folder: Path) -> None:
    shutil.copy(folder / "images" / "s000.nii.gz", folder / "images" / "s001.nii.gz")
    rehash(folder, "s001", folder / "images" / "s001.nii.gz")


def other_model(folder: Path) -> None:
    lines = [json.loads(line) for line in (folder / "synthetic.jsonl").read_text().splitlines()]
    lines[0]["model_sha256"] = "99" * 32
    write_lines(folder, lines)
    reseal_set(folder)


def no_label(folder: Path) -> None:
    lines = [json.loads(line) for line in (folder / "synthetic.jsonl").read_text().splitlines()]
    lines[0]["label"] = None
    (folder / "labels" / "s000.nii.gz").unlink()
    write_lines(folder, lines)
    reseal_set(folder)


def outside(folder: Path) -> None:
    lines = [json.loads(line) for line in (folder / "synthetic.jsonl").read_text().splitlines()]
    lines[0]["image"]["path"] = "../secret.nii.gz"
    write_lines(folder, lines)


def cut_voxels(folder: Path) -> None:
    path = folder / "images" / "s003.nii.gz"
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:400], mtime=0))
    rehash(folder, "s003", path)


def no_volume(folder: Path) -> None:
    path = folder / "labels" / "s003.nii.gz"
    path.write_bytes(b"a letter")
    rehash(folder, "s003", path)


FAULTS: dict[str, tuple[Fault, str]] = {
    "no quality report": (
        lambda f: (f / "quality.json").unlink(),
        "quality.json: there is no such report; have the set examined",
    ),
    "no privacy report": (
        lambda f: (f / "privacy.json").unlink(),
        "privacy.json: there is no such report; have the set",
    ),
    "quality failed": (concluded("quality", Outcome.FAILED), "quality.json: failed: the figure: failed (at most 0.02)"),
    "privacy failed": (concluded("privacy", Outcome.FAILED), "privacy.json: failed: the figure"),
    "quality inconclusive": (concluded("quality", Outcome.INCONCLUSIVE), "quality.json: inconclusive: the figure"),
    "privacy inconclusive": (concluded("privacy", Outcome.INCONCLUSIVE), "privacy.json: inconclusive: the figure"),
    "report of another set": (rewrite("privacy")(lambda r: r.update(set_sha256="11" * 32)), "speaks of another set"),
    "report older than the set": (
        rewrite("quality")(lambda r: r.update(created=(CREATED - timedelta(seconds=1)).isoformat())),
        "quality.json: older than the set",
    ),
    "audited against another split": (
        rewrite("privacy")(lambda r: r.update(training_split_sha256="22" * 32)),
        "another training split",
    ),
    "nobody looked for copies": (
        rewrite("privacy")(lambda r: r["metrics"].pop(0)),
        "privacy.json: nothing in it judges memorisation",
    ),
    "membership only told": (
        rewrite("privacy")(lambda r: r["metrics"][1].update(outcome=None)),
        "privacy.json: nothing in it judges membership",
    ),
    "nothing measured": (rewrite("quality")(lambda r: r.update(metrics=[])), "nothing in it judges fidelity"),
    "edited verdict": (
        lambda f: (f / "privacy.json").write_text((f / "privacy.json").read_text().replace("0.51", "0.50")),
        "privacy.json: altered since it was written",
    ),
    "altered image": (lambda f: flip(f / "images" / "s002.nii.gz", 700), "images/s002.nii.gz: its content is not what"),
    "altered first byte": (lambda f: flip(f / "images" / "s002.nii.gz", 0), "images/s002.nii.gz: "),
    "altered label map": (
        lambda f: flip(f / "labels" / "s002.nii.gz", -1),
        "labels/s002.nii.gz: its content is not what",
    ),
    "longer image": (
        lambda f: (f / "images" / "s002.nii.gz").open("ab").write(b"\0"),
        "images/s002.nii.gz: larger than",
    ),
    "altered sidecar": (lambda f: flip(f / "images" / "s002.json", 5), "images/s002.json: altered"),
    "altered list": (
        lambda f: flip(f / "synthetic.jsonl", 9),
        "synthetic.jsonl: its content is not what set.json says",
    ),
    "altered record": (
        lambda f: flip(f / "set.json", -2),
        "speaks of another set, or of this one before it was changed",
    ),
    "missing image": (lambda f: (f / "images" / "s002.nii.gz").unlink(), "images/s002.nii.gz: missing"),
    "missing label map": (lambda f: (f / "labels" / "s009.nii.gz").unlink(), "labels/s009.nii.gz: missing"),
    "missing sidecar": (lambda f: (f / "images" / "s002.json").unlink(), "images/s002.json: missing"),
    "missing list": (lambda f: (f / "synthetic.jsonl").unlink(), "synthetic.jsonl: cannot be read"),
    "a real scan among them": (
        lambda f: (f / "images" / "real.nii.gz").write_bytes(b"x"),
        "images: 1 file not part of the set",
    ),
    "a hidden file": (lambda f: (f / ".DS_Store").write_bytes(b"x"), "the set's folder: 1 file not part of the set"),
    "a link": (lambda f: (f / "labels" / "more").symlink_to("/"), "labels: 1 file not part of the set"),
    "an image that is a link": (linked("images/s003.nii.gz"), "images/s003.nii.gz: a link or device"),
    "a label map that is a link": (linked("labels/s003.nii.gz"), "labels/s003.nii.gz: a link or device"),
    "a sidecar that is a link": (linked("images/s003.json"), "images/s003.json: a link or device"),
    "a list that is a link": (linked("synthetic.jsonl"), "synthetic.jsonl: cannot be read (no plain file)"),
    "a report that is a link": (linked("privacy.json"), "privacy.json: a link or device"),
    "a sidecar that is a pipe": (piped, "images/s003.json: a link or device"),
    "header mark stripped": (strip_header, "images/s003.nii.gz: its header is not marked as synthetic"),
    "voxels cut off": (cut_voxels, "images/s003.nii.gz"),
    "a label map that is none": (no_volume, "labels/s003.nii.gz"),
    "item mark stripped": (unmark_item, "synthetic.jsonl:3: synthetic: Input should be True"),
    "set mark stripped": (unmark_set, "set.json: synthetic: Input should be True"),
    "other grid": (move_grid, "images/s002.nii.gz: lies on another grid"),
    "one image twice": (one_image_twice, "2 items are one and the same image"),
    "other generator": (other_model, "item s000: made by another generator"),
    "no label map": (no_label, "item s000: has no label map"),
    "path out of the set": (outside, "synthetic.jsonl:1: Value error, the image of s000 must be images/s000.nii.gz"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_named(name: str, releasable: Path) -> None:
    fault, reason = FAULTS[name]
    fault(releasable)
    reasons = judge(releasable).reasons
    assert any(reason in told for told in reasons), reasons
    assert str(releasable) not in "\n".join(reasons), "a reason may be shown to others: no path of this machine"


def test_every_reason_is_given_not_just_the_first(releasable: Path) -> None:
    for name in ("no privacy report", "quality failed", "altered image", "a hidden file", "altered sidecar"):
        FAULTS[name][0](releasable)
    reasons = judge(releasable).reasons
    for name in ("no privacy report", "quality failed", "altered image", "a hidden file", "altered sidecar"):
        assert sum(FAULTS[name][1] in told for told in reasons) == 1


def test_rare_metadata_is_refused(tmp_path: Path, mni: Volume) -> None:
    folder = tmp_path / "set"
    write_set(folder, mni, people=[*PEOPLE[:5], *[Metadata(sex="male", site="north")] * 4])
    reseal_set(folder)
    (reason,) = judge(folder).reasons
    assert reason.startswith("metadata: only 4 items share (not stated, male, north, T1w) of (age band, sex, ")


def test_a_label_value_without_a_class_is_refused(releasable: Path) -> None:
    record = json.loads((releasable / "set.json").read_text())
    record["labels"].pop()
    (releasable / "set.json").write_text(json.dumps(record))
    reseal_set(releasable)
    reasons = judge(releasable).reasons
    assert reasons[0] == "labels/s000.nii.gz: values without a label class: 2"
    assert len(reasons) == 10


@pytest.mark.parametrize("place", ["plan", "report"])
def test_the_word_that_nothing_supports_is_refused(place: str, tmp_path: Path, mni: Volume) -> None:
    folder = tmp_path / "set"
    plan = PLAN.model_copy(update={"description": "Fully Anonymous scans"}) if place == "plan" else PLAN
    synthetic = write_set(folder, mni, plan)
    write_report(quality(synthetic), folder)
    write_report(privacy(synthetic, notes=("ANONYMOUS",) if place == "report" else ()), folder)
    (reason,) = judge(folder).reasons
    assert reason.startswith("set.json: calls the data" if place == "plan" else "privacy.json: calls the data")
    assert "nonymous" not in reason


def test_variations_of_a_scan_are_refused_whatever_the_reports_say(tmp_path: Path, mni: Volume) -> None:
    """The audit knows the people of training alone; the scan that was varied is somebody else's."""
    varied = PLAN.generator.model_copy(update={"sampler": {"steps": 8, "strength": 1e-9, "vary_sha256": "12" * 32}})
    folder = tmp_path / "set"
    write_set(folder, mni, PLAN.model_copy(update={"generator": varied}))
    reseal_set(folder)
    (reason,) = judge(folder).reasons
    assert reason == "set.json: variations of one given scan: they show a person whom no audit compared them with"


def test_the_names_of_foreign_files_are_not_told(releasable: Path) -> None:
    for name in ("images/MUELLER_Hans.nii.gz", "images/MUELLER_Eva.nii.gz", "MUELLER.txt", "MUELLER/a.dcm"):
        (releasable / name).parent.mkdir(exist_ok=True)
        (releasable / name).write_bytes(b"x")
    reasons = judge(releasable).reasons
    assert reasons == ("images: 2 files not part of the set", "the set's folder: 2 files not part of the set")


def test_a_set_whose_record_is_a_link_is_none(releasable: Path) -> None:
    linked("set.json")(releasable)
    with pytest.raises(InputError, match=r"set.json: a link, not a file of the set"):
        judge(releasable)


def test_no_set_is_bad_input_not_a_refusal(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(InputError, match="no synthetic set there"):
            judge(folder)
