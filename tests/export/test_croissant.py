"""Croissant metadata of a synthetic set: mlcroissant reads it, loads its records, and finds what RAI asks for."""

from __future__ import annotations

import hashlib
import json
import socket
from pathlib import Path
from typing import Any

import pytest

from medidiff.export.croissant import write_croissant
from medidiff.synthetic import SyntheticSet
from tests.synthetic.sets import privacy, quality


@pytest.fixture
def written(pristine: Path, tmp_path: Path) -> Path:
    synthetic = SyntheticSet.open(pristine)
    write_croissant(synthetic, quality(synthetic), privacy(synthetic), tmp_path / "croissant")
    return tmp_path / "croissant"


@pytest.fixture
def mlcroissant(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The validator of the format's authors, with no way out."""
    found = pytest.importorskip("mlcroissant", reason="mlcroissant is not installed")

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the metadata makes its reader go to the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    return found


def test_its_authors_program_reads_it(written: Path, mlcroissant: Any, caplog: pytest.LogCaptureFixture) -> None:
    dataset = mlcroissant.Dataset(str(written / "croissant.json"))
    issues = dataset.metadata.ctx.issues
    assert not issues.errors
    assert not issues.warnings
    records = list(dataset.records("items"))
    assert len(records) == 10
    for record in records:
        assert record["items/synthetic"] is True
        image = written / record["items/image"].decode()
        assert hashlib.sha256(image.read_bytes()).hexdigest() == record["items/image_sha256"].decode()
        label = written / record["items/label"].decode()
        assert hashlib.sha256(label.read_bytes()).hexdigest() == record["items/label_sha256"].decode()
    metadata = dataset.metadata
    assert metadata.data_limitations
    assert "No record of a person" in str(metadata.personal_sensitive_information)
    assert "near copies 0 [0, 0.02] (n = 40 patients)" in str(metadata.data_social_impact)
    assert "152 people" in str(metadata.data_collection)


def test_its_authors_program_sees_what_is_wrong(written: Path, mlcroissant: Any) -> None:
    path = written / "croissant.json"
    value = json.loads(path.read_text())
    del value["recordSet"][0]["field"][0]["source"]["fileObject"]
    path.write_text(json.dumps(value))
    with pytest.raises(mlcroissant.ValidationError):
        mlcroissant.Dataset(str(path))


def test_the_hash_of_the_table_is_that_of_the_table(written: Path) -> None:
    value = json.loads((written / "croissant.json").read_text())
    (table,) = [entry for entry in value["distribution"] if entry["@type"] == "cr:FileObject"]
    assert table["sha256"] == hashlib.sha256((written / "items.csv").read_bytes()).hexdigest()
    for entry in value["distribution"]:
        if entry["@type"] == "cr:FileSet":
            assert len(list(written.glob(entry["includes"]))) == 10
    assert value["license"] == "https://spdx.org/licenses/CC-BY-4.0.html"
    assert value["datePublished"] == "2026-03-04T05:06:07"
