"""The use case *synthesize*: a set that is whole, reproducible, resumable and true about itself."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from pydantic import ValidationError

from medidiff.cli.app import main
from medidiff.diffusion.generator import NumericCondition
from medidiff.errors import CheckpointError, ConfigError, GeometryError, InputError, OutputError
from medidiff.io.source import file_sha256
from medidiff.rng import derive_seed
from medidiff.synthesize import SynthesizeOptions, synthesize
from medidiff.synthetic import K, SyntheticSet, judge, rare_combinations
from tests.synthesizing import options as killable_options
from tests.tiny_generator import CARD, SHAPE, SPEC, label_map, write_tiny_generator


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_generator(tmp_path_factory.mktemp("model") / "tiny.safetensors")


def wish(model: Path, **more: Any) -> SynthesizeOptions:
    return SynthesizeOptions.model_validate({"model": str(model), "count": 3, "seed": 5, "steps": 2} | more)


def files(folder: Path) -> dict[str, bytes]:
    """Every file of a set; the moment at which it was begun is no part of what was drawn."""
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    record = json.loads(found.pop("set.json"))
    record.pop("created")
    return found | {"set.json": json.dumps(record).encode()}


def write_nifti(path: Path, data: np.ndarray, spacing: tuple[float, float, float] = SPEC.spacing_mm) -> Path:
    nibabel.save(nibabel.Nifti1Image(data, np.diag([*spacing, 1.0])), path)
    return path


def test_a_set_is_whole_and_says_what_made_it(model: Path, tmp_path: Path) -> None:
    result = synthesize(tmp_path / "set", wish(model, conditions={"volume_ml": 0.6}))
    made = SyntheticSet.open(tmp_path / "set")
    assert made.faults() == []
    assert (result.items, result.made, result.set_sha256) == (3, 3, made.sha256)
    record = made.record
    assert record.generator.sha256 == file_sha256(model)
    assert record.generator.card == CARD
    assert record.training_split_sha256 == CARD["training_split_sha256"]
    assert (record.licence, record.sources[0].name) == ("CC0-1.0", "nobody")
    assert [(entry.value, entry.name) for entry in record.labels] == [(1, "front"), (2, "back")]
    assert record.generator.sampler["evaluations"] == result.evaluations == 2
    assert record.public_conditions == ("volume_ml",)
    for number, item in enumerate(made.items):
        assert (item.seed, item.condition, item.suffix) == (derive_seed(5, number), {"volume_ml": 0.6}, "T1w")
        assert set(np.unique(made.label(item).data)) <= {0, 1, 2}
    assert result.preview == tmp_path / "set-preview.png"
    assert result.preview.read_bytes().startswith(b"\x89PNG")


def test_a_set_does_not_depend_on_the_batch_and_its_start_not_on_the_count(model: Path, tmp_path: Path) -> None:
    for name, more in {"one": {"batch": 1}, "four": {"batch": 4}, "longer": {"count": 5}}.items():
        synthesize(tmp_path / name, wish(model, **more))
    assert files(tmp_path / "one") == files(tmp_path / "four")
    for kind in ("images", "labels"):
        for path in (tmp_path / "one" / kind).iterdir():
            assert (tmp_path / "longer" / kind / path.name).read_bytes() == path.read_bytes()


def test_numbers_are_asked_for_as_they_were_spread_in_training(model: Path, tmp_path: Path) -> None:
    plain, spread = (synthesize(tmp_path / f"{on}", wish(model, count=6, spread=on)) for on in (False, True))
    assert plain.evaluations == spread.evaluations
    items = SyntheticSet.open(spread.folder).items
    known = [entry for entry in SPEC.conditions if isinstance(entry, NumericCondition)]
    for entry in known:
        asked = [float(item.condition[entry.name]) for item in items]  # type: ignore[arg-type]
        assert len(set(asked)) == 6
        assert all(entry.low <= value <= entry.high for value in asked)
    assert known
    assert all(not item.condition for item in SyntheticSet.open(plain.folder).items)
    mixed = synthesize(tmp_path / "mixed", wish(model, spread=True, conditions={"volume_ml": 0.6}))
    assert {item.condition["volume_ml"] for item in SyntheticSet.open(mixed.folder).items} == {0.6}


@pytest.mark.parametrize("given", ["labels", "vary"])
def test_a_given_map_or_scan_has_numbers_of_its_own(given: str, tmp_path: Path) -> None:
    options = SynthesizeOptions.model_validate({given: tmp_path, "spread": True, "guidance_scale": 2.0, "steps": 5})
    assert not options.draws_numbers
    assert options.evaluations == 5
    assert options.model_copy(update={given: None}).evaluations == 10


def test_drawn_numbers_have_the_mean_and_spread_of_training() -> None:
    entry = NumericCondition(name="volume_ml", mean=3.0, std=0.5, low=1.0, high=5.0)
    drawn = [entry.draw(seed) for seed in range(2000)]
    assert np.mean(drawn) == pytest.approx(3.0, abs=0.04)
    assert np.std(drawn) == pytest.approx(0.5, abs=0.03)
    narrow = NumericCondition(name="volume_ml", mean=3.0, std=0.5, low=2.9, high=3.0)
    assert all(2.9 <= narrow.draw(seed) <= 3.0 for seed in range(50))


def test_two_runs_at_one_told_moment_are_one_set(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    first, again = (synthesize(tmp_path / name, wish(model)) for name in ("first", "again"))
    assert first.set_sha256 == again.set_sha256
    assert (first.folder / "set.json").read_bytes() == (again.folder / "set.json").read_bytes()
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "tomorrow")
    with pytest.raises(ConfigError, match="seconds since 1970"):
        synthesize(tmp_path / "never", wish(model))
    assert not (tmp_path / "never").exists()


def test_another_seed_is_another_set(model: Path, tmp_path: Path) -> None:
    first, second = (synthesize(tmp_path / str(seed), wish(model, seed=seed)) for seed in (0, 1))
    images = [next((result.folder / "images").glob("*.nii.gz")).read_bytes() for result in (first, second)]
    assert images[0] != images[1]


@pytest.mark.parametrize("kills", [(1,), (3, 6, 9)], ids=["once", "three times"])
def test_a_killed_run_is_gone_on_from_with_the_same_bytes(model: Path, tmp_path: Path, kills: tuple[int, ...]) -> None:
    whole = synthesize(tmp_path / "whole", killable_options(model))
    killed = tmp_path / "killed"
    for after in kills:
        _start_and_kill(model, killed, after)
        assert not (killed / "set.json").exists()
    rest = synthesize(killed, killable_options(model))
    assert 0 < rest.made < whole.made == 12
    assert files(killed) == files(tmp_path / "whole")
    assert rare_combinations(SyntheticSet.open(killed).items, K) == []


def _start_and_kill(model: Path, folder: Path, after: int) -> None:
    command = [sys.executable, "-m", "tests.synthesizing", str(model), str(folder)]
    run = subprocess.Popen(command, cwd=Path(__file__).parents[1], stdout=subprocess.PIPE, text=True)
    assert run.stdout is not None
    for line in run.stdout:
        if int(line.split()[0]) >= after:
            break
    os.kill(run.pid, signal.SIGKILL)
    run.communicate()


def test_a_finished_set_is_not_made_again_nor_mixed_with_another(model: Path, tmp_path: Path) -> None:
    first = synthesize(tmp_path / "set", wish(model))
    again = synthesize(tmp_path / "set", wish(model))
    assert (again.made, again.set_sha256) == (0, first.set_sha256)
    with pytest.raises(ConfigError, match=r"another seed is there"):
        synthesize(tmp_path / "set", wish(model, seed=6))
    with pytest.raises(ConfigError, match=r"another count \(or other options"):
        synthesize(tmp_path / "set", wish(model, count=4))
    with pytest.raises(ConfigError, match=r"another generator, or sampler \(steps"):
        synthesize(tmp_path / "set", wish(model, steps=3))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.txt").write_text("mine")
    with pytest.raises(OutputError):
        synthesize(tmp_path / "other", wish(model))


def test_images_are_drawn_for_given_label_maps(model: Path, tmp_path: Path) -> None:
    (tmp_path / "maps").mkdir()
    maps = [label_map(seed) for seed in (1, 2)]
    for name, each in zip("ab", maps, strict=True):
        write_nifti(tmp_path / "maps" / f"{name}.nii.gz", each)
    result = synthesize(tmp_path / "set", wish(model, labels=tmp_path / "maps", count=4))
    made = SyntheticSet.open(result.folder)
    for number, item in enumerate(made.items):
        np.testing.assert_array_equal(made.label(item).data[0], maps[number % 2])
        assert item.condition == {"label_map": "given"}
    images = [made.image(item).data for item in made.items]
    assert not np.array_equal(images[0], images[2]), "one map, two seeds: two images"
    assert "given" in made.record.note
    for each in ("a", "b"):
        (tmp_path / "maps" / f"{each}.nii.gz").rename(tmp_path / "maps" / f"renamed-{each}.nii.gz")
    assert synthesize(tmp_path / "set", wish(model, labels=tmp_path / "maps", count=4)).made == 0
    write_nifti(tmp_path / "maps" / "renamed-b.nii.gz", label_map(3))
    with pytest.raises(ConfigError, match="generator"):
        synthesize(tmp_path / "set", wish(model, labels=tmp_path / "maps", count=4))


def test_a_label_map_smaller_than_the_grid_keeps_its_size(model: Path, tmp_path: Path) -> None:
    small = label_map(1, (12, 16, 10))
    write_nifti(tmp_path / "map.nii.gz", small)
    made = SyntheticSet.open(synthesize(tmp_path / "set", wish(model, labels=tmp_path / "map.nii.gz", count=1)).folder)
    np.testing.assert_array_equal(made.label(made.items[0]).data[0], small)


def test_variations_of_a_scan_say_so(model: Path, tmp_path: Path) -> None:
    scan = np.random.default_rng(0).uniform(0, 900, SHAPE).astype(np.float32)
    write_nifti(tmp_path / "scan.nii.gz", scan)
    result = synthesize(tmp_path / "set", wish(model, vary=tmp_path / "scan.nii.gz", strength=0.3, count=2))
    made = SyntheticSet.open(result.folder)
    assert {(item.condition["variation"], item.condition["strength"]) for item in made.items} == {(True, 0.3)}
    assert "variation of one given scan" in made.record.note
    assert made.record.description == "Variations of one given scan, by the generator tiny."
    assert [told for told in judge(result.folder).reasons if "whom no audit compared them with" in told]


@pytest.mark.parametrize(
    ("given", "says"), [("vary", "Variations of one given scan."), ("labels", "given label maps.")]
)
def test_what_was_given_is_said_whatever_a_user_writes(model: Path, tmp_path: Path, given: str, says: str) -> None:
    write_nifti(tmp_path / "given.nii.gz", label_map(1))
    more = {given: tmp_path / "given.nii.gz", "count": 1, "description": "Heads of nobody."}
    made = SyntheticSet.open(synthesize(tmp_path / "set", wish(model, **more)).folder)
    assert made.record.description.endswith(says)


def test_a_variation_that_changes_nothing_is_refused(model: Path, tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match=r"strength\n.*greater than 0"):
        wish(model, vary=tmp_path / "scan.nii.gz", strength=0)


@pytest.mark.parametrize(
    ("data", "spacing", "error", "message"),
    [
        (np.full(SHAPE, 9, np.uint8), SPEC.spacing_mm, InputError, "values 9; this generator knows 0, 1, 2"),
        (label_map(0), (1.0, 1.0, 1.0), GeometryError, "resample it first"),
        (np.zeros(SHAPE, np.uint8), SPEC.spacing_mm, InputError, "no structure in this label map"),
    ],
)
def test_a_label_map_that_does_not_fit_is_refused_before_anything_is_written(
    model: Path, tmp_path: Path, data: np.ndarray, spacing: Any, error: type[Exception], message: str
) -> None:
    write_nifti(tmp_path / "map.nii.gz", data, spacing)
    with pytest.raises(error, match=message):
        synthesize(tmp_path / "set", wish(model, labels=tmp_path / "map.nii.gz"))
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize("spoil", ["values", "text", "spacing"])
def test_a_label_map_of_a_folder_is_told_by_number_and_not_by_name(model: Path, tmp_path: Path, spoil: str) -> None:
    folder = tmp_path / "maps"
    folder.mkdir()
    write_nifti(folder / "a.nii.gz", label_map(0))
    bad = folder / "mayer_anna.nii.gz"
    write_nifti(bad, np.full(SHAPE, 9, np.uint8), (2.0, 2.0, 9.0) if spoil == "spacing" else SPEC.spacing_mm)
    if spoil == "text":
        bad.write_text("not a volume")
    with pytest.raises((InputError, GeometryError), match="label map 2 in the order of names: ") as told:
        synthesize(tmp_path / "set", wish(model, labels=folder))
    assert "mayer" not in str(told.value)
    assert not (tmp_path / "set").exists()


def test_a_wish_that_cannot_be_granted_writes_nothing(model: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no condition weight"):
        synthesize(tmp_path / "set", wish(model, conditions={"weight": 70.0}))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no label map"):
        synthesize(tmp_path / "set", wish(model, labels=tmp_path / "empty"))
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize("missing", ["sources", "samples_licence", "training_split_sha256"])
def test_a_generator_without_licences_makes_no_set(tmp_path: Path, missing: str) -> None:
    bare = write_tiny_generator(tmp_path / "g.safetensors", card={k: v for k, v in CARD.items() if k != missing})
    with pytest.raises(CheckpointError, match=missing):
        synthesize(tmp_path / "set", wish(bare))


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"sources": "x"}, "the card of the generator g: sources: Input should be a valid tuple"),
        ({"sources": [{"name": "x", "licence": "CC0-1.0"}]}, "g: sources.0.people: Field required"),
        ({"sources": [5]}, "g: sources.0: Input should be"),
        ({"label_codes": [1]}, "g: label_codes: expected a dict"),
        ({"label_codes": {"2": {"value": "1"}}}, "g: labels.1.code.scheme: Field required"),
        ({"public_conditions": 5}, "g: public_conditions: expected a list"),
        ({"samples_licence": 5}, "g: licence: Input should be a valid string"),
    ],
)
def test_a_card_that_does_not_fit_is_told_with_its_place(tmp_path: Path, entry: dict[str, Any], message: str) -> None:
    bad = write_tiny_generator(tmp_path / "g.safetensors", card=CARD | entry)
    with pytest.raises(CheckpointError, match=re.escape(message)):
        synthesize(tmp_path / "set", wish(bad))
    assert not (tmp_path / "set").exists()


def test_the_command_makes_a_set(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "wish.yaml"
    config.write_text(f"kind: synthesize\nmodel: {model}\ncount: 9\nsteps: 2\nmetadata: {{sex: {{male: 1}}}}\n")
    words = ["synthesize", str(config), "-o", str(tmp_path / "set"), "--count", "6", "--condition", "sex=male"]
    with pytest.raises(SystemExit) as ended:
        main([*words, "--condition", "volume_ml=0.5", "--guidance", "2", "--json"])
    assert ended.value.code == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["items"], told["evaluations an item"]) == (6, 4)
    made = SyntheticSet.open(tmp_path / "set")
    assert {(item.metadata.sex, item.condition["sex"], item.condition["volume_ml"]) for item in made.items} == {
        ("male", "male", 0.5)
    }


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--condition", "volume_ml"], 2, "expected NAME=VALUE"),
        (["--condition", "volume_ml=3_0"], 2, "expected a number of plain digits"),
        (["--condition", "volume_ml=\uff13.\uff10"], 2, "expected a number of plain digits"),
        (["--solver", "magic"], 2, "solver"),
        (["--device", "toaster"], 2, "use cpu or cuda"),
        (["--device", "meta"], 2, "expected cpu or cuda"),
        (["--labels", "a", "--vary", "b"], 2, "labels or vary"),
        (["--model", "nobody"], 1, "no model nobody"),
        (["--model", "brain-t1"], 1, "not a generator of synthetic volumes"),
    ],
)
def test_mistakes_are_one_line(
    words: list[str], code: int, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["synthesize", "-o", str(tmp_path / "set"), *words])
    assert ended.value.code == code
    told = capsys.readouterr().err.strip()
    assert message in told
    assert "\n" not in told


def test_restoring_with_a_generator_is_one_line(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    thick = np.random.default_rng(0).uniform(0, 900, (24, 24, 8)).astype(np.float32)
    scan = write_nifti(tmp_path / "thick.nii.gz", thick, (1.0, 1.0, 4.0))
    with pytest.raises(SystemExit) as ended:
        main(["reconstruct", str(scan), "-o", str(tmp_path / "o.nii.gz"), "--model", str(model)])
    assert ended.value.code == 1
    told = capsys.readouterr().err.strip().splitlines()
    assert told[-1].endswith("restores nothing: use it with `medidiff synthesize`")
    assert not (tmp_path / "o.nii.gz").exists()
