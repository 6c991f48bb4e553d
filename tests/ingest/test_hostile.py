"""Bad input, planted identifiers and mutants: a reason each, nothing outside, nothing that names a person."""

from __future__ import annotations

import gzip
import json
import os
import random
import re
import resource
import subprocess
import sys
import tracemalloc
import zipfile
from collections import Counter
from pathlib import Path

import pydicom
import pytest

from medidiff.ingest import IngestOptions, ingest
from medidiff.ingestion import lines
from medidiff.ingestion.heap import Heap
from medidiff.ingestion.spool import Spool
from medidiff.io.archives import ArchiveLimits
from medidiff.privacy.audit import audit_phi, load_secrets
from medidiff.privacy.keys import PrivacyKey
from tests.ingest.heaps import PLAIN, body, nifti, patient, run, series, tree
from tests.io.dicom_series import TEST_FILES, write_series
from tests.io.test_dicom_fuzz import mutate

REPOSITORY = Path(__file__).resolve().parents[2]
# Beyond the budget of a volume: the file, the cleaned copy of its pixels, and what an allocator keeps.
BUDGET, ALLOWED_GROWTH = 64 << 20, 448 << 20


def fates(dataset: Path) -> list[dict[str, str]]:
    return [json.loads(text) for text in (dataset / "files.jsonl").read_text().splitlines()]


# --- the shared answer keys -----------------------------------------------------------------------------------------


def test_every_malformed_file_ends_in_one_reason(shared: Path, tmp_path: Path) -> None:
    source, dataset = shared / "dicom" / "malformed", tmp_path / "dataset"
    before = tree(source)
    result = run(source, dataset)
    assert result.exit_code == 3
    found = fates(dataset)
    # Each file has its line; members of archives have theirs besides.
    assert len(found) == len({line["file"] for line in found}) > len(before)
    assert all(line["reason"] for line in found if line["outcome"] != "kept")
    assert lines.INTERNAL not in {line["reason"] for line in found}
    # All are made from a few series: of each the best copy is taken, whatever lies beside it.
    assert result.volumes == 2
    assert tree(source) == before
    outside = {path.name for path in tmp_path.iterdir()}
    assert outside == {"dataset", "dataset.key"}
    assert not list(tmp_path.parent.glob("escape*"))
    assert result.set_apart[lines.REFUSED_MEMBER] == 2
    assert result.set_apart["over the memory budget"] == 1


# Folders in which nothing has to be looked at; in all others something has.
SOUND = {"duplicate_slices_identical", "mixed_series", "with_sr_and_dicomdir"}


def test_the_exit_code_tells_sound_folders_from_damaged_ones(shared: Path, tmp_path: Path) -> None:
    folders = [path for path in sorted((shared / "dicom" / "malformed").iterdir()) if path.is_dir()]
    codes = {path.name: run(path, tmp_path / path.name / "dataset").exit_code for path in folders}
    assert {name for name, code in codes.items() if code == 0} == SOUND
    assert set(codes.values()) == {0, 3}


def test_no_planted_identifier_survives(shared: Path, tmp_path: Path) -> None:
    source, dataset = shared / "dicom" / "phi", tmp_path / "dataset"
    # Four letters turn up by chance in a megabyte of packed voxels: one run in some dozens.
    secrets = [secret for secret in load_secrets(source / "phi.json") if len(secret) > 4]
    done = subprocess.run(
        [sys.executable, "-m", "medidiff", "ingest", str(source), "-o", str(dataset), "--body-part", "other"],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
    )
    assert done.returncode in (0, 3), done.stderr
    (tmp_path / "dataset" / "said.txt").write_text(done.stdout.replace(str(dataset), "") + done.stderr)
    for page in dataset.rglob("*.html"):  # base64 of a picture spells short names by chance; the pictures lie beside it
        page.write_text(re.sub(r"base64,[A-Za-z0-9+/=]+", "base64,", page.read_text()))
    report = audit_phi(dataset, secrets)
    assert report.findings == ()
    assert report.unsearched == ()
    assert len(list(dataset.rglob("*.nii.gz"))) >= 3


