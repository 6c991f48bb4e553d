"""One self-contained page for people: tables, verdicts and pictures; nothing is loaded from outside, nothing runs.

A page is plain data (``Page``, its sections and blocks) and ``render`` turns it into text, so that whoever builds a
report never writes markup. Every string is escaped. The page forbids itself scripts and outside resources.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from html import escape
from pathlib import Path

from medidiff.errors import InputError
from medidiff.io.atomic import atomic_write_text

Cell = str | int | float | bool | None

PNG_MAGIC = b"\x89PNG\r\n\x1a\n"


class Status(StrEnum):
    """How a check ended. Words, not colours alone: pages are printed in black and white."""

    PASSED = "passed"
    WARNING = "warning"
    FAILED = "failed"
    INFO = "info"


@dataclass(frozen=True, slots=True)
class Paragraph:
    text: str


@dataclass(frozen=True, slots=True)
class Facts:
    """Names and their values, in two columns."""

    items: Mapping[str, Cell]


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under a heading; numbers are set to the right.

    Raises:
        InputError: a row has not as many cells as there are columns.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    caption: str = ""

    def __post_init__(self) -> None:
        for number, row in enumerate(self.rows, 1):
            if len(row) != len(self.columns):
                raise InputError(f"row {number} has {len(row)} cells, the table has {len(self.columns)} columns")


@dataclass(frozen=True, slots=True)
class Picture:
    """A PNG with a caption.

    Raises:
        InputError: the bytes are no PNG.
    """

    png: bytes
    caption: str
    alt: str = ""

    def __post_init__(self) -> None:
        if not self.png.startswith(PNG_MAGIC):
            raise InputError("a report picture must be a PNG")


@dataclass(frozen=True, slots=True)
class Verdict:
    """One check: how it ended, and why in words."""

    status: Status
    title: str
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Code:
    """Text to be shown as it is: a command line, a JSON record."""

    text: str


Block = Paragraph | Facts | Table | Picture | Verdict | Code


@dataclass(frozen=True, slots=True)
class Section:
    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True, slots=True)
class Page:
    """A report.

    Args:
        title: Heading and window title.
        sections: In reading order.
        subtitle: One line below the heading.
        footer: Lines at the end: version, model hash, what the result must not be used for.
    """

    title: str
    sections: Sequence[Section]
    subtitle: str = ""
    footer: Sequence[str] = field(default_factory=tuple)


def write_html(page: Page, out: Path) -> None:
    """Write the page atomically."""
    atomic_write_text(out, render(page))


def render(page: Page) -> str:
    """The page as HTML text; the same page gives the same text."""
    body = [f"<header><h1>{escape(page.title)}</h1>"]
    if page.subtitle:
        body.append(f'<p class="subtitle">{escape(page.subtitle)}</p>')
    body.append("</header>\n<main>")
    for section in page.sections:
        body.append(f"<section>\n<h2>{escape(section.title)}</h2>")
        body.extend(_block(block) for block in section.blocks)
        body.append("</section>")
    body.append("</main>")
    if page.footer:
        body.append("<footer>" + "".join(f"<p>{escape(line)}</p>" for line in page.footer) + "</footer>")
    return _HEAD.format(title=escape(page.title), style=_STYLE) + "\n".join(body) + "\n</body>\n</html>\n"


def format_cell(value: Cell) -> str:
    """A value as text: four significant digits, a dash for nothing, words for truth."""
    if value is None:
        return "\N{EN DASH}"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        if math.isnan(value):
            return "\N{EN DASH}"
        if math.isinf(value):
            return "\N{INFINITY}" if value > 0 else "\N{MINUS SIGN}\N{INFINITY}"
        return f"{value:.4g}"
    return str(value)


def _block(block: Block) -> str:
    match block:
        case Paragraph(text):
            return f"<p>{escape(text)}</p>"
        case Facts(items):
            rows = "".join(f"<dt>{escape(k)}</dt><dd>{escape(format_cell(v))}</dd>" for k, v in items.items())
            return f"<dl>{rows}</dl>"
        case Table():
            return _table(block)
        case Picture(png, caption, alt):
            data = base64.b64encode(png).decode("ascii")
            image = f'<img alt="{escape(alt or caption)}" src="data:image/png;base64,{data}">'
            return f"<figure>{image}<figcaption>{escape(caption)}</figcaption></figure>"
        case Verdict(status, title, reason):
            mark = f'<span class="mark">{status.value}</span>'
            return (
                f'<div class="verdict {status.value}">{mark}<b>{escape(title)}</b><span>{escape(reason)}</span></div>'
            )
        case Code(text):
            return f"<pre>{escape(text)}</pre>"


def _table(table: Table) -> str:
    def cell(value: Cell) -> str:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return f"<td{' class=number' if number else ''}>{escape(format_cell(value))}</td>"

    caption = f"<caption>{escape(table.caption)}</caption>" if table.caption else ""
    head = "".join(f"<th>{escape(c)}</th>" for c in table.columns)
    rows = "".join("<tr>" + "".join(map(cell, row)) + "</tr>" for row in table.rows)
    return f'<div class="wide"><table>{caption}<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'


# The policy binds even a page whose text came from a hostile header: no script, no frame, no request.
_HEAD = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="referrer" content="no-referrer">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
"""

