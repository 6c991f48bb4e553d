"""The audit finds what was hidden, wherever it was hidden, and never prints it."""

from __future__ import annotations

import base64
import gzip
import io
import json
import sqlite3
import zipfile
import zlib
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from medidiff.errors import ConfigError, InputError
from medidiff.privacy.audit import audit_phi, load_secrets
from tests.privacy.planting import packaged

SECRET = "Quillfeather^Zoë"


def in_database(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database:
        database.execute("create table runs (note text)")
        database.execute("insert into runs values (?)", ("x" * 5000 + " Quillfeather, Zoë",))
        database.commit()


def in_zip(path: Path) -> None:
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.txt", "aaaa" * 999 + SECRET)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("inner.zip", inner.getvalue())


def in_nifti(path: Path) -> None:
    image = nibabel.Nifti1Image(np.zeros((4, 4, 4), dtype=np.int16), np.eye(4))
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", SECRET.encode()))
    nibabel.save(image, path)


def in_png(path: Path) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("Author", SECRET, zip=True)
    Image.new("L", (8, 8)).save(path, pnginfo=info)


def in_dicom(path: Path) -> None:
    ds = packaged("MR_small.dcm")
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.OperatorsName = "ZOE^QUILLFEATHER"
    ds.save_as(path)


def in_pdf(path: Path) -> None:
    path.write_bytes(b"%PDF-1.4\nstream\n" + zlib.compress(SECRET.encode() * 3) + b"\nendstream")


PLACES: dict[str, Callable[[Path], object]] = {
    "plain.txt": lambda path: path.write_text(f"... {SECRET} ..."),
    "upper.log": lambda path: path.write_text("QUILLFEATHER^ZOË"),
    "no_accent.csv": lambda path: path.write_text("1,quillfeather zoe,2"),
    "reversed.html": lambda path: path.write_text("<p>Zoe Quillfeather</p>"),
    "spaced.md": lambda path: path.write_text("Quill feather,\n\n  Z o e"),
    "latin.bin": lambda path: path.write_bytes(b"\0\1" + SECRET.encode("latin-1")),
    "utf16.bin": lambda path: path.write_bytes(SECRET.encode("utf-16")),
    "escaped.json": lambda path: path.write_text(json.dumps({"a": SECRET})),
    "base64.xml": lambda path: path.write_text(f"<d>{base64.b64encode(b'patient ' + SECRET.encode()).decode()}</d>"),
    "packed.gz": lambda path: path.write_bytes(gzip.compress(b"0" * 999 + SECRET.encode())),
    "nested.zip": in_zip,
    "runs.db": in_database,
    "scan.nii.gz": in_nifti,
    "figure.png": in_png,
    "image.dcm": in_dicom,
    "report.pdf": in_pdf,
}


@pytest.mark.parametrize("name", list(PLACES))
def test_a_planted_name_is_found(name: str, tmp_path: Path) -> None:
    PLACES[name](tmp_path / name)
    (tmp_path / "innocent.txt").write_text("nothing to see, quill and feather apart")
    report = audit_phi(tmp_path, ["nobody at all", SECRET])
    assert {finding.secret for finding in report.findings} == {1}
    assert {finding.place.split("!")[0] for finding in report.findings} == {name}
    assert "uill" not in repr(report)


def test_names_of_files_and_folders_are_searched_and_masked(tmp_path: Path) -> None:
    (tmp_path / "Zoe_Quillfeather").mkdir()
    (tmp_path / "Zoe_Quillfeather" / "a.txt").write_text("x")
    report = audit_phi(tmp_path, [SECRET])
    assert {finding.how for finding in report.findings} == {"name"}
    assert "uill" not in repr(report)


def test_a_long_file_is_searched_across_its_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("medidiff.privacy.audit._CHUNK", 64)
    (tmp_path / "a.bin").write_bytes(b"\xff" * 58 + b"Quillfeather 7" + b"\xff" * 100)
    assert audit_phi(tmp_path, ["Quillfeather 7"]).findings


def test_clean_folder_damaged_archive_and_bad_input(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("all quiet")
    assert audit_phi(tmp_path, [SECRET]).clean
    (tmp_path / "b.gz").write_bytes(b"\x1f\x8b\x08\0damaged")
    report = audit_phi(tmp_path, [SECRET, "abc"])
    assert not report.clean
    assert report.skipped == (1,)
    with pytest.raises(InputError):
        audit_phi(tmp_path / "missing", [SECRET])
    (tmp_path / "empty.json").write_text("[]")
    with pytest.raises(ConfigError):
        load_secrets(tmp_path / "empty.json")
    (tmp_path / "key.json").write_text(json.dumps({"sensitive_tokens": ["A"], "planted": [{"string": "B"}]}))
    assert load_secrets(tmp_path / "key.json") == ["A", "B"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16-le", "shift_jis", "euc_jp"])
def test_a_family_name_of_two_ideographs_is_found(encoding: str, tmp_path: Path) -> None:
    (tmp_path / "log.txt").write_bytes("scan of 山吹 done".encode(encoding))
    found = audit_phi(tmp_path, ["山吹"])
    assert found.skipped == ()
    assert {finding.secret for finding in found.findings} == {0}
