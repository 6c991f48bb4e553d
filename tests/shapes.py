"""Shapes written in signatures are checked while tests run: `Float[Tensor, "b c i j k"]` is no mere comment."""

from __future__ import annotations

from beartype import BeartypeConf, beartype

# An int serves where a float is asked for, as type checkers have it.
check = beartype(conf=BeartypeConf(is_pep484_tower=True))
