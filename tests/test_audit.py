"""Audit: an honest set of enough people passes; a copy, few people, or the wrong people do not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from medidiff.audit import AuditOptions, AuditResult, audit
from medidiff.cli import main
from medidiff.data.cohort import Cohort, load_people, people, split_sha256
from medidiff.diffusion.generator import GenerativeModel, save_generator
from medidiff.diffusion.network import build_network
from medidiff.errors import CheckpointError, ConfigError, InputError
from medidiff.geometry import Geometry
from medidiff.io import write_volume
from medidiff.report.html import render
from medidiff.report.release_page import release_page
from medidiff.synthetic import (
    Family,
    LabelClass,
    Metadata,
    Outcome,
    PrivacyReport,
    SetPlan,
    SyntheticSet,
    SyntheticSetWriter,
    judge,
    read_report,
)
from medidiff.training.generative_spec import measure_spec
from medidiff.volume import Modality, Volume
from tests.privacy import leakage_people
from tests.synthetic.sets import PLAN

TRAINED, OTHERS, ITEMS = 44, 22, 20
SHAPE = (24, 24, 20)  # four blocks: fewer do not tell people apart
GEOMETRY = Geometry(np.eye(4), SHAPE)
SECRET = "canary"


def textures(count: int, seed: int) -> np.ndarray:
    return leakage_people.textures(count, seed, SHAPE)


def label_of(image: np.ndarray) -> np.ndarray:
    from scipy import ndimage

    smooth = ndimage.gaussian_filter(image, 2.0)
    return np.digitize(smooth, np.quantile(smooth, [0.85, 0.95])).astype(np.uint8)


def write(path: Path, image: np.ndarray, modality: Modality = Modality.MR) -> None:
    write_volume(Volume(image[None], GEOMETRY, modality), path)


@pytest.fixture(scope="module")
def folk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of people, those to train on first; their file names must be seen nowhere."""
    folder = tmp_path_factory.mktemp("people")
    for part in ("images", "labels"):
        (folder / part).mkdir()
    for number, image in enumerate(textures(TRAINED + OTHERS, 0)):
        write(folder / "images" / f"{SECRET}{number:03d}.nii.gz", 1000 * image)
        write(folder / "labels" / f"{SECRET}{number:03d}.nii.gz", label_of(image), Modality.LABEL)
    return folder


def options(folk: Path, **rest: object) -> AuditOptions:
    """Without label maps; what is learned of the people is kept for the next test."""
    places = {"images": folk / "images"}
    known = {"training": {**places, "first": TRAINED}, "held_out": {**places, "last": OTHERS}, "encoder": None}
    return AuditOptions.model_validate(known | {"pictures": 3, "work": folk / "work"} | rest)


def make_set(folder: Path, folk: Path, images: np.ndarray, **plan: object) -> SyntheticSet:
    split = split_sha256(people(Cohort(images=folk / "images", first=TRAINED)))
    labels = (LabelClass(value=1, name="rim"), LabelClass(value=2, name="core"))
    known = PLAN.model_dump() | {"training_split_sha256": split, "labels": labels}
    writer = SyntheticSetWriter(folder, SetPlan.model_validate(known | plan))
    for number, image in enumerate(images):
        label = Volume(label_of(image)[None], GEOMETRY, Modality.LABEL)
        volume = Volume(700 * image[None], GEOMETRY, Modality.MR)
        writer.add(f"s{number:03d}", number, volume, label, suffix="T1w", metadata=Metadata(age_band="30-39"))
    return writer.finish()


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory, folk: Path) -> tuple[SyntheticSet, AuditResult]:
    """Items of other people still, and what the audit says of them."""
    made = make_set(tmp_path_factory.mktemp("sets") / "honest", folk, textures(ITEMS, 1))
    return made, audit(made.folder, options(folk))


def test_an_honest_set_passes_and_its_report_opens_the_gate(
    honest: tuple[SyntheticSet, AuditResult], folk: Path
) -> None:
    made, result = honest
    assert result.verdict is Outcome.PASSED, result.reasons
    assert result.copies == ()
    report = read_report(PrivacyReport, made.folder)
    assert (report.members, report.non_members, report.set_sha256) == (TRAINED, OTHERS, made.sha256)
    judged = {metric.family for metric in report.metrics if metric.outcome is not None}
    assert judged == {Family.MEMORISATION, Family.MEMBERSHIP}
    assert {neighbour.item for neighbour in report.neighbours} == {item.id for item in made.items}
    assert sum(neighbour.nearest_png is not None for neighbour in report.neighbours) == 3
    assert not [reason for reason in judge(made.folder).reasons if reason.startswith("privacy.json")]
    assert {path.name for path in made.folder.parent.iterdir()} == {"honest"}
    kept = [path.name for path in (folk / "work").iterdir()]
    assert all(name.startswith("people-") for name in kept), "what was half done of the set is gone"


