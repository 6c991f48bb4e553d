"""The command line: parse, call one use case, print what it returns. Nothing in the library imports it."""

from __future__ import annotations

from medidiff.cli.app import app, main

__all__ = ["app", "main"]
