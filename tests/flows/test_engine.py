"""What the flows stand on, without a server: keys, results, the lock, the ledger, and what may be said."""

from __future__ import annotations

import errno
import logging
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from flows.engine import keys
from flows.engine.hidden import KeepBack, clean, places_in
from flows.engine.keys import Fingerprints, code_digest, step_key
from flows.engine.lock import held
from flows.engine.results import Output, Result, Results
from flows.engine.runners import task_runner
from flows.engine.steps import Made, Order, Passing, StepFailed, Work, carry_out
from flows.steps import reconstruct_scan
from medidiff.cli import main
from medidiff.errors import ConfigError, GateRefused, InputError, OutputError
from medidiff.io import write_volume
from medidiff.ledger import Ledger, RunRecord, StepRecord, boot_id, new_run_id, now
from medidiff.reconstruct import ReconstructOptions
from medidiff.status import status
from medidiff.unattended import SCHEMAS, Ray, ReconstructFlow, Threads, schema_of
from medidiff.volume import Volume


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    found = Ledger(tmp_path / "state")
    found.make()
    return found


def order(ledger: Ledger, **more: object) -> Order:
    return Order(step="try", key="0" * 64, state=ledger.root, run=new_run_id(), base=ledger.root.parent, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text",
    [
        "/in/Doe_Jane^1970/scan.nii.gz: no volume",
        "scan.nii.gz: no volume",
        "'Doe_Jane^1970' is no folder",
        "patient DOE has no orientation",
        "jane's scan",
        "cannot read /elsewhere/Doe_Jane/other.nii",
        "in/Doe_Jane^1970/scan.nii.gz",
    ],
)
def test_messages_lose_every_part_of_a_source(text: str) -> None:
    told = clean(text, ["/in/Doe_Jane^1970/scan.nii.gz"]).lower()
    assert not [name for name in ("doe", "jane", "1970", "scan") if name in told]


def test_messages_keep_what_they_say() -> None:
    reason = "expected 3 axes, got 2; NIfTI, MGH/MGZ or NRRD are read: give a volume, at 0.5 mm"
    assert clean(reason, ["/in/Doe_Jane/scan.nii.gz"]) == reason


def test_what_other_libraries_log_is_kept_back(caplog: pytest.LogCaptureFixture) -> None:
    caplog.handler.addFilter(KeepBack())
    logging.getLogger("pydicom").warning("invalid value for VR PN: %s", "Doe^Jane")
    logging.getLogger("prefect.flow_runs").warning("finished")
    assert "Doe" not in caplog.text
    assert "pydicom: a message that may name a person was kept back" in caplog.text
    assert "finished" in caplog.text


def test_a_key_is_of_all_that_determines_a_result() -> None:
    base = {"inputs": "a", "config": "b", "code": "c"}
    found = {step_key("x", **base), step_key("y", **base), *(step_key("x", **{**base, name: "z"}) for name in base)}
    assert len(found) == 5
    assert step_key("x", **base) == step_key("x", **base)


def test_the_code_of_a_step_is_what_its_use_case_can_reach() -> None:
    reached = {path.relative_to(Path(keys._PACKAGE)).as_posix() for path in keys._reachable("medidiff.ingest")}
    assert {"ingest.py", "io/dicom/__init__.py", "privacy/deidentify.py", "ingestion/runner.py"} <= reached
    assert not {"synthesize/use_case.py", "train.py", "cli/app.py", "status.py"} & reached
    assert code_digest("medidiff.ingest") != code_digest("medidiff.release")


def test_content_counts_and_not_the_time_or_place(tmp_path: Path, ledger: Ledger) -> None:
    prints = Fingerprints(ledger.root)
    for name in ("a", "b"):
        (tmp_path / name / "inner").mkdir(parents=True)
        (tmp_path / name / "inner" / "x").write_text("content")
    assert prints.tree(tmp_path / "a") == prints.tree(tmp_path / "b")
    (tmp_path / "b" / "inner" / "x").rename(tmp_path / "b" / "inner" / "y")
    assert prints.tree(tmp_path / "a") != prints.tree(tmp_path / "b")
    before = prints.file(tmp_path / "a" / "inner" / "x")
    (tmp_path / "a" / "inner" / "x").write_text("CONTENT")  # as long, and perhaps in the same tick of the clock
    assert prints.file(tmp_path / "a" / "inner" / "x") != before
    assert prints.of(tmp_path / "nobody") == "absent"
    prints.close()


def test_a_result_holds_as_long_as_what_it_speaks_of(tmp_path: Path, ledger: Ledger) -> None:
    prints, results = Fingerprints(ledger.root), Results(ledger.root)
    (tmp_path / "made").write_text("x")
    result = Result("try", "k" * 64, (Output("made", prints.of(tmp_path / "made")),), {"n": 1}, seconds=1.5)
    results.keep(result)
    assert results.find("try", "k" * 64, tmp_path, prints) == result
    assert results.find("try", "l" * 64, tmp_path, prints) is None
    (tmp_path / "made").write_text("y")
    assert results.find("try", "k" * 64, tmp_path, prints) is None
    (tmp_path / "made").unlink()
    assert results.find("try", "k" * 64, tmp_path, prints) is None
    prints.close()


