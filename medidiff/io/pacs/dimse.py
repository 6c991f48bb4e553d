"""C-FIND to find, C-GET or C-MOVE to fetch, through pynetdicom."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydicom.dataset import Dataset
from pydicom.uid import UID
from pynetdicom import AE, build_role, evt

from medidiff.errors import InputError, OutputError
from medidiff.io.dicom.quiet import quiet
from medidiff.io.pacs.address import Address
from medidiff.io.pacs.disk import FetchReport, put
from medidiff.progress import OnProgress

# Study root query and retrieve, PS3.4 C.6.2
FIND, MOVE, GET = (UID(f"1.2.840.10008.5.1.4.1.2.2.{part}") for part in (1, 2, 3))
SUCCESS, PENDING = 0x0000, (0xFF00, 0xFF01)
OUT_OF_RESOURCES, CANNOT_UNDERSTAND = 0xA700, 0xC000

_STORAGE = "1.2.840.10008.5.1.4.1.1."
# Scans: asked for in every syntax, one presentation context each, so that the sender need not transcode.
_SCANS = tuple(_STORAGE + tail for tail in ("2", "2.1", "4", "4.1", "128", "130"))
_OTHERS = tuple(
    _STORAGE + tail
    for tail in (
        "2.2", "4.4", "128.1", "7", "7.1", "7.2", "7.3", "7.4", "1", "1.1", "1.2", "6.1", "3.1", "12.1", "12.2", "20",
        "88.11", "88.22", "88.33", "88.40", "11.1", "66", "66.4", "104.1", "481.3", "4.2",
    )
)  # fmt: skip
_PLAIN = ["1.2.840.10008.1.2.1", "1.2.840.10008.1.2"]
_PACKED = (
    "1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81",
    "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91", "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.1.99",
    "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.2",
)  # fmt: skip
_OF_SERIES = ("Modality", "SeriesInstanceUID", "SeriesDescription")
# Of the 128 contexts that an association may have, one is for the query.
_MOST_CONTEXTS = 127


def fetch_dimse(address: Address, folder: Path, on_progress: OnProgress) -> FetchReport:
    """See ``medidiff.io.pacs.fetch``."""
    with quiet():
        series = _find(address)
        counter = _Counter(folder)
        failures: list[tuple[str, str]] = []
        whole: list[str] = []
        method = address.method
        for number, (study, uid) in enumerate(series):
            on_progress(number, len(series), "fetching series")
            status = None
            counter.begin()
            if method in ("auto", "get"):
                status = _get(address, study, uid, counter)
                if status is None and method == "auto":
                    method = "move"  # the server does not know C-GET: few do
            if method == "move":
                status = _move(address, study, uid, counter)
            if counter.trouble is not None:
                raise counter.trouble
            if status == SUCCESS:
                whole.append(uid)
                continue
            why = "the server does not offer it" if status is None else f"status {status:04X}"
            came = counter.drop()
            text = f"the series did not come whole ({why}; {came} objects came, and were not taken)"
            failures.append((uid, f"{text}; try again, or with method=move"))
        on_progress(len(series), len(series), "fetching series")
    return FetchReport(counter.objects, tuple(failures), tuple(whole))


class _Counter:
    """Receives objects of C-GET and C-MOVE."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.objects = 0
        self.trouble: OutputError | None = None
        self._of_series: list[Path] = []

    def begin(self) -> None:
        """The next series begins."""
        self._of_series = []

    def drop(self) -> int:
        """Remove what came of the series; how much that was."""
        for path in self._of_series:
            path.unlink(missing_ok=True)
        self.objects -= len(self._of_series)
        return len(self._of_series)

    def store(self, event: Any) -> int:
        status, self.trouble = store_event(event, self._folder, self._of_series)
        self.objects += status == SUCCESS
        return status


def store_event(event: Any, folder: Path, stored: list[Path] | None = None) -> tuple[int, OutputError | None]:
    """Bring a C-STORE request to disk; the status says that it is there, and nothing less.

    Args:
        event: Of pynetdicom.
        folder: Where to.
        stored: Gets the file's path.
    """
    try:
        uid = str(event.request.AffectedSOPInstanceUID or "")
        content = event.encoded_dataset()
    except Exception:  # noqa: BLE001 - what a peer sends may break pynetdicom's decoding anywhere
        return CANNOT_UNDERSTAND, None
    if not uid or not content:
        return CANNOT_UNDERSTAND, None
    try:
        path = put(folder, uid, content)
    except OutputError as error:
        return OUT_OF_RESOURCES, error
    if stored is not None:
        stored.append(path)
    return SUCCESS, None