_STYLE = """
:root { --ink: #1d2025; --faint: #5f6670; --line: #d9dce1; --panel: #f6f7f9; color-scheme: light; }
* { box-sizing: border-box; }
body { font: 15px/1.5 system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; color: var(--ink);
  max-width: 68rem; margin: 0 auto; padding: 2.5rem 1.5rem 4rem; background: #fff; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0; } .subtitle { color: var(--faint); margin: .3rem 0 0; }
header { border-bottom: 2px solid var(--ink); padding-bottom: 1rem; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .7rem; } p { margin: .6rem 0; max-width: 46rem; }
dl { display: grid; grid-template-columns: minmax(9rem, max-content) 1fr; gap: .25rem 1.5rem; margin: .6rem 0; }
dt { color: var(--faint); } dd { margin: 0; overflow-wrap: anywhere; }
.wide { overflow-x: auto; } table { border-collapse: collapse; margin: .6rem 0; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--faint); padding-bottom: .4rem; }
th, td { text-align: left; padding: .35rem .9rem .35rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { font-weight: 600; border-bottom: 1.5px solid var(--ink); } .number { text-align: right; }
figure { margin: 1rem 0; } img { max-width: 100%; height: auto; display: block; border-radius: 4px; }
figcaption { color: var(--faint); font-size: .88rem; margin-top: .4rem; max-width: 46rem; }
.verdict { display: grid; grid-template-columns: 6.2rem minmax(10rem, max-content) 1fr; gap: .2rem 1rem;
  padding: .55rem .8rem; margin: .4rem 0; background: var(--panel); border-left: 4px solid var(--faint); }
.mark { font-weight: 700; text-transform: uppercase; font-size: .8rem; letter-spacing: .04em; padding-top: .15em; }
.passed { border-color: #1a7f4b; } .passed .mark { color: #166b3f; }
.warning { border-color: #b7791f; } .warning .mark { color: #8a5a12; }
.failed { border-color: #c0392b; } .failed .mark { color: #a93226; }
pre { background: var(--panel); padding: .8rem; overflow-x: auto; font-size: .85rem; white-space: pre-wrap; }
footer { margin-top: 3rem; border-top: 1px solid var(--line); color: var(--faint); font-size: .85rem; }
@media (max-width: 40rem) { dl, .verdict { grid-template-columns: 1fr; } }
@media print { body { padding: 0; max-width: none; font-size: 10.5pt; }
  section, figure, .verdict, tr { break-inside: avoid; } h2 { break-after: avoid; } pre { white-space: pre-wrap; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; } }
"""
