"""Each flow once and again, on real volumes, under Prefect's own server for tests."""

from __future__ import annotations

import errno
import hashlib
import textwrap
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import StateType

import medidiff
from flows.engine import keys
from flows.engine.flow import unattended
from flows.engine.run import Item, Run
from flows.engine.steps import Made, Order, Work, step
from flows.ingest import ingest
from flows.nightly import nightly
from flows.reconstruct import reconstruct
from flows.synthesize_and_release import synthesize_and_release
from flows.train import train
from medidiff.errors import InputError
from medidiff.geometry import Geometry
from medidiff.io import read_volume, write_volume
from medidiff.ledger import Ledger
from medidiff.status import status as medidiff_status
from medidiff.unattended import ReconstructFlow
from medidiff.volume import Volume
from tests.flows.plans import RECONSTRUCT
from tests.flows.told import calls, last
from tests.ingest import heaps

pytestmark = pytest.mark.usefixtures("prefect_server")


def token_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def test_reconstruct_does_each_scan_once_and_again_what_changed(
    restore, heads: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # type: ignore[no-untyped-def]
    state, output = tmp_path / "state", tmp_path / "out"
    one, two = heads / "ward" / "one.nii.gz", heads / "ward" / "two.nii.gz"
    assert restore().name == "Completed"
    assert calls(state) == Counter(reconstruct=2)
    result = read_volume(output / f"{token_of(one)}.nii.gz")
    assert result.geometry.spacing == pytest.approx((4, 4, 4))
    first = heaps.tree(output)

    assert restore().name == "Completed"
    assert calls(state) == Counter()
    assert last(state).steps[0].cached == 2
    assert heaps.tree(output) == first

    # Another scan under an old name: it alone is done.
    scan = read_volume(two)
    write_volume(Volume(scan.data * np.float32(2), scan.geometry, scan.modality), two)
    restore()
    assert calls(state) == Counter(reconstruct=1)
    assert (output / f"{token_of(two)}.nii.gz").is_file()

    # A result that went, and one that somebody changed, are made again.
    (output / f"{token_of(one)}.nii.gz").unlink()
    (output / f"{token_of(two)}.nii.gz").write_bytes(b"overwritten")
    restore()
    assert calls(state) == Counter(reconstruct=2)
    assert heaps.tree(output)[f"{token_of(one)}.nii.gz"] == first[f"{token_of(one)}.nii.gz"]

    # A result whose record is damaged, too.
    records = list((state / "results" / "reconstruct").rglob("*.json"))
    for record in records:
        record.write_bytes(record.read_bytes()[:-20])
    restore()
    assert calls(state) == Counter(reconstruct=2)

    restore(spacing=5.0)
    assert calls(state) == Counter(reconstruct=2)

    monkeypatch.setattr(medidiff, "__version__", "0.0.0+another")
    keys.code_digest.cache_clear()
    restore(spacing=5.0)
    assert calls(state) == Counter(reconstruct=2)
    keys.code_digest.cache_clear()


def test_a_failed_item_is_listed_and_does_not_stop_the_rest(restore, heads: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    broken = heads / "Mustermann_Erika.nii.gz"
    broken.write_bytes(b"no volume at all")
    found = restore()
    assert (found.type, found.name) == (StateType.COMPLETED, "CompletedWithFailures")
    record = last(tmp_path / "state")
    assert record.status == "completed-with-failures"
    assert record.steps[0].done == 2
    (failure,) = record.failures
    assert failure.item == token_of(broken)
    assert failure.reason.startswith("[source] is no volume")
    assert not [path for path in (tmp_path / "state").rglob("*") if path.is_file() and b"Erika" in path.read_bytes()]

    # Prefect itself stores parameters, states and logs: none of them knows the folder.
    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs()
        tasks = client.read_task_runs()
        logs = client.read_logs()
    assert {str(run.parameters) for run in runs} == {"{'config': 'restore'}"}
    told = "".join(item.model_dump_json() for item in (*runs, *tasks, *logs))
    assert "Erika" not in told
    assert "ward" not in told


INGEST = """
kind: flow-ingest
state: {root}/state
sites:
  - {{name: north, sources: [{root}/north], dataset: {root}/data/north, options: {options}}}
  - {{name: south, sources: [{root}/south], dataset: {root}/data/south, options: {options}}}
retries: 0
"""


@pytest.fixture(params=["absolute", "relative", "by a link"])
def root(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The test's folder, as configurations may name it."""
    if request.param == "absolute":
        return str(tmp_path)
    if request.param == "relative":
        monkeypatch.chdir(tmp_path)
        return "."
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "data").symlink_to(tmp_path / "disk", target_is_directory=True)
    return str(tmp_path / "link")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The test's folder as the working directory, which has not the configurations directly in it."""
    monkeypatch.chdir(tmp_path)
    return "."


def test_ingest_does_a_site_again_when_its_heap_changes(root: str, configs: Path, tmp_path: Path) -> None:
    state = tmp_path / "state"
    heaps.series(tmp_path / "north" / "a", "P-1", seed=1)
    heaps.series(tmp_path / "south" / "b", "P-2", seed=2)
    options = "{kind: ingest, body_part: other, clean_pixels: false}"
    (configs / "sites.yaml").write_text(INGEST.format(root=root, options=options))
    (tmp_path / "data").mkdir(exist_ok=True)

    assert ingest(config="sites", return_state=True).name == "Completed"
    assert calls(state) == Counter(ingest=2)
    before = heaps.tree(tmp_path / "data")
    assert ingest(config="sites", return_state=True).name == "Completed"
    assert calls(state) == Counter()
    assert heaps.tree(tmp_path / "data") == before

    heaps.series(tmp_path / "south" / "c", "P-3", seed=3)
    ingest(config="sites", return_state=True)
    assert calls(state) == Counter(ingest=1)
    assert last(state).steps[0].cached == 1

    # A volume that somebody removed from the dataset is noticed.
    (volume,) = (tmp_path / "data" / "north").rglob("*.nii.gz")
    volume.unlink()
    ingest(config="sites", return_state=True)
    assert calls(state) == Counter(ingest=1)
    assert volume.is_file()


TRAIN = """
kind: flow-train
state: {root}/state
models:
  - output: {root}/models
    device: cpu
    config:
      kind: train
      name: tiny
      seed: {seed}
      data: {{root: {root}/people, train: [{{files: a.nii.gz}}]}}
      network: {{channels: [8], blocks: 1}}
      batches: {{size: 2, patch: 16, line: 32, operators: 8, factors: [1.5, 5]}}
      optimizer: {{steps: 2, warmup: 1}}
retries: 0
"""


def test_train_trains_once_for_each_configuration(here: str, configs: Path, tmp_path: Path, mni: Volume) -> None:
    state = tmp_path / "state"
    data = np.ascontiguousarray(mni.data[:, ::4, ::4, ::4])
    (tmp_path / "people").mkdir()
    geometry = Geometry(mni.geometry.affine @ np.diag([4.0, 4, 4, 1]), data.shape[1:])  # type: ignore[arg-type]
    write_volume(Volume(data, geometry), tmp_path / "people" / "a.nii.gz")
    (configs / "tiny.yaml").write_text(TRAIN.format(root=here, seed=0))

    assert train(config="tiny", return_state=True).name == "Completed"
    assert calls(state) == Counter(train=1)
    (model,) = (tmp_path / "models").rglob("tiny.safetensors")
    weights = model.read_bytes()
    train(config="tiny", return_state=True)
    assert calls(state) == Counter()

    # The model went, its training state did not: nothing is trained again.
    model.unlink()
    train(config="tiny", return_state=True)
    assert model.read_bytes() == weights

    (configs / "tiny.yaml").write_text(TRAIN.format(root=here, seed=1))
    train(config="tiny", return_state=True)
    assert calls(state) == Counter(train=1)
    assert len(list((tmp_path / "models").rglob("tiny.safetensors"))) == 2


def test_a_wrong_configuration_ends_in_a_failed_run_that_says_where(configs: Path, tmp_path: Path) -> None:
    (configs / "wrong.yaml").write_text(f"kind: flow-train\nstate: {tmp_path}/state\nmodels: []\n")
    found = train(config="wrong", return_state=True)
    assert found.is_failed()
    assert "models" in str(found.message)
    assert str(tmp_path) not in str(found.message)
    for name in ("../wrong", "Wrong", "no-such"):
        assert train(config=name, return_state=True).is_failed()
    assert not (tmp_path / "state").exists()


def test_a_second_run_says_that_another_is_at_work(restore, configs: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    from flows.engine.lock import held

    restore()
    text = (configs / "restore.yaml").read_text() + "wait_seconds: 0\n"
    with held(Ledger(tmp_path / "state"), "20260101T000000-00000000", 0):
        (configs / "second.yaml").write_text(text)
        found = reconstruct(config="second", return_state=True)
    assert found.is_failed()
    assert "another run is at work in this state folder (run 20260101T000000-00000000" in str(found.message)


NIGHTLY = """
kind: flow-nightly
state: {root}/state
retries: 0
sites:
  - name: ward
    sources: [{root}/heap]
    dataset: {root}/data/ward
    options: {{kind: ingest, body_part: other, clean_pixels: false, split: {{train: 0.6, validation: 0, test: 0.4}}}}
train:
  output: {root}/models
  device: cpu
  config:
    kind: train-generator
    name: night
    people: {{dataset: {root}/data/ward, split: train}}
    shape: [40, 44, 16]
    network: {{kind: residual_unet, channels: [8, 8], blocks: 1}}
    items: {{size: 2}}
    optimizer: {{steps: 2, warmup: 1}}
    card:
      sources: [{{name: blobs, licence: CC0-1.0, people: 9}}]
      samples_licence: CC0-1.0
candidate:
  name: night
  sets: {root}/sets
  releases: {root}/releases
  synthesize: {{kind: synthesize, count: 6, steps: 2}}
  evaluate:
    kind: evaluate
    reference: {{dataset: {root}/data/ward, split: test}}
    training: {{dataset: {root}/data/ward, split: train}}
    shape: [40, 44, 16]
    bootstrap: 100
    least: 4
    likeness: 3
  audit:
    kind: audit
    training: {{dataset: {root}/data/ward, split: train}}
    held_out: {{dataset: {root}/data/ward, split: test}}
    shape: [40, 44, 16]
    sigmas: [0.4]
    draws: 1
"""


@pytest.fixture
def night(here: str, configs: Path, tmp_path: Path) -> Path:
    """New scans and the configuration of a night; the state folder."""
    for number in range(14):
        heaps.nifti(tmp_path / "heap" / f"p{number:02d}_T1w.nii.gz", seed=100 + number)
    (tmp_path / "data").mkdir()
    (configs / "night.yaml").write_text(NIGHTLY.format(root=here))
    return tmp_path / "state"


def test_nightly_goes_from_new_scans_to_a_refusal_with_reasons(night: Path, configs: Path, tmp_path: Path) -> None:
    state = night
    found = nightly(config="night", return_state=True)
    # A generator of two steps is no good, and the gate says so.
    assert (found.type, found.name) == (StateType.COMPLETED, "Refused")
    record = last(state)
    assert record.status == "refused"
    assert [step.name for step in record.steps] == ["ingest", "train", "synthesize", "evaluate", "audit", "release"]
    assert calls(state) == Counter(ingest=1, train=1, synthesize=1, evaluate=1, audit=1, release=1)
    assert record.steps[-1].reasons
    assert any("quality.json" in reason for reason in record.steps[-1].reasons)
    assert not list((tmp_path / "releases").iterdir())
    assert medidiff_status(state).release is None

    assert nightly(config="night", return_state=True).name == "Refused"
    assert calls(state) == Counter()
    assert last(state).steps[-1].reasons == record.steps[-1].reasons

    # The same set by the flow that only makes sets, with folders of its own.
    (model,) = Path("models").rglob("night.safetensors")
    (configs / "set.yaml").write_text(release_of(model))
    for calls_made in (Counter(synthesize=1, evaluate=1, audit=1, release=1), Counter()):
        assert synthesize_and_release(config="set", return_state=True).name == "Refused"
        assert calls(tmp_path / "other" / "state") == calls_made
    assert {step.name: step.status for step in last(tmp_path / "other" / "state").steps}["release"] == "refused"


def release_of(model: Path) -> str:
    """The configuration of a set like the night's candidate."""
    candidate = NIGHTLY.format(root=".").partition("candidate:\n")[2].rstrip() + f"\n    model: {model}\n"
    candidate = candidate.replace("count: 6", f"count: 6, model: {model}").replace("./sets", "other/sets")
    job = textwrap.indent(candidate.replace("./releases", "other/releases"), "  ").replace("    name", "  - name", 1)
    return f"kind: flow-release\nstate: other/state\nretries: 0\nsets:\n{job}"


@pytest.mark.slow
def test_a_night_does_again_what_depends_on_a_change(night: Path, configs: Path, tmp_path: Path) -> None:
    state = night
    nightly(config="night", return_state=True)

    # Another seed for the set: what comes before it stays, what comes of it is done again.
    text = (configs / "night.yaml").read_text().replace("count: 6", "count: 6, seed: 1")
    (configs / "night.yaml").write_text(text)
    nightly(config="night", return_state=True)
    assert calls(state) == Counter(synthesize=1, evaluate=1, audit=1, release=1)

    # An item of the set went: the set is made again as it was, so nothing else has to be.
    sets = sorted((tmp_path / "sets").glob("night-*/set.json"), key=lambda path: path.stat().st_mtime)
    next((sets[-1].parent / "images").glob("*.nii.gz")).unlink()
    nightly(config="night", return_state=True)
    assert calls(state)["synthesize"] == 1
    assert calls(state)["train"] == 0


HEAP = """
kind: flow-reconstruct
state: state
source:
  kind: heap
  site:
    name: ward
    sources: [heap]
    dataset: data/ward
    options: {kind: ingest, body_part: other, clean_pixels: false}
output: out
options: {fast: true, spacing: 4.0}
retries: 0
"""


def test_a_heap_is_restored_by_names_relative_to_the_working_directory(
    here: str, configs: Path, tmp_path: Path
) -> None:
    heaps.series(tmp_path / "heap" / "a", "P-1", seed=1)
    (configs / "heap.yaml").write_text(HEAP)
    for calls_made in (Counter(ingest=1, reconstruct=1), Counter()):
        assert reconstruct(config="heap", return_state=True).name == "Completed"
        assert calls(tmp_path / "state") == calls_made
    assert len(list((tmp_path / "out").glob("*.nii.gz"))) == 1


@pytest.mark.parametrize(
    ("fails", "status"),
    [({"b"}, "done-with-failures"), ({"a", "b"}, "failed"), (set(), "done")],
    ids=["one", "both", "none"],
)
def test_a_step_is_not_told_as_done_when_a_result_could_not_be_stored(
    fails: set[str], status: str, configs: Path, tmp_path: Path
) -> None:
    @step("elsewhere")
    def elsewhere(order: Order, work: Work) -> Made:
        """Makes a file below its base, or one that no result can speak of."""
        made = (tmp_path if order.item in fails else order.base) / f"{order.item}.txt"
        made.write_text("x")
        return Made((made,))

    @unattended("reconstruct", ReconstructFlow)
    def trying(run: Run[ReconstructFlow]) -> None:
        items = (Item(token, "", tmp_path / "out", {}) for token in ("a", "b"))
        for _ in run.fan_out(elsewhere, items, lambda item: item.token * 64):
            pass

    (tmp_path / "out").mkdir()
    text = RECONSTRUCT.format(state=tmp_path / "state", source=tmp_path, output=tmp_path, spacing=4)
    (configs / "try.yaml").write_text(text)
    trying(config="try", return_state=True)
    (told,) = medidiff_status(tmp_path / "state").runs[0].steps
    assert (told.status, told.done, told.failed) == (status, 2 - len(fails), len(fails))


@step("flaky")
def flaky(order: Order, work: Work) -> Made:
    """Fails twice, in the way that it is told."""
    tries = order.base / "tries"
    with tries.open("a") as stream:
        stream.write("x")
    if len(tries.read_text()) < 3:
        raise order.arguments["error"]
    return Made((tries,))


@pytest.mark.parametrize(
    ("error", "tries", "name"),
    [(OSError(errno.EIO, "Input/output error"), 3, "Completed"), (InputError("no volume"), 1, "Failed")],
    ids=["passing", "lasting"],
)
def test_passing_faults_are_tried_again_and_wrong_inputs_are_not(
    error: Exception, tries: int, name: str, configs: Path, tmp_path: Path
) -> None:
    @unattended("reconstruct", ReconstructFlow)
    def trying(run: Run[ReconstructFlow]) -> None:
        run.step(flaky, "0" * 64, tmp_path, {"error": error})

    text = RECONSTRUCT.format(state=tmp_path / "state", source=tmp_path, output=tmp_path, spacing=4)
    (configs / "try.yaml").write_text(text.replace("retries: 0", "retries: 2\nretry_seconds: 0"))
    assert trying(config="try", return_state=True).name == name
    assert len((tmp_path / "tries").read_text()) == tries
    assert last(tmp_path / "state").status == name.lower()
