"""The manifest and the split."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medidiff.data.manifest import ManifestRecord, read_manifest, split_of, write_manifest
from medidiff.errors import ConfigError, InputError


def record(name: str, subject: str = "MDA") -> ManifestRecord:
    return ManifestRecord(
        id=name, path=f"sub-{subject}/{name}.nii.gz", subject=subject, session="s", modality="MR", suffix="T1w",
        split="train", usable=False, reasons=("too few slices: 4",), sha256="0", voxels_sha256="1",
        shape=(4, 5, 6), frames=1, spacing=(1.0, 1.0, 2.5), slice_thickness=None, orientation="RAS",
        quality={"snr": 12.5, "noise": None}, source={"files": 6},
    )  # fmt: skip


def test_records_survive_the_file_in_one_order(tmp_path: Path) -> None:
    records = [record("b"), record("a"), record("c", "MDB")]
    write_manifest(records, tmp_path / "manifest.jsonl")
    first = (tmp_path / "manifest.jsonl").read_bytes()
    write_manifest(records[::-1], tmp_path / "manifest.jsonl")
    assert (tmp_path / "manifest.jsonl").read_bytes() == first
    assert list(read_manifest(tmp_path)) == sorted(records, key=lambda item: item.path)


@pytest.mark.parametrize("line", ["{", "[]", "3", '{"id": "x"}', '{"surprise": 1}'])
def test_a_damaged_line_is_named(line: str, tmp_path: Path) -> None:
    write_manifest([record("a")], tmp_path / "manifest.jsonl")
    with (tmp_path / "manifest.jsonl").open("a") as stream:
        stream.write(line + "\n")
    with pytest.raises(InputError, match=r"manifest\.jsonl:2"):
        list(read_manifest(tmp_path))


def test_no_manifest_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no manifest"):
        list(read_manifest(tmp_path))


def test_shares_are_met_and_nobody_moves() -> None:
    subjects = [f"MD{number}" for number in range(4000)]
    counts = Counter(split_of(subject, (0.7, 0.2, 0.1)) for subject in subjects)
    assert counts["train"] == pytest.approx(2800, abs=90)
    assert counts["validation"] == pytest.approx(800, abs=80)
    # A larger share of training takes from the neighbour, and moves nobody away from training.
    moved = {
        subject for subject in subjects if split_of(subject, (0.7, 0.2, 0.1)) != split_of(subject, (0.8, 0.1, 0.1))
    }
    assert {split_of(subject, (0.8, 0.1, 0.1)) for subject in moved} == {"train"}


@given(st.tuples(st.floats(-0.5, 1.5), st.floats(-0.5, 1.5), st.floats(-0.5, 1.5)))
def test_shares_that_are_no_parts_are_refused(shares: tuple[float, float, float]) -> None:
    if min(shares) >= 0 and abs(sum(shares) - 1) <= 1e-9:
        assert split_of("MDA", shares) in ("train", "validation", "test")
    else:
        with pytest.raises(ConfigError, match="three parts"):
            split_of("MDA", shares)