def _find(address: Address) -> list[tuple[str, str]]:
    """Study and series UIDs that fit the filters."""
    chosen: dict[str, str] = dict(address.filters)
    at_series: dict[str, str] = {name: chosen.pop(name) for name in _OF_SERIES if name in chosen}
    application: Any = AE(ae_title=address.calling)
    application.add_requested_context(FIND)
    association = application.associate(address.host, address.port, ae_title=address.aet)
    if not association.is_established:
        why = "refuses our title or its own" if association.is_rejected else "does not answer"
        raise InputError(f"{address}: the server {why}; check host, port, titles, and that it knows {address.calling}")
    try:
        found: list[tuple[str, str]] = []
        for study in _query(association, address, "STUDY", {"StudyInstanceUID": "", **chosen}):
            uid = str(study.get("StudyInstanceUID", ""))
            wanted = {"StudyInstanceUID": uid, "SeriesInstanceUID": "", **at_series}
            series = _query(association, address, "SERIES", wanted) if uid else []
            found += [(uid, str(item.get("SeriesInstanceUID", ""))) for item in series]
    finally:
        association.release()
    return sorted({pair for pair in found if pair[1]})


def _query(association: Any, address: Address, level: str, keys: dict[str, str]) -> list[Dataset]:
    query = Dataset()
    query.QueryRetrieveLevel = level
    for name, value in keys.items():
        setattr(query, name, value)
    answers = []
    for status, identifier in association.send_c_find(query, FIND):
        code = status.Status if status else None
        if code in PENDING and identifier is not None:
            answers.append(identifier)
        elif code != SUCCESS:
            said = "broke off" if code is None else f"answered with status {code:04X}"
            raise InputError(f"{address}: the search {said}; check that the server allows C-FIND to {address.calling}")
    return answers


def _get(address: Address, study: str, series: str, counter: _Counter) -> int | None:
    """C-GET of a series; its status, or None where the server does not offer C-GET."""
    application: Any = AE(ae_title=address.calling)
    application.add_requested_context(GET)
    offers = [(uid, _PLAIN) for uid in (*_SCANS, *_OTHERS)]
    offers += [(uid, [syntax]) for syntax in _PACKED for uid in _SCANS]
    for uid, syntaxes in offers[:_MOST_CONTEXTS]:
        application.add_requested_context(uid, syntaxes)
    roles = [build_role(uid, scp_role=True) for uid in (*_SCANS, *_OTHERS)]
    association = application.associate(
        address.host, address.port, ae_title=address.aet, ext_neg=roles, evt_handlers=[(evt.EVT_C_STORE, counter.store)]
    )
    if not association.is_established:
        return None
    accepted = {str(context.abstract_syntax) for context in association.accepted_contexts}
    try:
        if str(GET) not in accepted:
            return None
        answers = association.send_c_get(_wanted(study, series), GET)
        return _last_status(answers)
    finally:
        association.release()


def _move(address: Address, study: str, series: str, counter: _Counter) -> int | None:
    """C-MOVE of a series to ourselves. The server has to know our title, host and port."""
    receiver: Any = AE(ae_title=address.calling)
    accept_storage(receiver)
    try:
        server = receiver.start_server(
            ("", address.own_port), block=False, evt_handlers=[(evt.EVT_C_STORE, counter.store)]
        )
    except OSError as error:
        raise InputError(
            f"port {address.own_port} cannot be listened on ({error.strerror}); choose another: ?port="
        ) from error
    application: Any = AE(ae_title=address.calling)
    application.add_requested_context(MOVE)
    try:
        association = application.associate(address.host, address.port, ae_title=address.aet)
        if not association.is_established:
            return None
        try:
            return _last_status(association.send_c_move(_wanted(study, series), address.calling, MOVE))
        finally:
            association.release()
    finally:
        server.shutdown()


def accept_storage(application: Any) -> None:
    """Accept every storage class of images and reports in every syntax: what comes is judged later, by ingest."""
    for uid in (*_SCANS, *_OTHERS):
        application.add_supported_context(uid, [*_PLAIN, *_PACKED])


def _wanted(study: str, series: str) -> Dataset:
    wanted = Dataset()
    wanted.QueryRetrieveLevel = "SERIES"
    wanted.StudyInstanceUID = study
    wanted.SeriesInstanceUID = series
    return wanted


def _last_status(answers: Any) -> int | None:
    code: int | None = None
    failed = 0
    for status, _ in answers:
        if status:
            code = int(status.Status)
            failed = int(status.get("NumberOfFailedSuboperations", 0) or 0)
    return 0xB000 if code == SUCCESS and failed else code
