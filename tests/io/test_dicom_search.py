"""The search for one scan ends where there can be none, and waits for nothing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from medidiff.errors import InputError
from medidiff.ingest import ingest
from medidiff.io import probe, read_volume
from medidiff.io.dicom import Reason, SeriesRefused, find_series
from medidiff.io.dicom.header import read_header
from medidiff.io.dicom.load import SearchLimits
from medidiff.io.dicom.reasons import SetAside
from tests.io.dicom_series import phantom, write_series


@pytest.mark.parametrize("name", ["/", "/..", "//"])
def test_a_file_system_is_no_scan(name: str, tmp_path: Path) -> None:
    for use in (probe, read_volume, lambda path: ingest([path], tmp_path / "dataset")):
        with pytest.raises(InputError, match="root of the file system"):
            use(name)
    assert list(tmp_path.iterdir()) == []


def test_the_search_gives_up_among_strangers(tmp_path: Path) -> None:
    write_series(tmp_path / "z", phantom(4))
    for number in range(30):
        (tmp_path / f"{number}.txt").write_text("a letter")
    assert len(find_series(tmp_path).series) == 1
    assert len(find_series(tmp_path, limits=SearchLimits(30, 4)).series) == 1
    with pytest.raises(SeriesRefused, match="gave up after 11 files, 0 of them DICOM") as refused:
        find_series(tmp_path, limits=SearchLimits(strangers=10))
    assert refused.value.reason is Reason.NOTHING_FOUND
    with pytest.raises(SeriesRefused, match="ingest the whole"):
        find_series(tmp_path, limits=SearchLimits(objects=3))


@pytest.mark.skipif(not os.path.exists("/proc/kmsg"), reason="this system has no file that waits")  # noqa: PTH110
def test_a_file_that_waits_for_its_content_is_not_waited_for() -> None:
    found = read_header("/proc/kmsg", 1 << 20)
    assert isinstance(found, SetAside)
    assert found.reason in (Reason.EMPTY_FILE, Reason.UNREADABLE)