@pytest.mark.parametrize(
    ("error", "kind", "reason"),
    [
        (InputError("/in/Doe/a.nii: no volume"), StepFailed, "[source]: no volume"),
        (OSError(errno.ENOSPC, "No space left on device", "/out/Doe/a"), Passing, "OSError: No space left on device"),
        (
            PermissionError(errno.EACCES, "Permission denied", "/in/Doe"),
            StepFailed,
            "PermissionError: Permission denied",
        ),
        (TimeoutError("Doe did not answer"), Passing, "TimeoutError: no reason given"),
        (ValueError("Doe"), StepFailed, "ended in ValueError; please report it"),
        (MemoryError(), StepFailed, "out of memory; give the machine more, or take fewer workers"),
    ],
)
def test_what_goes_wrong_is_sorted_and_names_nobody(
    error: Exception, kind: type[StepFailed], reason: str, ledger: Ledger
) -> None:
    def body(_order: Order, _work: Work) -> Made:
        raise error

    with pytest.raises(StepFailed) as raised:
        carry_out(body, order(ledger, sources=("/in/Doe/a.nii",)))
    assert type(raised.value) is kind
    assert raised.value.reason == reason
    log = b"".join(path.read_bytes() for path in (ledger.root / "logs").iterdir())
    assert b"Doe" not in log


def test_a_full_disk_below_our_own_error_is_passing(ledger: Ledger) -> None:
    def body(_order: Order, _work: Work) -> Made:
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError as error:
            raise OutputError("cannot write: no room left") from error

    with pytest.raises(Passing):
        carry_out(body, order(ledger))


def test_a_gate_that_refuses_is_a_result(ledger: Ledger) -> None:
    def body(_order: Order, _work: Work) -> Made:
        raise GateRefused("refused, 2 reasons:\n  - too few\n  - too near")

    assert carry_out(body, order(ledger)).refused == ("too few", "too near")


def test_a_task_by_itself(tmp_path: Path, ledger: Ledger, small_head: Volume) -> None:
    write_volume(small_head, tmp_path / "scan.nii.gz")
    arguments = {
        "scan": tmp_path / "scan.nii.gz",
        "output": tmp_path / "token.nii.gz",
        "options": ReconstructOptions(fast=True, spacing=4.0),
    }
    result = reconstruct_scan.fn(order(ledger, arguments=arguments, item="token"))
    assert [output.path for output in result.outputs] == ["token.nii.gz", "token.json"]
    assert 0 <= result.facts["data_consistency_nrmse"] < 0.01


def test_a_lock_is_held_by_one_process_and_let_go_when_that_is_killed(ledger: Ledger) -> None:
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom flows.engine.lock import held\n"
        "from medidiff.ledger import Ledger\n"
        "with held(Ledger(Path(sys.argv[1])), 'other', 0):\n    print('held', flush=True)\n    time.sleep(600)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(ledger.root)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    holder = ledger.at_work()
    assert holder is not None
    assert (holder["run"], holder["pid"], holder["boot"]) == ("other", process.pid, boot_id())
    with pytest.raises(ConfigError, match=f"run other, process {process.pid}"), held(ledger, "mine", 0):
        pass
    process.kill()
    process.wait()
    assert ledger.at_work() is None
    with held(ledger, "mine", 0):
        assert (ledger.at_work() or {})["run"] == "mine"


def record(run: str, **more: object) -> RunRecord:
    return RunRecord(run, "train", "tiny", "", "", 1, 1, boot_id(), now(), **more)  # type: ignore[arg-type]


def test_a_run_whose_lock_nobody_holds_is_told_as_crashed(ledger: Ledger) -> None:
    gone, here = new_run_id(), new_run_id()
    ledger.write(record(gone))
    ledger.write(record(here))
    with held(ledger, here, 0):
        assert [each.run for each in ledger.abandoned()] == [gone]
        told = {each.run: each.status for each in status(ledger.root).runs}
        assert told == {gone: "crashed", here: "running"}
        assert status(ledger.root).at_work == here
    assert {each.run for each in ledger.abandoned()} == {gone, here}


def test_half_a_record_is_passed_over(ledger: Ledger) -> None:
    whole, half = new_run_id(), new_run_id()
    ledger.write(record(whole))
    (ledger.root / "runs" / f"{half}.json").write_text('{"run": "')
    assert [each.run for each in ledger.runs()] == [whole]


def test_a_folder_of_somebody_else_is_no_state_folder(tmp_path: Path) -> None:
    (tmp_path / "thesis.docx").write_text("x")
    with pytest.raises(ConfigError, match="not empty"):
        Ledger(tmp_path).make()
    with pytest.raises(InputError, match="no state folder"):
        status(tmp_path)


