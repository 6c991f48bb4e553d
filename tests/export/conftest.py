"""The fixtures of synthetic sets."""

from __future__ import annotations

from tests.synthetic.fixtures import pristine, releasable

__all__ = ["pristine", "releasable"]
