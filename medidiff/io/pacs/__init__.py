"""Servers as sources: DICOMweb and DIMSE in, and a small receiver.

Nothing here is imported, and no connection is made, unless an address was given. Needs ``pip install medidiff[pacs]``.
"""

from __future__ import annotations

from medidiff.io.pacs.address import Address, parse_address
from medidiff.io.pacs.disk import FetchReport
from medidiff.io.pacs.door import fetch
from medidiff.io.pacs.receiver import ListenOptions, serve

__all__ = ["Address", "FetchReport", "ListenOptions", "fetch", "parse_address", "serve"]