# --- archives -------------------------------------------------------------------------------------------------------


def test_archives_write_nowhere_else_and_no_more_than_agreed(tmp_path: Path) -> None:
    source, dataset = tmp_path / "heap", tmp_path / "dataset"
    files = series(tmp_path / "s")
    source.mkdir()
    with zipfile.ZipFile(source / "slip.zip", "w") as archive:
        archive.writestr("../../escape.dcm", files[0].read_bytes())
        archive.writestr("/absolute.dcm", files[1].read_bytes())
        for path in files:
            archive.write(path, f"ok/{path.name}")
    with zipfile.ZipFile(source / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros.nii", bytes(40 << 20))
    inner = source / "slip.zip"
    with zipfile.ZipFile(source / "nested.zip", "w") as archive:
        archive.write(inner, "one/two.zip")
    (source / "torn.zip").write_bytes(inner.read_bytes()[:2000])
    result = run(source, dataset, PLAIN.model_copy(update={"archive_bytes": 20 << 20}))
    assert result.set_apart[lines.REFUSED_MEMBER] == 4
    assert result.set_apart[lines.DAMAGED_ARCHIVE] == 2
    assert result.set_apart[lines.UNPACKED] == 3
    assert result.volumes == 1
    assert {path.name for path in tmp_path.iterdir()} == {"s", "heap", "dataset", "dataset.key"}
    assert "escape" not in (dataset / "files.jsonl").read_text()


# --- names ----------------------------------------------------------------------------------------------------------


def test_no_message_repeats_a_name(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    source, dataset = tmp_path / "Quillfeather", tmp_path / "dataset"
    write_series(source / "Rosamund", body(), change=patient("QX-4471", "Quillfeather^Rosamund"), prefix="Quillfeather")
    nifti(source / "Quillfeather_Rosamund.nii")
    broken = source / "Quillfeather_broken"
    broken.with_suffix(".nii").write_bytes((source / "Quillfeather_Rosamund.nii").read_bytes()[:3000])
    broken.with_suffix(".nii.gz").write_bytes(gzip.compress(bytes(1000))[:20])
    (source / "Quillfeather.zip").write_bytes(b"PK\x03\x04Quillfeather")
    write_series(source / "odd", body(), positions=[(0, 0, 3.0 * k + (k > 5) * 2) for k in range(12)],
                 change=patient("QX-4471", "Quillfeather^Rosamund"), prefix="Rosamund")  # fmt: skip
    result = run(source, dataset)
    assert result.bad >= 4
    assert audit_phi(dataset, ["Quillfeather", "Rosamund", "QX-4471"], pixels=False).clean
    said = capfd.readouterr()
    assert "uillfeather" not in said.out + said.err


# --- mutants --------------------------------------------------------------------------------------------------------


def mutants(folder: Path, count: int, seed: int) -> int:
    """A heap of damaged DICOM and NIfTI files."""
    rng = random.Random(seed)
    folder.mkdir()
    originals = [path.read_bytes() for path in sorted(TEST_FILES.glob("*.dcm")) if path.stat().st_size < 200_000]
    made = nifti(folder.parent / "original.nii", seed)
    del made
    whole = (folder.parent / "original.nii").read_bytes()
    images = [(whole, ".nii"), (gzip.compress(whole, 1), ".nii.gz")]
    for number in range(count):
        if number % 3:
            (folder / f"{number:05d}.dcm").write_bytes(mutate(rng.choice(originals), rng))
        else:
            content, suffix = rng.choice(images)
            (folder / f"{number:05d}{suffix}").write_bytes(mutate(content, rng))
    return count


def fuzz(count: int, seed: int, folder: Path) -> Counter[str]:
    made = mutants(folder / "heap", count, seed)
    before, peak = tree(folder / "heap"), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result = ingest([folder / "heap"], folder / "dataset", PLAIN.model_copy(update={"budget": BUDGET}))
    found = fates(folder / "dataset")
    assert result.files == len(found) == made
    reasons = Counter(line["reason"] for line in found)
    assert reasons[lines.INTERNAL] == 0, [line for line in found if line["reason"] == lines.INTERNAL]
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) * 1024 < BUDGET + ALLOWED_GROWTH
    assert tree(folder / "heap") == before
    assert {path.name for path in folder.iterdir()} == {"heap", "original.nii", "dataset", "dataset.key"}
    # Kept, refused by header and refused by content: all must occur, or the mutations test nothing.
    assert result.kept > 0
    assert len(reasons) > 5
    return reasons


@pytest.fixture(autouse=True)
def _no_hang() -> None:
    import faulthandler

    faulthandler.dump_traceback_later(900, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


@pytest.mark.parametrize("seed", range(4))
def test_two_thousand_mutants(seed: int, tmp_path: Path) -> None:
    fuzz(500, 100 + seed, tmp_path)


# --- size -----------------------------------------------------------------------------------------------------------


def peak_of_index(folder: Path, count: int, work: Path) -> int:
    """Most Python memory while so many files are indexed, bytes."""
    template = pydicom.dcmread(TEST_FILES / "MR_small.dcm")
    folder.mkdir()
    for number in range(count):
        template.SOPInstanceUID = template.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.{number}"
        template.SeriesInstanceUID = f"1.2.4.{number // 50}"
        template.PixelData = bytes(8192)
        template.save_as(folder / f"{number:06d}")
    work.mkdir()
    tracemalloc.start()
    try:
        with Spool(work / "index.sqlite") as spool:
            heap = Heap([folder], work, PrivacyKey.generate(), ArchiveLimits())
            heap.index(spool, budget=None, localizers=False, workers=1, on_file=lambda seen: None)
            assert sum(group.objects for group in spool.groups()) == count
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_the_index_does_not_hold_the_files(tmp_path: Path) -> None:
    small = peak_of_index(tmp_path / "small", 100, tmp_path / "w1")
    large = peak_of_index(tmp_path / "large", 500, tmp_path / "w2")
    # A folder's listing is held, a name a file; a header record would be ten times that.
    assert large - small < 400 * 700


@pytest.mark.slow
def test_a_hundred_thousand_files_are_indexed(tmp_path: Path) -> None:
    template = write_series(tmp_path / "one", body(), change=patient("P-1"))[0].read_bytes()
    heap = tmp_path / "heap"
    for folder in range(500):
        (heap / f"{folder:03d}").mkdir(parents=True)
        first = heap / f"{folder:03d}" / "000"
        first.write_bytes(template)
        for number in range(1, 200):
            os.link(first, heap / f"{folder:03d}" / f"{number:03d}")
    (tmp_path / "work").mkdir()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with Spool(tmp_path / "work" / "index.sqlite") as spool:
        Heap([heap], tmp_path / "work", PrivacyKey.generate(), ArchiveLimits()).index(
            spool, budget=None, localizers=False, workers=1, on_file=lambda seen: None
        )
        assert sum(group.objects for group in spool.groups()) == 100_000
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    assert grown < 100 << 20


def test_faces_are_removed_by_default_and_kept_by_choice(shared: Path, tmp_path: Path) -> None:
    pytest.importorskip("deepbet")
    source = shared / "data" / "head-t1-dcm-qa-xa30"
    dataset = tmp_path / "dataset"
    result = ingest([source], dataset, IngestOptions())
    assert result.volumes >= 1
    from medidiff.data.manifest import read_manifest

    faces = [record.deidentification["face"] for record in read_manifest(dataset)]
    removed = [face for face in faces if face["done"] == "removed"]
    assert removed
    assert all(face["brain_voxels_changed"] == 0 and face["removed_ml"] > 50 for face in removed)
    kept = ingest([source], tmp_path / "kept", IngestOptions(keep_face=True))
    assert kept.volumes >= 1
    assert {record.deidentification["face"]["done"] for record in read_manifest(tmp_path / "kept")} <= {
        "kept",
        "nothing",
    }
