"""Results replace the last ones in the documentation, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.docs import include


def test_only_what_lies_between_the_markers_is_replaced(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- a:begin -->\nold\n<!-- a:end -->\nbetween\n<!-- b:begin -->\n<!-- b:end -->\nafter\n")
    for text in ("| x4 | \\1 |", "new"):
        include(page, "a", text)
    include(page, "b", "more")
    a, b = "<!-- a:begin -->\n\nnew\n\n<!-- a:end -->", "<!-- b:begin -->\n\nmore\n\n<!-- b:end -->"
    assert page.read_text() == f"before\n{a}\nbetween\n{b}\nafter\n"


def test_missing_markers_are_an_error_and_the_page_stays(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- a:begin -->\n")
    with pytest.raises(ValueError, match="found them 0 times"):
        include(page, "a", "text")
    assert page.read_text() == "<!-- a:begin -->\n"


def test_the_documentation_has_its_markers(repository: Path) -> None:
    text = (repository / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    for name in ("superresolution", "network-cost"):
        assert text.count(f"<!-- {name}:begin -->") == text.count(f"<!-- {name}:end -->") == 1