def test_no_report_names_anybody_or_calls_the_data_by_the_forbidden_word(
    honest: tuple[SyntheticSet, AuditResult],
) -> None:
    text = (honest[0].folder / "privacy.json").read_text().lower()
    page = render(release_page(judge(honest[0].folder), ("bids",), internal=True)).lower()
    for word in (SECRET, "anonymous"):
        assert word not in text
        assert word not in page


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory, folk: Path) -> tuple[SyntheticSet, AuditResult]:
    """The same, but one item is a training volume flipped, brightened, and noisy."""
    items = textures(ITEMS, 1)
    person = textures(TRAINED + OTHERS, 0)[13]
    items[7] = np.flip(person, (0, 1)) ** 1.3 + np.random.default_rng(0).normal(0, 0.02, SHAPE)
    made = make_set(tmp_path_factory.mktemp("sets") / "copied", folk, items)
    return made, audit(made.folder, options(folk))


def test_one_copy_fails_the_set_and_is_shown_first(copied: tuple[SyntheticSet, AuditResult]) -> None:
    made, result = copied
    assert result.verdict is Outcome.FAILED
    assert "s007" in result.copies
    first = read_report(PrivacyReport, made.folder).neighbours[0]
    assert (first.item, first.under) == ("s007", "flipped left to right and front to back")
    assert first.limit is not None
    assert first.held_out is not None
    assert first.distance < first.limit < first.held_out
    assert any("privacy.json: failed: copies (image)" in reason for reason in judge(made.folder).reasons)


def test_the_page_tells_the_copy_from_the_others(copied: tuple[SyntheticSet, AuditResult]) -> None:
    house = render(release_page(judge(copied[0].folder), ("bids",), internal=True))
    assert "s007 and the training volume nearest to it" in house
    assert "counts as a copy" in house
    assert house.count("no copy by this measure</figcaption>") == 2
    public = render(release_page(judge(copied[0].folder), ("bids",), internal=False))
    assert "nearest to it, at" not in public
    assert public.count("data:image/png") == house.count("data:image/png") - 3


def test_too_few_people_are_inconclusive_which_refuses(folk: Path, tmp_path: Path) -> None:
    few = {"images": folk / "images", "first": 8}
    split = split_sha256(people(Cohort.model_validate(few)))
    made = make_set(tmp_path / "few", folk, textures(ITEMS, 1), training_split_sha256=split)
    result = audit(made.folder, options(folk, training=few, pictures=0))
    assert result.verdict is Outcome.INCONCLUSIVE
    assert result.reasons[0] == "too few people: 8 trained on and 22 others, 20 are needed on either side"
    assert any(reason.startswith("privacy.json: inconclusive") for reason in judge(made.folder).reasons)


def test_few_items_are_inconclusive_too(folk: Path, tmp_path: Path) -> None:
    made = make_set(tmp_path / "few", folk, textures(5, 1))
    result = audit(made.folder, options(folk, pictures=0))
    assert result.verdict is Outcome.INCONCLUSIVE
    assert "too few items: 5, 20 are needed" in result.reasons


def fewer(folk: Path) -> dict[str, object]:
    return {"training": {"images": folk / "images", "first": TRAINED - 1}}


def overlapping(folk: Path) -> dict[str, object]:
    return {"held_out": {"images": folk / "images", "last": OTHERS + 1}}


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (fewer, "not those that the set's generator was trained on"),
        (overlapping, "1 of the people held out are among those"),
    ],
)
def test_the_wrong_people_are_refused(
    wrong: Callable[[Path], dict[str, object]], told: str, honest: tuple[SyntheticSet, AuditResult], folk: Path
) -> None:
    before = (honest[0].folder / "privacy.json").read_bytes()
    with pytest.raises(ConfigError, match=told):
        audit(honest[0].folder, options(folk, **wrong(folk)))
    assert (honest[0].folder / "privacy.json").read_bytes() == before


def test_a_spoiled_set_is_not_examined(folk: Path, tmp_path: Path) -> None:
    made = make_set(tmp_path / "spoiled", folk, textures(2, 1))
    (made.folder / "images" / "s001.nii.gz").unlink()
    with pytest.raises(InputError, match="not what its records say"):
        audit(made.folder, options(folk))


class Killed(Exception):
    """Stands for a power cut."""


