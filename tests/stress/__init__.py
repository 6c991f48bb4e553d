"""Faults, planted into the flows by the hundred: ``python -m tests.stress --kills 200``, or ``make stress``."""
