"""Keep pydicom from quoting header values: its warnings and log lines may hold a patient's name."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_reading: ContextVar[bool] = ContextVar("medidiff_reading_dicom", default=False)


class _DropWhileReading(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        del record
        return not _reading.get()


# Filters of a logger are not asked for records of its children: each one that pydicom has gets it.
_FILTER = _DropWhileReading()
for _name in ("pydicom", "pydicom.config", "pylibjpeg", "openjpeg", "libjpeg", "rle"):
    logging.getLogger(_name).addFilter(_FILTER)


@contextmanager
def quiet() -> Iterator[None]:
    """No warning and no log line of the DICOM libraries inside; what they would say is judged by us instead."""
    token = _reading.set(True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        _reading.reset(token)
