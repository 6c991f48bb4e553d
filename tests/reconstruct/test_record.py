"""The record beside a result: how and not who, of this result and no older one."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from medidiff.errors import OutputError
from medidiff.io import write_volume
from medidiff.reconstruct import ReconstructOptions, reconstruct
from tests.reconstruct.scans import CASES, scan


def test_the_record_says_how_and_not_who(model: str, tmp_path: Path) -> None:
    source = tmp_path / "DOE_JANE_19610203.nii.gz"
    write_volume(scan(CASES["oblique"].geometry), source)
    options = ReconstructOptions(model=model, preview=tmp_path / "p.png", report=tmp_path / "r.html")
    reconstruct(source, tmp_path / "out.nii.gz", options)
    text = (tmp_path / "out.json").read_text()
    record = json.loads(text)
    assert record["model"]["sha256"] == hashlib.sha256(Path(model).read_bytes()).hexdigest()
    assert record["operators"][0]["factor"] == pytest.approx(4, rel=1e-4)
    assert record["operators"][0]["kind"] == "slices"
    assert {"medidiff", "torch", "rule", "seed", "device", "data_consistency_nrmse", "seconds"} <= set(record)
    for written in (text.encode(), (tmp_path / "r.html").read_bytes(), (tmp_path / "p.png").read_bytes()):
        assert b"DOE_JANE" not in written
        assert str(tmp_path).encode() not in written


def test_an_older_record_does_not_outlive_its_volume(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_volume(scan(CASES["axial"].geometry), tmp_path / "scan.nii")
    reconstruct(tmp_path / "scan.nii", tmp_path / "out.nii", ReconstructOptions(model=model))
    assert (tmp_path / "out.json").exists()
    (tmp_path / "page.html").symlink_to(tmp_path / "missing" / "page.html")  # passes every check, fails when written
    with pytest.raises(OutputError):
        reconstruct(
            tmp_path / "scan.nii", tmp_path / "out.nii", ReconstructOptions(model=model, report=tmp_path / "page.html")
        )
    assert not (tmp_path / "out.json").exists()