def test_what_a_run_killed_at_its_very_beginning_leaves_is_gone_on_with(tmp_path: Path) -> None:
    state = tmp_path / "state"
    (state / "prefect").mkdir(parents=True)
    (state / ".medidiff-tmp-1-00000000-state.json").touch()
    Ledger(state).make()
    assert list(Ledger(state).runs()) == []


def test_a_state_folder_is_known_as_ours_before_anything_else_is_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state, seen = tmp_path / "state", []
    mkdir = Path.mkdir

    def watched(path: Path, *arguments: object, **more: object) -> None:
        seen.append((path.name, (state / "state.json").is_file()))
        mkdir(path, *arguments, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "mkdir", watched)
    Ledger(state).make()
    assert dict(seen) == {"state": False, "runs": True, "results": True, "logs": True, "prefect": True}


def test_status_loads_neither_prefect_nor_torch(ledger: Ledger) -> None:
    ledger.write(record(new_run_id(), status="completed"))
    code = (
        "import sys\nfrom medidiff.cli import main\n"
        "try:\n    main(['status', sys.argv[1]])\nexcept SystemExit as end:\n    assert not end.code\n"
        "print(sorted({'prefect', 'torch', 'monai', 'scipy'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(ledger.root)], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert "completed" in done.stdout


def test_status_tells_a_refusal_line_by_line_and_figures_in_four_digits(
    ledger: Ledger, capsys: pytest.CaptureFixture[str]
) -> None:
    reasons = ("quality.json: missing", "privacy.json: missing")
    steps = (
        StepRecord("audit", "done", "k", 1.0, facts={"copies": 1 / 3, "set": "ab" * 32}),
        StepRecord("release", "refused", "k", 1.0, reasons=reasons),
    )
    ledger.write(replace(record(new_run_id(), status="refused"), steps=steps))
    with pytest.raises(SystemExit) as end:
        main(["status", str(ledger.root)])
    assert not end.value.code
    told = capsys.readouterr().out
    assert "copies 0.3333" in told
    assert "ab" * 7 not in told
    assert [line for line in told.splitlines() if line.startswith("release: ")] == [
        f"release: {each}" for each in reasons
    ]


def test_what_is_done_is_not_done_again_by_another_worker(ledger: Ledger, tmp_path: Path) -> None:
    def write(order: Order, work: Work) -> Made:
        with (tmp_path / "made").open("a") as stream:
            stream.write("x")
        return Made((tmp_path / "made",))

    given = replace(order(ledger), base=tmp_path)
    first = carry_out(write, given)
    assert carry_out(write, given) == first
    assert (tmp_path / "made").read_text() == "x"
    (tmp_path / "made").unlink()  # what is gone is
    carry_out(write, given)
    assert (tmp_path / "made").read_text() == "x"


def test_runners_come_by_configuration() -> None:
    pytest.importorskip("prefect_dask")
    assert type(task_runner(Threads(workers=3))).__name__ == "ThreadPoolTaskRunner"
    if not _has("prefect_ray"):
        with pytest.raises(ConfigError, match="ray is not installed"):
            task_runner(Ray())


def _has(module: str) -> bool:
    import importlib.util

    return importlib.util.find_spec(module) is not None


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("options: {fast: true, speed: 9}", "speed: no such setting"),
        ("options: {report: page.html}", "a flow has many"),
        ("options: {samples: -1}", "--samples must be"),
        ("runner: {kind: boat}", "runner"),
        ("state: medidiff\nretires: 3", "no such setting"),
    ],
)
def test_mistakes_in_a_configuration_are_told_with_their_line(line: str, message: str, tmp_path: Path) -> None:
    from medidiff.config import load_config

    path = tmp_path / "bad.yaml"
    path.write_text(f"kind: flow-reconstruct\nsource: {{kind: folder, folder: in}}\noutput: out\n{line}\n")
    with pytest.raises(ConfigError, match=r"bad\.yaml:[45]: .*") as raised:
        load_config(path, ReconstructFlow)
    assert message in str(raised.value)


def test_every_kind_of_flow_has_a_schema(tmp_path: Path) -> None:
    assert set(SCHEMAS) == {"flow-ingest", "flow-train", "flow-reconstruct", "flow-release", "flow-nightly"}
    (tmp_path / "x.yaml").write_text("kind: train\n")
    with pytest.raises(ConfigError, match="expected one of flow-ingest"):
        schema_of(tmp_path / "x.yaml")


def test_a_message_about_a_configuration_loses_every_place_in_it(tmp_path: Path) -> None:
    (tmp_path / "Doe Jane").mkdir()
    (tmp_path / "Doe Jane" / "Anna Muster.nii").touch()
    plan = {"sites": [{"sources": [str(tmp_path / "Doe Jane")], "name": "ward"}], "retries": 3}
    text = f"{tmp_path}/Doe Jane: the image Anna Muster has no label map; ward"
    told = clean(text, places_in(plan), "[path]")
    assert not [name for name in ("Doe", "Jane", "Anna", "Muster") if name in told]
    assert told.endswith("has no label map; ward")
