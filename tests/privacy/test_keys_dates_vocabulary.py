"""Keys are private and stable; dates move by one amount; only imaging words stay."""

from __future__ import annotations

import stat
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.uid import UID

from medidiff.errors import ConfigError, OutputError
from medidiff.privacy.attributes import _spells_words
from medidiff.privacy.dates import shift_datetime, shift_iso, shift_pair
from medidiff.privacy.keys import PrivacyKey
from medidiff.privacy.values import looks_like_text, numbers
from medidiff.privacy.vocabulary import clean_kernel, clean_term, clean_words

# DICOM times have no zone
# ruff: noqa: DTZ001, DTZ007
KEY = PrivacyKey(bytes(range(32)))


def test_key_file_is_private_stable_and_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "key"
    key = PrivacyKey.load_or_create(path, outside=tmp_path / "dataset")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert PrivacyKey.load(path) == key
    assert key.secret.hex() not in repr(key)
    with pytest.raises(OutputError):
        PrivacyKey.create(path)
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        PrivacyKey.load(path)
    with pytest.raises(ConfigError, match="outside"):
        PrivacyKey.load_or_create(tmp_path / "dataset" / "key", outside=tmp_path / "dataset")
    (tmp_path / "no").write_text("hello")
    (tmp_path / "no").chmod(0o600)
    with pytest.raises(ConfigError, match="not a medidiff privacy key"):
        PrivacyKey.load(tmp_path / "no")


@given(st.text(min_size=1), st.text(min_size=1))
def test_pseudonyms_are_stable_apart_and_legal(one: str, other: str) -> None:
    assert KEY.pseudonym(one) == KEY.pseudonym(one)
    assert (KEY.pseudonym(one) == KEY.pseudonym(other)) == (one == other)
    uid = KEY.uid(one)
    assert UID(uid).is_valid
    assert uid != PrivacyKey(b"y" * 32).uid(one)
    assert timedelta(days=-3660) < KEY.shift(one) < timedelta(days=-365)


@given(
    st.datetimes(datetime(1930, 1, 1), datetime(2030, 1, 1)), st.datetimes(datetime(1930, 1, 1), datetime(2030, 1, 1))
)
def test_intervals_between_dates_survive(one: datetime, other: datetime) -> None:
    delta = KEY.shift("id 1")

    def moved(moment: datetime) -> datetime:
        date, clock = shift_pair(moment.strftime("%Y%m%d"), moment.strftime("%H%M%S"), delta)
        assert date is not None
        assert clock is not None
        whole = shift_datetime(moment.strftime("%Y%m%d%H%M%S.25+0200"), delta)
        assert whole == date + clock + ".25"
        return datetime.strptime(date + clock, "%Y%m%d%H%M%S")

    assert moved(one) - moved(other) == one.replace(microsecond=0) - other.replace(microsecond=0)


def test_dates_keep_their_precision_and_nonsense_is_dropped() -> None:
    delta = -timedelta(days=400, hours=2)
    assert shift_pair(None, "0931", delta) == (None, "0731")
    assert shift_pair("2021.09.17", None, delta) == ("20200813", None)
    assert shift_pair("Quill", "Quill", delta) == (None, None)
    assert shift_datetime("2021", delta) == "2019"
    assert shift_datetime("Rosamund", delta) is None
    assert shift_iso("2021-09-17T09:31:41.500000", delta) == "2020-08-13T07:31:41.500000"
    assert shift_iso("09:31:41.5", delta) == "07:31:41.5"
    assert shift_iso("Rosamund", delta) is None
    assert shift_pair("00010101", None, -timedelta(days=900)) == (None, None)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("T1 Quillfeather repeat", "T1 repeat"),
        ("HEAD_QUILLFEATHER", "HEAD"),
        ("MR brain, pt QX-4471903", "MR brain"),
        ("3D Ax T1 MP-RAGE_R22", "3D Ax T1 RAGE"),
        ("20210917 follow-up 14.03.57", "follow up"),
        ("*tfl3d1_16ns", "tfl3d1 16ns"),
        ("Muñoz T2 FLAIR", "T2 FLAIR"),
    ],
)
def test_words_that_stay(text: str, kept: str) -> None:
    assert clean_words(text) == kept


def test_terms_kernels_and_vetoes() -> None:
    assert clean_term("M_FFE") == "M_FFE"
    assert clean_term("QUILLFEATHER") is None
    assert clean_term("HEAD", frozenset({"head"})) is None
    assert clean_kernel("B30s") == "B30s"
    assert clean_kernel("Rosamund") is None


def test_numbers_that_are_identifiers_are_refused() -> None:
    assert numbers("0.48828125", "DS") == ["0.48828125"]
    assert numbers(["-40.0007", "124.7"], "DS") == ["-40.0007", "124.7"]
    for text in ("447700900417", "19570312", "Rosamund", "nan", "1e999"):
        assert numbers(text, "DS") is None, text
    assert numbers([int.from_bytes(b"Rosa", "little"), int.from_bytes(b"mund", "little")], "UL") is None
    assert numbers([int.from_bytes(bytes(pair), "little") for pair in (b"Ro", b"sa", b"mu", b"nd")], "US") is None
    assert looks_like_text(b"\0\1Quillfeather\0")
    assert not looks_like_text(bytes(range(256)))


def test_words_in_part_of_a_table_of_numbers_are_found() -> None:
    table = list(range(16384, 32000))
    assert not _spells_words(table)
    assert not _spells_words(table[::-1])
    text = b"Quillfeathers of"
    table[100:108] = [int.from_bytes(text[at : at + 2], "little") for at in range(0, 16, 2)]
    assert _spells_words(table)
