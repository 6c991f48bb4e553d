"""Prefect flows over medidiff: thin, one library call a task. Nothing under ``medidiff`` imports this package."""
