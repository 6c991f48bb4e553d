"""QIDO-RS to find, WADO-RS to fetch, through dicomweb-client."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

from medidiff.errors import InputError
from medidiff.io.dicom.quiet import quiet
from medidiff.io.pacs.address import Address
from medidiff.io.pacs.disk import FetchReport, put
from medidiff.progress import OnProgress

_SERIES, _STUDY = "0020000E", "0020000D"
# A bearer token comes from the environment: an address ends in logs and histories.
TOKEN_VARIABLE = "MEDIDIFF_DICOMWEB_TOKEN"  # noqa: S105 - the name of a variable, not a token
# Any transfer syntax as it is stored: nothing is transcoded on the way.
_AS_STORED = (("application/dicom", "*"),)


def fetch_dicomweb(address: Address, folder: Path, on_progress: OnProgress) -> FetchReport:
    """See ``medidiff.io.pacs.fetch``."""
    from dicomweb_client.api import DICOMwebClient

    token = os.environ.get(TOKEN_VARIABLE)
    headers = {"Authorization": f"Bearer {token}"} if token else None
    client = DICOMwebClient(address.url, headers=headers, timeout=(10, 300), permissive_uid=True)
    series = _find(client, address)
    objects = 0
    failures: list[tuple[str, str]] = []
    whole: list[str] = []
    for number, (study, uid) in enumerate(series):
        on_progress(number, len(series), "fetching series")
        stored: list[Path] = []
        try:
            for dataset in client.iter_series(study, uid, media_types=_AS_STORED):
                stored.append(put(folder, str(dataset.SOPInstanceUID), _encoded(dataset)))  # noqa: PERF401 - it may end halfway
        except InputError:
            raise
        except (OSError, ValueError, AttributeError, KeyError, TypeError) as error:
            for path in stored:
                path.unlink(missing_ok=True)
            why = f"{type(error).__name__}; {len(stored)} objects came, and were not taken"
            failures.append((uid, f"the series did not come whole ({why}); try again"))
        else:
            objects += len(stored)
            whole.append(uid)
    on_progress(len(series), len(series), "fetching series")
    return FetchReport(objects, tuple(failures), tuple(whole))


def _find(client: Any, address: Address) -> list[tuple[str, str]]:
    filters = dict(address.filters)
    try:
        found = client.search_for_series(search_filters=filters or None, get_remaining=True)
    except (OSError, ValueError, KeyError) as error:  # requests' errors are OSErrors
        status = getattr(getattr(error, "response", None), "status_code", None)
        why = f"it answers {status}" if status else type(error).__name__
        raise InputError(
            f"{address}: the DICOMweb service cannot be asked ({why}); check host, port and path"
        ) from error
    pairs = {(_value(item, _STUDY), _value(item, _SERIES)) for item in found}
    return sorted(pair for pair in pairs if all(pair))


def _value(item: dict[str, Any], tag: str) -> str:
    values = item.get(tag, {}).get("Value", [])
    return str(values[0]) if values else ""


def _encoded(dataset: Any) -> bytes:
    buffer = io.BytesIO()
    with quiet():
        dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()
