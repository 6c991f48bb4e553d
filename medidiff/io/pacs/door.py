"""One way to all servers: an address in, files in a folder out."""

from __future__ import annotations

from pathlib import Path

from medidiff.errors import ConfigError
from medidiff.io.pacs.address import Address, parse_address
from medidiff.io.pacs.disk import FetchReport
from medidiff.progress import OnProgress, silent


def fetch(address: str | Address, folder: Path, *, on_progress: OnProgress | None = None) -> FetchReport:
    """Bring every object that an address names into a folder, a file each.

    Args:
        address: See ``parse_address``.
        folder: Private: what comes is not de-identified.
        on_progress: Called with (series done, series in all, what).
    Raises:
        ConfigError: the address is none, or the libraries are missing.
        InputError: the server cannot be reached, or refuses.
        OutputError: the folder cannot be written.
    """
    where = parse_address(address) if isinstance(address, str) else address
    tell = on_progress or silent
    try:
        if where.scheme == "dimse":
            from medidiff.io.pacs.dimse import fetch_dimse

            return fetch_dimse(where, folder, tell)
        from medidiff.io.pacs.dicomweb import fetch_dicomweb

        return fetch_dicomweb(where, folder, tell)
    except ModuleNotFoundError as error:
        raise ConfigError(missing(error)) from error


def missing(error: ModuleNotFoundError) -> str:
    """What to do about a library that is not there."""
    return f"talking to a DICOM server needs {error.name}, which is not installed: pip install 'medidiff[pacs]'"
