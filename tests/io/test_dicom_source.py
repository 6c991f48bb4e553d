"""The quick walk over plain files finds what pydicom finds, and leaves to pydicom what it must."""

from __future__ import annotations

from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from medidiff.io.dicom import source
from medidiff.io.dicom.source import Source, open_source
from medidiff.io.dicom.walk import walk
from tests.io.dicom_series import TEST_FILES, phantom, write_series

FILES = sorted(path for path in TEST_FILES.glob("*.dcm") if path.stat().st_size > 0)


def both(path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Source, Source] | None:
    """The file read quickly and by pydicom; None where only pydicom reads it, or nothing does."""
    size = path.stat().st_size
    with path.open("rb", buffering=0) as stream:
        if walk(stream) is None:
            return None
    quick = open_source(str(path), size)
    with monkeypatch.context() as context:
        context.setattr(source, "walk", lambda stream: None)
        return quick, open_source(str(path), size)


def assert_same(quick: Source, slow: Source) -> None:
    assert (quick.place.offset, quick.place.length, quick.place.tag) == (  # type: ignore[union-attr]
        slow.place.offset,  # type: ignore[union-attr]
        slow.place.length,  # type: ignore[union-attr]
        slow.place.tag,  # type: ignore[union-attr]
    )
    assert (quick.syntax, quick.media_class, quick.content) == (slow.syntax, slow.media_class, slow.content)
    assert sorted(quick.header.tags()) == sorted(slow.header.tags())
    for tag in quick.header.tags():
        raw = slow.header._elements[tag]
        if raw.VR == "SQ" or not isinstance(raw.value, bytes):
            continue
        assert quick.header.raw(tag) == raw.value
        assert quick.header.numbers(tag, "US") == slow.header.numbers(tag, "US")


def test_packaged_files(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = 0
    for path in FILES:
        pair = both(path, monkeypatch)
        if pair is not None:
            assert_same(*pair)
            compared += 1
    assert compared > 40


def test_real_series(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compared = 0
    for folder in sorted((shared / "dicom").glob("*/dicom")):
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            pair = both(path, monkeypatch)
            if pair is not None:
                assert_same(*pair)
                compared += 1
    assert compared > 20


@pytest.mark.parametrize("implicit", [False, True])
def test_sequences_of_undefined_length(implicit: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Items of undefined length, one inside the other, as many scanners write them."""

    def nest(dataset: Dataset, k: int) -> None:
        del k
        inner = Dataset()
        inner.CodeValue = "1"
        outer = Dataset()
        outer.PurposeOfReferenceCodeSequence = Sequence([inner, inner])
        outer.ReferencedSOPInstanceUID = "1.2"
        for item in (inner, outer):
            item.is_undefined_length_sequence_item = True
        dataset.ReferencedImageSequence = Sequence([outer, outer])
        dataset["ReferencedImageSequence"].is_undefined_length = True
        outer["PurposeOfReferenceCodeSequence"].is_undefined_length = True
        if implicit:
            dataset.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian

    (path,) = write_series(tmp_path, phantom(1), change=nest)
    assert b"\xfe\xff\x0d\xe0" in path.read_bytes()
    pair = both(path, monkeypatch)
    assert (pair is None) is implicit  # without VRs the end of a sequence is for pydicom to find
    if pair is not None:
        assert_same(*pair)


def test_headers_longer_than_the_first_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fatten(dataset: Dataset, k: int) -> None:
        del k
        dataset.private_block(0x0029, "SOME VENDOR", create=True).add_new(0x10, "OB", b"\1\2" * 150_000)

    (path,) = write_series(tmp_path, phantom(1), change=fatten)
    pair = both(path, monkeypatch)
    assert pair is not None
    assert_same(*pair)


def test_a_header_without_end_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Millions of nested elements: bounded by the number of reads."""
    monkeypatch.setattr(source._Bounded, "left", 1000)
    content = (TEST_FILES / "MR_small.dcm").read_bytes()
    at = content.index(b"\x18\x00\x50\x00DS")
    sequence = b"\x08\x00\x40\x11UN\x00\x00\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\x00\x00\x00\x00" * 5000
    path = tmp_path / "x.dcm"
    path.write_bytes(content[:at] + sequence + content[at:])
    with pytest.raises(source.SeriesRefused, match="reads"):
        open_source(str(path), path.stat().st_size)
