"""medidiff: better scans, and datasets without identifiers.

The public names are imported on first use, so that ``import medidiff`` costs neither torch nor MONAI.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_PUBLIC = {
    "Geometry": "medidiff.geometry",
    "Modality": "medidiff.volume",
    "Volume": "medidiff.volume",
    "read_volume": "medidiff.io",
    "write_volume": "medidiff.io",
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module 'medidiff' has no attribute {name!r}")
