"""One door for volumes: what a file is, is decided by its content, never by its name.

Importing this package imports neither nibabel nor pydicom.
"""

from __future__ import annotations

from medidiff.io.info import IntensityScaling, VolumeInfo
from medidiff.io.volumes import check_restorable, probe, read_volume, write_volume

__all__ = ["IntensityScaling", "VolumeInfo", "check_restorable", "probe", "read_volume", "write_volume"]
