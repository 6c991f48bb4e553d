"""The benchmark runs from one command, goes on where it stopped, and says so when we lose."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from benchmarks.superresolution import summary
from benchmarks.superresolution.__main__ import main
from benchmarks.superresolution.cases import GROUPS, TUNING, Case, Group, Truth
from benchmarks.superresolution.rivals import BASELINE, RIVALS


@pytest.fixture(scope="module")
def finished(mni_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("benchmark")
    main(["--out", str(out), "--volume", str(mni_path), "--quick", "--method", *RIVALS])
    return out


def read(out: Path) -> list[dict[str, str]]:
    with (out / "superresolution.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_one_command_writes_rows_figure_and_table(finished: Path) -> None:
    rows = read(finished)
    assert {r["method"] for r in rows} >= set(RIVALS)
    table = (finished / "superresolution.md").read_text()
    assert all(f"| {method} |" in table for method in RIVALS)
    assert "torch" in table
    assert (finished / "superresolution.png").read_bytes().startswith(b"\x89PNG")
    baseline = next(r for r in rows if r["method"] == BASELINE)
    assert float(baseline["gain"]) == 0
    for row in rows:
        assert float(row["psnr_low"]) < float(row["psnr"]) < float(row["psnr_high"])
        assert float(row["gain"]) == pytest.approx(float(row["psnr"]) - float(baseline["psnr"]), abs=2e-3)
        assert row["person"] == "volume 1"  # never the name of the user's file


def test_a_second_run_computes_only_what_is_missing(finished: Path, mni_path: Path) -> None:
    before = read(finished)
    arguments = ["--out", str(finished), "--volume", str(mni_path), "--quick", "--resume", "--method", "linear"]
    main(arguments)
    assert read(finished) == before  # seconds included: nothing ran again
    main([*arguments, "--factors", "3"])
    new = [r for r in read(finished) if r not in before]
    assert {r["factor"] for r in new} == {"3"}
    assert {r["method"] for r in new} == {"linear", BASELINE}


def test_losses_are_told() -> None:
    won = {
        "person": "p",
        "factor": "4",
        "profile": "box",
        "axis": "k",
        "method": "medidiff",
        "version": "abc",
        "gain": "1.2",
    }
    lost = won | {"axis": "i", "gain": "-0.25"}
    rival = lost | {"method": "linear", "version": ""}
    assert summary.losses([won, lost, rival]) == [f"medidiff is 0.25 dB below {BASELINE} on p x4 box i"]


def test_nobody_is_scored_that_was_tuned_on(shared: Path) -> None:
    assert not any(group.trained_on([TUNING.files], shared / "data") for group in GROUPS.values())
    assert GROUPS["ms-flair"].trained_on(["spine-sct/*", "brain-ms-ljubljana/*FLAIR_brain*.nii.gz"], shared / "data")


def test_many_people_are_held_out_by_name(shared: Path) -> None:
    people = GROUPS["hippocampus"].people(shared / "data")
    paths = sorted((shared / "data/msd-hippocampus/images").glob("*.nii.gz"))
    assert [path for _, path in people] == paths[160:]
    assert people[0][0] == "hippocampus 01"


def test_the_interval_is_over_people_where_there_are_many() -> None:
    row = {"gain": "1", "gain_low": "0.9", "gain_high": "1.1", "blocks": "12"}
    one = summary.gain([row | {"person": "a"}, row | {"person": "a", "gain": "2"}])
    assert (one.value, one.unit) == (1.5, "block")
    many = summary.gain([row | {"person": f"p{n}", "gain": str(n)} for n in range(9)])
    assert many.value == pytest.approx(4)
    assert many.unit == "person"
    assert 2 < many.low < 3
    assert 5 < many.high < 6


def test_a_crop_lies_where_it_lay(mni_path: Path) -> None:
    group = Group("mni", "", "")
    whole, part = Truth.load(mni_path, "w", group), Truth.load(mni_path, "p", group, crop=40)
    index = np.array([3, 5, 7])
    world = part.volume.geometry.to_world(index)
    there = np.round(whole.volume.geometry.to_index(world)).astype(int)
    assert part.volume.data[(0, *index)] == whole.volume.data[(0, *there)]
    assert part.mask[tuple(index)] == whole.mask[tuple(there)]


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_case_slices_the_axis_it_names(axis: int) -> None:
    shape = (24, 28, 32)
    expected = list(shape)
    expected[axis] //= 4
    assert Case(4.0, "box", axis).operator(shape).out_shape[1:] == tuple(expected)
