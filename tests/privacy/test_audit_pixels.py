"""The audit reads what pictures show, and says where it could not."""

from __future__ import annotations

import base64
import io
import shutil
import sqlite3
import zipfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import nibabel
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from medidiff.privacy.audit import NO_OCR, NOT_ASKED, audit_phi
from medidiff.privacy.audit_match import Matcher, Secrets, fold
from medidiff.privacy.audit_pixels import matches
from tests.ingest.heaps import body
from tests.io.dicom_series import set_pixels
from tests.privacy.planting import packaged

SECRET = "Quillfeather^Rosamund"
needs_tesseract = pytest.mark.skipif(shutil.which("tesseract") is None, reason="tesseract is not installed")


def drawn(text: str = "QUILLFEATHER ROSAMUND", ground: int = 30) -> NDArray[np.uint8]:
    """Text as a console burns it into a picture."""
    image = Image.new("L", (360, 160), ground)
    ImageDraw.Draw(image).text((12, 60), text, fill=230, font=ImageFont.load_default(22))
    return np.asarray(image)


def png(text: str = "QUILLFEATHER ROSAMUND") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(drawn(text)).save(buffer, "PNG")
    return buffer.getvalue()


def in_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("figure.png", png())


def in_database(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database:
        database.execute("create table pictures (content blob)")
        database.execute("insert into pictures values (?)", (png(),))
        database.commit()


def in_slice(path: Path) -> None:
    """One slice of a dozen shows it, upright as the scan was acquired."""
    stack = body(12, 160, 360).astype(np.int16)
    stack[7] = np.maximum(stack[7], drawn(ground=0).astype(np.int16) * 12)
    image = nibabel.Nifti1Image(stack.transpose(2, 1, 0), np.diag([1.0, 1.0, 4.0, 1.0]))
    nibabel.save(image, path)


def in_dicom(path: Path) -> None:
    dataset = packaged("MR_small.dcm")
    set_pixels(dataset, drawn().astype(np.uint16) * 8)
    dataset.save_as(path)


PLACES: dict[str, Callable[[Path], object]] = {
    "figure.png": lambda path: path.write_bytes(png()),
    "figure.jpg": lambda path: Image.fromarray(drawn()).save(path, quality=90),
    "page.html": lambda path: path.write_text(f'<img src="data:image/png;base64,{base64.b64encode(png()).decode()}">'),
    "pack.zip": in_zip,
    "pictures.db": in_database,
    "slice.nii.gz": in_slice,
    "capture.dcm": in_dicom,
}


@needs_tesseract
@pytest.mark.parametrize("name", list(PLACES))
def test_a_drawn_name_is_read(name: str, tmp_path: Path) -> None:
    PLACES[name](tmp_path / name)
    (tmp_path / "other.png").write_bytes(png("nobody in particular"))
    report = audit_phi(tmp_path, ["Somebody^Else", SECRET])
    assert {(finding.secret, finding.how) for finding in report.findings} == {(1, "pixels")}
    assert {finding.place.split("!")[0] for finding in report.findings} == {name}
    assert (report.pixels, report.unsearched) == ("", ())
    assert report.pictures == 2
    assert "uill" not in repr(report)


@needs_tesseract
def test_pictures_without_the_name_are_clean(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png("axial T1 256 x 256"))
    nibabel.save(nibabel.Nifti1Image(body().astype(np.int16).T, np.eye(4)), tmp_path / "b.nii.gz")
    report = audit_phi(tmp_path, [SECRET, "QX-4471903", "19570312"])
    assert report.clean
    assert report.planes > 12


def test_without_tesseract_pictures_are_said_to_be_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "note.txt").write_text("nothing")
    assert audit_phi(tmp_path, [SECRET]).clean
    (tmp_path / "a.png").write_bytes(png())
    report = audit_phi(tmp_path, [SECRET])
    assert (report.clean, report.pixels, report.pictures) == (False, NO_OCR, 1)
    chosen = audit_phi(tmp_path, [SECRET], pixels=False)
    assert (chosen.clean, chosen.pixels) == (True, NOT_ASKED)


@needs_tesseract
def test_what_cannot_be_shown_is_no_clean_bill(tmp_path: Path) -> None:
    (tmp_path / "torn.png").write_bytes(png()[:200])
    report = audit_phi(tmp_path, [SECRET])
    assert not report.clean
    assert [place for place, _ in report.unsearched] == ["torn.png"]


def test_links_are_named_and_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.txt").write_text(SECRET)
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "loop").symlink_to(inside)
    (inside / "out.txt").symlink_to(outside / "secret.txt")
    report = audit_phi(inside, [SECRET])
    assert (report.findings, report.files) == ((), 0)
    assert len(report.unsearched) == 2


@pytest.mark.parametrize(
    ("words", "hit"),
    [
        (["QUILLFEATHER"], False),
        (["Rosamund", "Quillfeather"], True),
        (["QUILLFEATHER", "ROSAMUND"], True),
        (["0UILLFEATHER,", "R0SAMUND"], True),
        (["Qui11feather", "Rosarnund"], True),
        (["quill", "rose", "amount"], False),
    ],
)
def test_ocr_may_err_a_little(words: list[str], hit: bool) -> None:
    assert matches(words, Secrets([SECRET])) == ({0} if hit else set())


@given(st.lists(st.binary(min_size=4, max_size=20), max_size=8, unique=True), st.data())
def test_the_matcher_finds_what_is_there_and_nothing_else(forms: list[bytes], data: st.DataObject) -> None:
    pieces = data.draw(st.lists(st.one_of(st.binary(max_size=12), st.sampled_from(forms or [b""])), max_size=8))
    text = b"".join(pieces)
    expected = {number for number, form in enumerate(forms) if form in text}
    assert Matcher({form: number for number, form in enumerate(forms)}).numbers(text) == expected


@given(st.text())
def test_folding_ascii_the_fast_way_changes_nothing(text: str) -> None:
    plain = "".join(letter for letter in text if letter.isascii())
    assert fold(plain) == "".join(letter for letter in plain.casefold() if letter.isalnum())
