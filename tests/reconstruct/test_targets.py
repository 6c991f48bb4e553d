"""Where results may go: never over the input, a sidecar or one another; said before any work."""

from __future__ import annotations

from pathlib import Path

import pytest

from medidiff.errors import EXIT_USAGE, OutputError, TargetError
from medidiff.io import write_volume
from medidiff.io.places import default_output
from medidiff.reconstruct import ReconstructOptions, reconstruct
from tests.reconstruct.scans import CASES, scan


def test_a_sample_never_falls_on_the_input(model: str, tmp_path: Path) -> None:
    write_volume(scan(CASES["axial"].geometry), tmp_path / "a_sample-01.nii")
    with pytest.raises(TargetError, match="it is the input"):
        reconstruct(tmp_path / "a_sample-01.nii", tmp_path / "a.nii", ReconstructOptions(model=model, samples=1))


def test_the_folder_one_stands_in_has_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "exam.1"
    folder.mkdir()
    monkeypatch.chdir(folder)
    assert default_output(Path()) == tmp_path / "exam.1_medidiff.nii.gz"
    assert default_output(Path("scan.nrrd")) == Path("scan_medidiff.nrrd")
    assert default_output(Path("a/scan.nii")) == Path("a/scan_medidiff.nii.gz")


def test_a_sidecar_of_the_scan_is_not_overwritten(model: str, tmp_path: Path) -> None:
    write_volume(scan(CASES["axial"].geometry), tmp_path / "bids.nii")
    sidecar = tmp_path / "bids.json"
    sidecar.write_text('{"EchoTime": 0.1}')
    with pytest.raises(OutputError, match="no record of medidiff"):
        reconstruct(tmp_path / "bids.nii", tmp_path / "bids.nrrd", ReconstructOptions(model=model))
    assert sidecar.read_text() == '{"EchoTime": 0.1}'
    for _ in range(2):  # a record of ours may be replaced
        reconstruct(tmp_path / "bids.nii", tmp_path / "b.nii", ReconstructOptions(fast=True))


@pytest.mark.parametrize("name", ["a.nii", "here/../a.nii", "soft.nii", "hard.nii"])
def test_the_input_is_refused_as_output_before_the_work(name: str, model: str, tmp_path: Path) -> None:
    source = tmp_path / "a.nii"
    write_volume(scan(CASES["axial"].geometry), source)
    (tmp_path / "here").mkdir()
    (tmp_path / "soft.nii").symlink_to(source)
    (tmp_path / "hard.nii").hardlink_to(source)
    before, planned = source.read_bytes(), list[object]()
    with pytest.raises(TargetError, match="it is the input; choose another name") as told:
        reconstruct(source, tmp_path / name, ReconstructOptions(model=model), on_plan=planned.append)
    assert told.value.exit_code == EXIT_USAGE, "as any other slip on the command line"
    assert not planned
    assert source.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.nii", "hard.nii", "here", "soft.nii"]


@pytest.mark.parametrize("name", [".", "", ".."])
def test_an_output_without_a_name_is_refused(name: str, tmp_path: Path) -> None:
    write_volume(scan(CASES["axial"].geometry), tmp_path / "a.nii")
    with pytest.raises(TargetError, match="name a file"):
        reconstruct(tmp_path / "a.nii", Path(name), ReconstructOptions(fast=True))


@pytest.mark.parametrize("place", [{"preview": Path("p.jpgx")}, {"report": Path("r.pdf")}])
def test_a_picture_is_not_written_under_a_foreign_name(place: dict[str, Path], tmp_path: Path) -> None:
    write_volume(scan(CASES["axial"].geometry), tmp_path / "a.nii")
    with pytest.raises(TargetError, match="must end in"):
        reconstruct(tmp_path / "a.nii", tmp_path / "b.nii", ReconstructOptions(fast=True, **place))
