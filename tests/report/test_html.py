"""The report page: escaped, self-contained, well formed, the same every time."""

from __future__ import annotations

import base64
import math
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medidiff.errors import InputError
from medidiff.report.html import (
    PNG_MAGIC,
    Code,
    Facts,
    Page,
    Paragraph,
    Picture,
    Section,
    Status,
    Table,
    Verdict,
    format_cell,
    render,
    write_html,
)

VOID = {"meta", "img", "br", "hr"}
PNG = PNG_MAGIC + b"the rest"


class Reader(HTMLParser):
    """Collects tags and text, and fails on a tag that is not closed in its place."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)


def page(words: str) -> Page:
    blocks = [
        Paragraph(words),
        Facts({words: words}),
        Table([words, "n"], [[words, 1.23456], [None, True]], caption=words),
        Picture(PNG, caption=words),
        Verdict(Status.FAILED, words, words),
        Code(words),
    ]
    return Page(words, [Section(words, blocks)], subtitle=words, footer=[words])


@given(st.text(alphabet=st.characters(exclude_categories=["Cs", "Cc"]), min_size=1))
def test_any_text_is_shown_and_none_becomes_markup(words: str) -> None:
    plain, given_words = Reader(render(page("words"))), Reader(render(page(words)))
    assert [tag for tag, _ in given_words.tags] == [tag for tag, _ in plain.tags]
    assert "".join(given_words.words).count(words) >= 12


def test_a_hostile_header_cannot_run_or_fetch() -> None:
    text = render(page('"><script>fetch("http://x")</script><img src=http://x onerror=alert(1)>'))
    reader = Reader(text)
    tags = [tag for tag, _ in reader.tags]
    assert not {"script", "link", "iframe", "object", "form", "a"} & set(tags)
    assert all(a["src"].startswith("data:image/png;base64,") for t, a in reader.tags if t == "img")
    assert not [name for _, attributes in reader.tags for name in attributes if name.startswith("on")]
    policy = next(a["content"] for _, a in reader.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy
    assert "url(" not in text
    assert "@import" not in text


def test_the_picture_inside_is_the_picture_given() -> None:
    image = next(a for t, a in Reader(render(page("x"))).tags if t == "img")
    assert base64.b64decode(image["src"].partition(",")[2]) == PNG


def test_a_verdict_is_a_word_and_not_a_colour_alone() -> None:
    words = Reader(render(Page("t", [Section("s", [Verdict(s, "check", "why") for s in Status])]))).words
    assert [w for w in words if w in set(Status)] == [s.value for s in Status]


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "\N{EN DASH}"), (True, "yes"), (False, "no"), (27.4567, "27.46"), (1e-7, "1e-07"), (12345678, "12345678"),
     (math.nan, "\N{EN DASH}"), (math.inf, "\N{INFINITY}"), (-math.inf, "\N{MINUS SIGN}\N{INFINITY}"),
     ("1 mm", "1 mm")],
)  # fmt: skip
def test_cells_read_well(value: object, text: str) -> None:
    assert format_cell(value) == text  # type: ignore[arg-type]


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(InputError, match="row 2 has 1 cells"):
        Table(["a", "b"], [[1, 2], [3]])
    with pytest.raises(InputError, match="PNG"):
        Picture(b"GIF89a", "no")


def test_the_page_is_written_and_the_same_every_time(tmp_path: Path) -> None:
    write_html(page("räksmörgås"), tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == render(page("räksmörgås"))
