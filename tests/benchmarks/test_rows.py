"""Rows are kept across runs, and only as long as they mean the same."""

from __future__ import annotations

from pathlib import Path

from benchmarks.rows import Rows

COLUMNS, KEY = ("case", "method", "psnr"), ("case", "method")


def test_rows_are_found_again_and_replaced_by_key(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    rows = Rows(path, COLUMNS, KEY, resume=False)
    rows.add({"case": 4.0, "method": 'a, quoted "name"', "psnr": 27.123456789})
    rows.add({"case": 4.0, "method": "b", "psnr": None})
    again = Rows(path, COLUMNS, KEY, resume=True)
    assert again.all == rows.all
    assert {"case": 4.0, "method": "b"} in again
    assert {"case": 2.0, "method": "b"} not in again
    again.add({"case": 4.0, "method": "b", "psnr": 3.0})
    assert [r["psnr"] for r in Rows(path, COLUMNS, KEY, resume=True).all] == ["27.1235", "3"]


def test_without_resume_or_with_other_columns_nothing_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    Rows(path, COLUMNS, KEY, resume=False).add({"case": 1, "method": "a", "psnr": 1.0})
    assert Rows(path, COLUMNS, KEY, resume=False).all == []
    assert Rows(path, (*COLUMNS, "ssim"), KEY, resume=True).all == []
