"""Ingest end to end: what comes out, what stays untouched, and that doing it again changes nothing."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from collections import Counter
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from pydicom.uid import generate_uid

from medidiff.data.manifest import read_manifest
from medidiff.errors import ConfigError, InputError
from medidiff.ingest import IngestOptions, ingest
from medidiff.ingestion.heap import token_of
from medidiff.io import read_volume
from medidiff.io.dicom import read_series
from medidiff.privacy.keys import PrivacyKey
from medidiff.synthetic.marks import edited_description, nifti_description
from tests.ingest.heaps import PLAIN, body, nifti, patient, run, series, tree
from tests.io.dicom_series import TEST_FILES, write_series


def lines(dataset: Path) -> dict[str, dict[str, str]]:
    found = [json.loads(text) for text in (dataset / "files.jsonl").read_text().splitlines()]
    assert len({line["file"] for line in found}) == len(found)
    return {line["file"]: line for line in found}


def test_a_series_becomes_the_volume_that_the_reader_gives(tmp_path: Path) -> None:
    source, dataset = tmp_path / "heap", tmp_path / "dataset"
    series(source / "a" / "b")
    before = tree(source)
    result = run(source, dataset, IngestOptions(body_part="other"))
    assert (result.exit_code, result.volumes, result.usable, result.patients) == (0, 1, 1, 1)
    (record,) = read_manifest(dataset)
    expected, found = read_series(source), read_volume(dataset / record.path)
    np.testing.assert_array_equal(found.data, expected.data)
    np.testing.assert_allclose(found.geometry.affine, expected.geometry.affine, atol=1e-4)
    assert record.sha256 == tree(dataset)[record.path]
    assert record.shape == expected.geometry.shape
    assert record.spacing == pytest.approx(expected.geometry.spacing, abs=1e-5)
    assert record.source == {"format": "dicom, one slice a file", "files": 12, "planes": 12}
    assert record.deidentification["pixels"] == {"clean": 12}
    assert {line["outcome"] for line in lines(dataset).values()} == {"kept"}
    assert tree(source) == before
    assert not (tmp_path / ".dataset.medidiff-work").exists()
    assert (tmp_path / "dataset.key").stat().st_mode & 0o077 == 0


def test_doing_it_again_changes_nothing(tmp_path: Path) -> None:
    source, dataset = tmp_path / "heap", tmp_path / "dataset"
    series(source)
    nifti(source / "extra" / "T1.nii.gz")
    first = run(source, dataset)
    before = tree(dataset)
    stamps = {path: path.stat().st_mtime_ns for path in dataset.rglob("*.nii.gz")}
    again = run(source, dataset)
    assert (len(first.added), len(again.added)) == (2, 0)
    assert again.kept == first.kept
    assert tree(dataset) == before
    assert {path: path.stat().st_mtime_ns for path in dataset.rglob("*.nii.gz")} == stamps


def test_only_what_is_new_is_added_and_a_later_scan_joins_its_patient(tmp_path: Path) -> None:
    source, dataset = tmp_path / "heap", tmp_path / "dataset"
    series(source / "one", "P-1")
    series(source / "two", "P-2", seed=1)
    run(source, dataset)
    before = {record.id: record for record in read_manifest(dataset)}
    write_series(source / "later", body(seed=2), change=patient("p 1", study=generate_uid()), prefix="later")
    result = run(source / "later", dataset)
    assert len(result.added) == 1
    after = {record.id: record for record in read_manifest(dataset)}
    assert {name: after[name] for name in before} == before
    joined = after[result.added[0]]
    siblings = [record for record in before.values() if record.subject == joined.subject]
    assert len(siblings) == 1
    assert siblings[0].session != joined.session
    assert siblings[0].split == joined.split
    assert len(lines(dataset)) == 36


def test_a_series_that_grew_replaces_its_first_version(tmp_path: Path) -> None:
    source, dataset = tmp_path / "heap", tmp_path / "dataset"
    files = series(source)
    for path in files[9:]:
        path.rename(tmp_path / path.name)
    run(source, dataset)
    (short,) = read_manifest(dataset)
    for path in files[9:]:
        (tmp_path / path.name).rename(path)
    run(source, dataset)
    (whole,) = read_manifest(dataset)
    assert (short.shape[2], whole.shape[2]) == (9, 12)
    assert short.id == whole.id
    for path in files[6:]:
        path.unlink()
    result = run(source, dataset)
    assert result.set_apart == {"fuller version present": 6}
    assert list(read_manifest(dataset)) == [whole]


def test_a_file_that_was_mended_in_place_is_seen(tmp_path: Path) -> None:
    source, dataset = tmp_path / "heap", tmp_path / "dataset"
    files = series(source)
    run(source, dataset)
    before = tree(dataset)
    mended = pydicom.dcmread(files[3])
    pixels = mended.pixel_array.copy()
    pixels[10:20, 10:20] = 99
    mended.PixelData = pixels.tobytes()
    mended.save_as(files[3])
    result = run(source, dataset)
    assert len(result.added) == 1
    after = tree(dataset)
    assert set(after) == set(before)
    assert after != before
    (record,) = read_manifest(dataset)
    assert (read_volume(dataset / record.path).data == 99).sum() >= 100
    # Touched, not changed: nothing is made again.
    files[3].touch()
    assert run(source, dataset).added == ()


def test_a_damaged_copy_does_not_spoil_the_good_one(tmp_path: Path) -> None:
    source, dataset = tmp_path / "heap", tmp_path / "dataset"
    files = series(source / "good")
    shutil.copytree(source / "good", source / "bad")
    for number, path in enumerate(files):
        copy = pydicom.dcmread(source / "bad" / path.name)
        copy.ImagePositionPatient = [*copy.ImagePositionPatient[:2], copy.ImagePositionPatient[2] + (number > 5)]
        copy.save_as(source / "bad" / path.name)
    result = run(source, dataset)
    assert (result.volumes, result.kept) == (1, 12)
    assert sum(result.set_apart.values()) == 12
    assert result.exit_code == 3


def test_what_a_model_drew_never_becomes_a_real_scan(tmp_path: Path) -> None:
    """Ingestion writes headers anew: the mark of an edited or synthetic file would be gone."""
    source, dataset = tmp_path / "heap", tmp_path / "dataset"
    source.mkdir()
    for number, words in enumerate((edited_description("0"), nifti_description("0"), "as acquired")):
        nifti(source / f"{number}.nii", seed=50 + number)
        image = nibabel.load(source / f"{number}.nii")
        image.header["descrip"] = words.encode()
        name = f"p{number}.nii.gz" if number == 1 else f"p{number}.nii"
        nibabel.save(image, source / name)
        (source / f"{number}.nii").unlink()
    result = run(source, dataset)
    assert result.volumes == 1
    assert result.set_apart == {"marked as synthetic or edited": 2}


def test_a_mixed_heap_is_accounted_for_to_the_last_file(tmp_path: Path) -> None:
    source, dataset = tmp_path / "heap", tmp_path / "dataset"
    files = series(source / "deep" / "er")
    packed = series(tmp_path / "packed", "P-2", seed=3)
    with zipfile.ZipFile(source / "exam.zip", "w") as archive:
        for path in packed:
            archive.write(path, f"inner/{path.name}")
    shutil.copy(files[0], source / "copy-of-a-slice")
    volume = nifti(source / "scan.nii")
    affine = volume.geometry.affine
    pair = body(16, 44, 40, 51).transpose(2, 1, 0).astype(np.int16)
    nibabel.save(nibabel.Nifti1Pair(pair, affine), source / "pair.img")
    other = body(16, 44, 40, 52).transpose(2, 1, 0).astype(np.float32)
    nibabel.save(nibabel.MGHImage(other, affine), source / "other.mgz")
    (source / "README.txt").write_text("notes")
    (source / "empty.dcm").write_bytes(b"")
    (source / "picture.dcm").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(300))
    (source / "broken.nii").write_bytes((source / "scan.nii").read_bytes()[:5000])
    shutil.copy(TEST_FILES / "dicomdirtests" / "DICOMDIR", source / "DICOMDIR")
    (source / "link").symlink_to(source / "deep")
    result = run(source, dataset)
    assert result.exit_code == 3
    found = Counter((line["outcome"], line["reason"]) for line in lines(dataset).values())
    assert found == {
        ("kept", ""): 12 + 12 + 1 + 2 + 1,
        ("apart", "duplicate"): 1,
        ("skipped", "archive, unpacked"): 1,
        ("skipped", "metadata"): 1,
        ("apart", "empty file"): 1,
        ("apart", "not DICOM"): 1,
        ("apart", "unusable image"): 1,
        ("apart", "DICOMDIR"): 1,
        ("apart", "unreadable file"): 1,
    }
    assert result.volumes == 5
    text = (dataset / "files.jsonl").read_text()
    assert "heap" not in text
    assert "broken.nii" not in text


def test_tokens_lead_back_to_files_for_whoever_has_the_key(tmp_path: Path) -> None:
    source, dataset = tmp_path / "heap", tmp_path / "dataset"
    files = series(source)
    result = run(source, dataset)
    key = PrivacyKey.load(result.key)
    assert set(lines(dataset)) == {token_of(str(path), key) for path in files}


def test_several_patients_in_one_series_are_not_one_volume(tmp_path: Path) -> None:
    source = tmp_path / "heap"

    def change(dataset: pydicom.Dataset, k: int) -> None:
        dataset.PatientID = "P-1" if k < 6 else "P-2"

    write_series(source, body(), change=change)
    result = run(source, tmp_path / "dataset")
    assert result.set_apart == {"several patients": 12}
    assert result.exit_code == 3


def test_two_patients_under_one_series_uid_are_two_subjects(tmp_path: Path) -> None:
    source, dataset = tmp_path / "heap", tmp_path / "dataset"
    uid, study = generate_uid(), generate_uid()
    for number in (1, 2):
        change = patient(f"P-{number}", study=study)
        write_series(source / str(number), body(seed=number), change=change, series_uid=uid)
    result = run(source, dataset)
    assert (result.patients, result.volumes, result.kept, result.set_apart) == (2, 2, 24, {})
    # The second comes in a later run, with more slices: it must not replace the first.
    later = tmp_path / "later"
    run(source / "1", later)
    write_series(tmp_path / "more", body(14, seed=3), change=patient("P-3", study=study), series_uid=uid)
    again = run([source / "1", tmp_path / "more"], later)
    assert (again.patients, again.volumes, again.set_apart) == (2, 2, {})


def test_names_that_disagree_under_one_id_are_noted(tmp_path: Path) -> None:
    source, dataset = tmp_path / "heap", tmp_path / "dataset"
    for number, name in enumerate(("Quill^Ada", "ADA^QUILL", "Thorn^Ben")):
        write_series(source / "one" / str(number), body(seed=number), change=patient("P-7", name))
    write_series(source / "two", body(seed=5), change=patient("P-8", "Vale^Eve"))
    result = run(source, dataset)
    assert (result.patients, result.volumes) == (2, 4)
    note = "names disagree under one patient ID"
    noted = [record for record in read_manifest(dataset) if any(note in text for text in record.notes)]
    assert len(noted) == 3
    found = [line["text"] for line in lines(dataset).values() if note in line["text"]]
    assert len(found) == 36
    assert not any(word in text.lower() for text in found for word in ("quill", "thorn", "p-7"))
    agreeing = tmp_path / "agreeing"
    run([source / "one" / "0", source / "one" / "1"], agreeing)
    assert not any(note in line["text"] for line in lines(agreeing).values())


def test_a_copy_under_another_patient_is_told(tmp_path: Path) -> None:
    source, dataset = tmp_path / "heap", tmp_path / "dataset"
    for identity in ("P-1", "P-2"):
        write_series(source / identity, body(), change=patient(identity))
    result = run(source, dataset)
    assert result.set_apart == {"duplicate volume": 12}
    assert all("two subjects" in line["text"] for line in lines(dataset).values() if line["outcome"] == "apart")
    same = tmp_path / "same"
    for copy in "ab":
        write_series(tmp_path / "twice" / copy, body(), change=patient("P-1"))
    run(tmp_path / "twice", same)
    assert not any("two subjects" in line["text"] for line in lines(same).values())


def test_a_damaged_gzip_is_called_what_it_is(tmp_path: Path) -> None:
    series(tmp_path / "heap")
    (tmp_path / "heap" / "scan.dcm").write_bytes(b"\x1f\x8b\x08" + b"\0" * 40)
    run(tmp_path / "heap", tmp_path / "dataset")
    (line,) = [line for line in lines(tmp_path / "dataset").values() if line["outcome"] != "kept"]
    assert "not a DICOM file" in line["text"]
    assert "ingest" not in line["text"]


def test_a_copy_in_another_format_is_a_duplicate(tmp_path: Path) -> None:
    source, dataset = tmp_path / "heap", tmp_path / "dataset"
    volume = nifti(source / "a" / "scan.nii.gz")
    nibabel.save(
        nibabel.Nifti1Image(volume.data[0, ::-1].copy(), volume.geometry.affine @ np.diag([-1, 1, 1, 1.0])),
        source / "b.nii",
    )
    # Other values, other size, other format, the same scan.
    cropped = volume.data[0, 1:-1, 2:-2] * 1.7 + 3
    affine = volume.geometry.cropped((1, 2, 0), (38, 40, 16)).affine
    nibabel.save(nibabel.MGHImage(cropped.astype(np.float32), affine), source / "c.mgz")
    # The same body from another scan: not a duplicate.
    again = body(16, 44, 40, 50).astype(float) + np.abs(np.random.default_rng(9).standard_normal((16, 44, 40))) * 60
    nibabel.save(
        nibabel.Nifti1Image(again.transpose(2, 1, 0).astype(np.float32), volume.geometry.affine), source / "d.nii"
    )
    result = run(source, dataset)
    texts = [line["text"] for line in lines(dataset).values() if line["reason"] == "duplicate volume"]
    assert result.volumes == 2
    assert len(texts) == 2
    assert sum("to the last" in text for text in texts) == 1
    assert result.exit_code == 0


def test_a_bids_tree_keeps_its_people_and_sessions_apart(tmp_path: Path) -> None:
    source, dataset = tmp_path / "bids", tmp_path / "dataset"
    for seed, name in enumerate(
        ("sub-01/ses-a/anat/sub-01_ses-a_T1w", "sub-01/ses-b/anat/sub-01_ses-b_T1w", "sub-02/anat/sub-02_T2w")
    ):
        nifti(source / f"{name}.nii.gz", 60 + seed)
        facts = {
            "EchoTime": 0.003,
            "Manufacturer": "Siemens",
            "PatientName": "Quillfeather^Rosamund",
            "Nickname": "Posy",
        }
        (source / f"{name}.json").write_text(json.dumps(facts | ({"PatientID": "QX-77"} if "02" in name else {})))
        if "02" not in name:
            (source / f"{name}.json").write_text(json.dumps({key: facts[key] for key in ("EchoTime", "Manufacturer")}))
    (source / "dataset_description.json").write_text(json.dumps({"Name": "Wexborough study", "BIDSVersion": "1.8.0"}))
    result = run(source, dataset)
    assert (result.volumes, result.patients) == (3, 2)
    records = list(read_manifest(dataset))
    assert Counter(record.suffix for record in records) == {"T1w": 2, "T2w": 1}
    assert len({(record.subject, record.session) for record in records}) == 3
    sidecar = json.loads((dataset / records[0].path.replace(".nii.gz", ".json")).read_text())
    assert sidecar == {"EchoTime": 0.003, "Manufacturer": "Siemens"}
    everything = b"".join(path.read_bytes() for path in dataset.rglob("*") if path.suffix != ".gz" and path.is_file())
    for word in (b"Quill", b"QX-77", b"Posy", b"Wexborough", b"sub-01"):
        assert word not in everything


def test_a_dicom_patient_and_its_converted_scan_are_one_person(tmp_path: Path) -> None:
    source, dataset = tmp_path / "heap", tmp_path / "dataset"
    series(source / "dicom", "QX-4471903")
    nifti(source / "converted.nii.gz")
    (source / "converted.json").write_text(json.dumps({"PatientID": "qx 4471903"}))
    result = run(source, dataset)
    assert (result.volumes, result.patients) == (2, 1)


def test_a_subject_pattern_says_whose_a_file_is(tmp_path: Path) -> None:
    source, dataset = tmp_path / "heap", tmp_path / "dataset"
    for seed, name in enumerate(("p07_visit1_a", "p07_visit2_a", "p08_visit1_a", "stray")):
        nifti(source / f"{name}.nii.gz", 70 + seed)
    result = run(source, dataset, PLAIN.model_copy(update={"subject_pattern": r"/(p\d+)_visit"}))
    assert (result.volumes, result.patients, result.set_apart) == (3, 2, {"cannot be de-identified": 1})


def test_the_tree_is_valid_bids(tmp_path: Path) -> None:
    program = shutil.which("bids-validator-deno", path=str(Path(sys.executable).parent)) or shutil.which(
        "bids-validator-deno"
    )
    if program is None:
        pytest.skip("bids-validator-deno is not installed")
    source, dataset = tmp_path / "heap", tmp_path / "dataset"
    write_series(source / "t1", body(), change=patient("P-1"), prefix="t1", step=None)
    nifti(source / "x_T1w.nii.gz", 81)
    nifti(source / "y_mystery.nii.gz", 82)
    run(source, dataset)
    done = subprocess.run(
        [program, str(dataset), "--format", "json"], capture_output=True, text=True, check=False, timeout=300
    )
    issues = json.loads(done.stdout)["issues"]["issues"]
    assert [issue for issue in issues if issue.get("severity") == "error"] == []
    assert done.returncode == 0
    # The validator sees what is wrong: a file that has no place is an error.
    (dataset / "stray.nii.gz").write_bytes(b"")
    again = subprocess.run([program, str(dataset), "--format", "json"], capture_output=True, check=False, timeout=300)
    assert again.returncode != 0


def test_memory_is_that_of_a_volume_and_a_file_over_budget_is_told(tmp_path: Path) -> None:
    source = tmp_path / "heap"
    series(source)
    result = run(source, tmp_path / "dataset", PLAIN.model_copy(update={"budget": 1000}))
    assert result.volumes == 0
    assert set(result.set_apart) == {"over the memory budget"}
    assert result.exit_code == 3


def test_what_does_not_go_together_is_refused(tmp_path: Path) -> None:
    source = tmp_path / "heap"
    series(source)
    with pytest.raises(ConfigError, match="inside one another"):
        run(source, source / "out")
    with pytest.raises(ConfigError, match="inside one another"):
        run(source, tmp_path)
    with pytest.raises(InputError, match="no such file"):
        run(tmp_path / "nowhere", tmp_path / "dataset")
    with pytest.raises(ConfigError, match="no source"):
        ingest([], tmp_path / "dataset")
    with pytest.raises(ConfigError, match="outside the dataset"):
        run(source, tmp_path / "dataset", PLAIN.model_copy(update={"key": tmp_path / "dataset" / "k"}))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("x")
    with pytest.raises(ConfigError, match="not empty"):
        run(source, tmp_path / "full")
    assert (tmp_path / "full" / "thesis.txt").read_text() == "x"


def test_another_key_is_refused(tmp_path: Path) -> None:
    source, dataset = tmp_path / "heap", tmp_path / "dataset"
    series(source)
    run(source, dataset)
    before = tree(dataset)
    with pytest.raises(ConfigError, match="another privacy key"):
        run(source, dataset, PLAIN.model_copy(update={"key": tmp_path / "other.key"}))
    assert tree(dataset) == before


def test_two_runs_at_once_are_refused(tmp_path: Path) -> None:
    from medidiff.ingestion.state import workshop

    source, dataset = tmp_path / "heap", tmp_path / "dataset"
    series(source)
    with workshop(dataset), pytest.raises(ConfigError, match="another run"):
        run(source, dataset)


def test_progress_is_told(tmp_path: Path) -> None:
    source = tmp_path / "heap"
    series(source)
    told: list[tuple[int, int, str]] = []
    ingest([source], tmp_path / "dataset", PLAIN, lambda *what: told.append(what))
    assert (1, 1, "done") in told


def test_options_are_the_schema_of_a_file() -> None:
    with pytest.raises(ValueError, match="group in brackets"):
        IngestOptions(subject_pattern="p[0-9]+")
    with pytest.raises(ValueError, match="not a regular expression"):
        IngestOptions(subject_pattern="(")