def test_an_audit_that_was_killed_goes_on(folk: Path, tmp_path: Path) -> None:
    made = make_set(tmp_path / "made", folk, textures(ITEMS + 4, 1))
    chosen = options(folk, pictures=0)

    def kill(done: int, total: int, what: str) -> None:
        if what == "comparing items with people, 20 of 24 done":
            raise Killed

    with pytest.raises(Killed):
        audit(made.folder, chosen, kill)
    kept = list((folk / "work").rglob("items-000000.npz"))
    assert len(kept) == 1
    before = kept[0].stat().st_mtime_ns
    seen: list[int] = []

    def watch(done: int, total: int, what: str) -> None:
        seen.extend(path.stat().st_mtime_ns for path in kept if path.exists())

    result = audit(made.folder, chosen, watch)
    assert set(seen) == {before}, "nothing is done twice"
    assert not kept[0].exists()
    for torn in (folk / "work").rglob("people-*/000000.npz"):  # as no atomic write leaves it: made again
        torn.write_bytes(torn.read_bytes()[:100])
    again = audit(made.folder, chosen)
    assert [metric.value for metric in again.metrics] == [metric.value for metric in result.metrics]


def test_copied_label_maps_are_sought_too(folk: Path, tmp_path: Path) -> None:
    items = textures(ITEMS, 1)
    made = make_set(tmp_path / "made", folk, items)
    places = {"images": folk / "images", "labels": folk / "labels"}
    cohorts = {"training": {**places, "first": TRAINED}, "held_out": {**places, "last": OTHERS}}
    result = audit(made.folder, options(folk, pictures=0, **cohorts))
    assert "copies (label maps)" in {metric.name for metric in result.metrics}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, folk: Path) -> Path:
    """A generator with random weights: it knows nobody."""
    who = load_people(people(Cohort(images=folk / "images", first=TRAINED)), SHAPE)
    spec = measure_spec(who, (), (), suffix="T1w")
    network = {"kind": "residual_unet", "channels": [8, 8], "blocks": 1}
    sizes = {"image": 1, "side": spec.side, "embedding": spec.embedding}
    built = GenerativeModel(build_network(**network, **sizes), spec)
    generator = torch.Generator().manual_seed(0)
    tensors = {name: 0.1 * torch.randn(t.shape, generator=generator) for name, t in built.state_dict().items()}
    path = tmp_path_factory.mktemp("models") / "nobody.safetensors"
    save_generator(path, network | sizes, spec, tensors, {"summary": "random weights, for tests"})
    return path


def test_the_model_is_attacked_if_it_is_the_sets(folk: Path, model: Path, tmp_path: Path) -> None:
    import hashlib

    digest = hashlib.sha256(model.read_bytes()).hexdigest()
    card = {"differential_privacy": {"epsilon": 8.0, "delta": 1e-3, "people": TRAINED, "accountant": "PRV 7.9"}}
    generator = {"name": "nobody", "sha256": digest, "card": card}
    made = make_set(tmp_path / "made", folk, textures(ITEMS, 1), generator=generator)
    result = audit(made.folder, options(folk, model=str(model), sigmas=(0.2, 0.5), draws=1, pictures=0))
    attacks = {metric.name: metric for metric in result.metrics}
    for name in ("loss", "PIA", "SimA"):
        assert attacks[f"membership AUC ({name})"].n == TRAINED + OTHERS
        assert attacks[f"membership AUC ({name})"].outcome is not Outcome.FAILED
    guarantee = read_report(PrivacyReport, made.folder).differential_privacy
    assert guarantee is not None
    assert guarantee.epsilon == 8


def test_another_model_is_refused(honest: tuple[SyntheticSet, AuditResult], folk: Path, model: Path) -> None:
    with pytest.raises(CheckpointError, match="made by another model"):
        audit(honest[0].folder, options(folk, model=str(model)))


@pytest.mark.slow
def test_features_are_a_second_space(folk: Path, tmp_path: Path) -> None:
    made = make_set(tmp_path / "made", folk, textures(ITEMS, 1))
    few = {"images": folk / "images", "last": 6}
    result = audit(made.folder, options(folk, encoder="features-t1", held_out=few, pictures=0))
    names = {metric.name for metric in result.metrics}
    assert {"copies (embedding)", "membership AUC (samples, embedding)"} <= names
    assert any("SHA-256" in note for note in read_report(PrivacyReport, made.folder).notes)


def test_the_command_refuses_with_the_reasons(
    copied: tuple[SyntheticSet, AuditResult], folk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "audit.yaml"
    config.write_text(json.dumps(options(folk, pictures=0).model_dump(mode="json")))  # JSON is YAML
    with pytest.raises(SystemExit) as ended:
        main(["audit", str(copied[0].folder), "--config", str(config), "--json"])
    assert ended.value.code == 4
    out, err = capsys.readouterr()
    assert json.loads(out)["verdict"] == "failed"
    assert "s007" in json.loads(out)["copies"]
    assert "copies (image): failed" in err
