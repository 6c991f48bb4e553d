"""How work that takes long tells how far it is."""

from __future__ import annotations

from collections.abc import Callable

# Steps done, steps in all, and what is being done.
OnProgress = Callable[[int, int, str], None]


def silent(_done: int, _total: int, _what: str) -> None:
    """For whoever does not want to be told."""
