"""Results go into the documentation by command, never by hand: between two markers, in place of the last ones."""

from __future__ import annotations

import re
from pathlib import Path

from medidiff.io.atomic import atomic_write_text


def include(page: Path, name: str, text: str) -> None:
    """Replace what lies between ``<!-- name:begin -->`` and ``<!-- name:end -->``.

    Raises:
        ValueError: the page has no such pair of markers.
    """
    old = page.read_text(encoding="utf-8")
    marked = re.compile(rf"(<!-- {re.escape(name)}:begin -->\n).*?(<!-- {re.escape(name)}:end -->)", re.DOTALL)
    new, count = marked.subn(lambda found: f"{found[1]}\n{text.strip()}\n\n{found[2]}", old)
    if count != 1:
        raise ValueError(f"{page} must hold the markers {name}:begin and {name}:end once, found them {count} times")
    atomic_write_text(page, new)
