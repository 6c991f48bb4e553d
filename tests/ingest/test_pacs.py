"""Servers: a real Orthanc as source, our own receiver, and addresses."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset

from medidiff.data.manifest import read_manifest
from medidiff.errors import ConfigError, InputError
from medidiff.ingest import ingest
from medidiff.ingestion.lines import NOT_RETRIEVED
from medidiff.io import read_volume
from medidiff.io.pacs import ListenOptions, parse_address, serve
from tests.ingest import orthanc
from tests.ingest.heaps import PLAIN, series
from tests.io.dicom_series import phantom, write_series

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def exam(tmp_path: Path) -> list[Path]:
    """Two series of one patient."""
    first = write_series(tmp_path / "exam", phantom(12, 40, 36), prefix="a")
    return first + write_series(tmp_path / "exam", phantom(10, 40, 36, seed=1), prefix="b")


def ingest_command(address: str, folder: Path, *more: str) -> list[str]:
    return [
        sys.executable,
        "-m",
        "medidiff",
        "ingest",
        address,
        "-o",
        str(folder / "dataset"),
        "--body-part",
        "other",
        "--json",
        *more,
    ]


def check(done: subprocess.CompletedProcess[str], folder: Path, exam: list[Path], volumes: int = 2) -> None:
    assert done.returncode == 0, done.stderr + (folder / "orthanc.log").read_text()[-2000:]
    facts = json.loads(done.stdout)
    assert facts["volumes"] == volumes
    records = list(read_manifest(folder / "dataset"))
    assert len({record.subject for record in records}) == 1
    written = sorted(float(read_volume(folder / "dataset" / record.path).data.sum()) for record in records)
    sums = {}
    for path in exam:
        ds = pydicom.dcmread(path)
        sums[ds.SeriesInstanceUID] = sums.get(ds.SeriesInstanceUID, 0.0) + float(
            ds.pixel_array.astype(np.float64).sum()
        )
    for total in written:
        assert min(abs(total - value) for value in sums.values()) < 1.0
    assert not (folder / ".dataset.medidiff-work").exists()


def test_a_pacs_is_asked_by_c_get(exam: list[Path], tmp_path: Path) -> None:
    orthanc.require()
    done = orthanc.run_beside(tmp_path, exam, ingest_command("dimse://ORTHANC@127.0.0.1:14242", tmp_path))
    check(done, tmp_path, exam)


def test_a_pacs_that_refuses_c_get_is_asked_by_c_move(exam: list[Path], tmp_path: Path) -> None:
    orthanc.require()
    address = "dimse://ORTHANC@127.0.0.1:14242?method=move"
    check(orthanc.run_beside(tmp_path, exam, ingest_command(address, tmp_path), get=False), tmp_path, exam)


def test_a_pacs_gives_only_what_is_asked_for(exam: list[Path], tmp_path: Path) -> None:
    orthanc.require()
    uid = pydicom.dcmread(exam[0]).SeriesInstanceUID
    address = f"dimse://ORTHANC@127.0.0.1:14242?SeriesInstanceUID={uid}"
    check(orthanc.run_beside(tmp_path, exam, ingest_command(address, tmp_path)), tmp_path, exam, volumes=1)


def test_a_dicomweb_service_is_a_source(exam: list[Path], tmp_path: Path) -> None:
    orthanc.require(web=True)
    address = "dicomweb://127.0.0.1:18042/dicom-web"
    check(orthanc.run_beside(tmp_path, exam, ingest_command(address, tmp_path), web=True), tmp_path, exam)


def test_a_server_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    pytest.importorskip("pynetdicom")
    for address in ("dimse://NOBODY@127.0.0.1:9", "dicomweb://127.0.0.1:9/dicom-web"):
        done = subprocess.run(
            ingest_command(address, tmp_path), capture_output=True, text=True, check=False, timeout=120, cwd=REPOSITORY
        )
        assert done.returncode == 3
        assert len(done.stderr.splitlines()) == 1
        assert address in done.stderr


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dimse://127.0.0.1:104", "needs a title"),
        ("dimse://AET@host", "a port"),
        ("dimse://ATITLETHATISTOOLONG@host:104", "16 characters"),
        ("dicomweb:///path", "not an address"),
        ("dicomweb://user:secret@host/x", "netrc"),
        ("dimse://AET@host:104?Patient=1", "cannot be asked"),
        ("dimse://AET@host:99999", "not an address"),
        ("dimse://AET@host:104?method=push", "method"),
        ("dimse://AET@host:104?port=0", "port"),
    ],
)
def test_a_wrong_address_says_why(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        parse_address(text)
    assert "secret" not in str(caught.value)


def test_filters_do_not_show(tmp_path: Path) -> None:
    address = parse_address("dimse://PACS@host:104?PatientName=Quillfeather*")
    assert address.filters == (("PatientName", "Quillfeather*"),)
    assert "Quill" not in str(address)


# --- receiving ------------------------------------------------------------------------------------------------------


def send(port: int, files: list[Path], title: str = "SENDER") -> list[int | None]:
    """C-STORE the files over one association; the status of each, None where no answer came."""
    from pynetdicom import AE
    from pynetdicom.sop_class import MRImageStorage

    application = AE(ae_title=title)
    application.add_requested_context(MRImageStorage)
    association = application.associate("127.0.0.1", port)
    if not association.is_established:
        return []
    statuses: list[int | None] = []
    for path in files:
        if not association.is_established:
            statuses.append(None)
            continue
        status = association.send_c_store(pydicom.dcmread(path))
        statuses.append(int(status.Status) if status else None)
    if association.is_established:
        association.release()
    return statuses


def listening(options: ListenOptions, stop: threading.Event) -> tuple[threading.Thread, int]:
    ready = threading.Event()
    port: list[int] = []

    def on_ready(number: int) -> None:
        port.append(number)
        ready.set()

    thread = threading.Thread(target=lambda: serve(options, on_ready=on_ready, stop=stop), daemon=True)
    thread.start()
    assert ready.wait(30)
    return thread, port[0]


def test_what_is_received_is_what_was_sent(exam: list[Path], tmp_path: Path) -> None:
    pytest.importorskip("pynetdicom")
    stop = threading.Event()
    thread, port = listening(ListenOptions(tmp_path / "in", port=0), stop)
    assert send(port, [*exam, exam[0]]) == [0] * (len(exam) + 1)
    stop.set()
    thread.join(30)
    stored = [pydicom.dcmread(path) for path in (tmp_path / "in").rglob("*.dcm")]
    expected = {ds.SOPInstanceUID: ds.PixelData for ds in map(pydicom.dcmread, exam)}
    assert {ds.SOPInstanceUID: ds.PixelData for ds in stored} == expected
    assert len(stored) == len(exam), "an object that is sent twice is stored once"
    assert (tmp_path / "in").stat().st_mode & 0o077 == 0


def test_a_disk_that_does_not_take_it_is_not_acknowledged(exam: list[Path], tmp_path: Path) -> None:
    pytest.importorskip("pynetdicom")
    stop = threading.Event()
    folder = tmp_path / "in"
    thread, port = listening(ListenOptions(folder, port=0), stop)
    # A file where the shelves should be: no folder can be made, whoever runs the test.
    folder.rmdir()
    folder.write_bytes(b"")
    assert send(port, exam[:1]) == [0xA700]
    stop.set()
    thread.join(30)


def test_a_stranger_is_turned_away(exam: list[Path], tmp_path: Path) -> None:
    pytest.importorskip("pynetdicom")
    stop = threading.Event()
    thread, port = listening(ListenOptions(tmp_path / "in", port=0, allowed=("FRIEND",)), stop)
    assert send(port, exam[:1], "STRANGER") == []
    assert send(port, exam[:1], "FRIEND") == [0]
    stop.set()
    thread.join(30)


def test_killed_with_minus_nine_everything_acknowledged_is_there(exam: list[Path], tmp_path: Path) -> None:
    pytest.importorskip("pynetdicom")
    script = (
        "import sys\nfrom pathlib import Path\nfrom medidiff.io.pacs import ListenOptions, serve\n"
        "serve(ListenOptions(Path(sys.argv[1]), port=0), on_ready=lambda port: print(port, flush=True))\n"
    )
    folder = tmp_path / "in"
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    server = subprocess.Popen(
        [sys.executable, "-c", script, str(folder)], stdout=subprocess.PIPE, text=True, env=environment
    )
    assert server.stdout is not None
    port = int(server.stdout.readline())
    acknowledged: list[str] = []

    class Killer(list[Path]):
        """Hands out files, and kills the receiver after the seventh."""

        def __iter__(self):  # type: ignore[no-untyped-def]
            for number, path in enumerate(exam):
                if number == 7:
                    os.kill(server.pid, signal.SIGKILL)
                yield path

    statuses = send(port, Killer(exam))
    server.wait(30)
    server.stdout.close()
    for path, status in zip(exam, statuses, strict=False):
        if status == 0:
            acknowledged.append(str(pydicom.dcmread(path).SOPInstanceUID))
    assert len(acknowledged) >= 7
    stored = {str(pydicom.dcmread(path).SOPInstanceUID) for path in folder.rglob("*.dcm")}
    assert set(acknowledged) <= stored


def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    pytest.importorskip("pynetdicom")
    stop = threading.Event()
    thread, port = listening(ListenOptions(tmp_path / "in", port=0), stop)
    with pytest.raises(InputError, match="cannot be listened on"):
        serve(ListenOptions(tmp_path / "in", port=port), stop=stop)
    stop.set()
    thread.join(30)


@pytest.mark.parametrize("left", [0, 9])
def test_a_pacs_that_dies_halfway_leaves_no_shorter_scan(left: int, tmp_path: Path) -> None:
    """Nine slices of twelve are evenly spaced, and would pass for a whole scan of nine."""
    pynetdicom = pytest.importorskip("pynetdicom")
    find, get, image = (
        "1.2.840.10008.5.1.4.1.2.2.1", "1.2.840.10008.5.1.4.1.2.2.3", "1.2.840.10008.5.1.4.1.1.4"
    )  # fmt: skip
    slices = [pydicom.dcmread(path) for path in series(tmp_path / "exam", "P-1")]
    dies = True

    def on_find(event: Any) -> Iterator[tuple[int, Dataset]]:
        answer = Dataset()
        answer.QueryRetrieveLevel = event.identifier.QueryRetrieveLevel
        answer.StudyInstanceUID = slices[0].StudyInstanceUID
        answer.SeriesInstanceUID = slices[0].SeriesInstanceUID
        yield 0xFF00, answer

    def on_get(event: Any) -> Iterator[Any]:
        yield len(slices)
        for number, dataset in enumerate(slices):
            if dies and number == left:
                event.assoc.abort()
                return
            yield 0xFF00, dataset

    server = pynetdicom.AE("PACS")
    for context in (find, get):
        server.add_supported_context(context)
    server.add_supported_context(image, scp_role=True, scu_role=True)
    handlers = [(pynetdicom.evt.EVT_C_FIND, on_find), (pynetdicom.evt.EVT_C_GET, on_get)]
    running = server.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
    address = f"dimse://PACS@127.0.0.1:{running.socket.getsockname()[1]}?method=get"
    try:
        first = ingest([address], tmp_path / "dataset", PLAIN)
        assert (first.volumes, first.set_apart, first.exit_code) == (0, {NOT_RETRIEVED: 1}, 3)
        dies = False
        again = ingest([address], tmp_path / "dataset", PLAIN)
    finally:
        running.shutdown()
    assert (again.volumes, again.kept, again.exit_code) == (1, 12, 0)
    assert NOT_RETRIEVED not in (tmp_path / "dataset" / "files.jsonl").read_text()
