"""Models as MONAI bundles: MONAI's own checks pass, and a bundle gives the bits that the command line gives."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medidiff.diffusion.generator import load_generator
from medidiff.errors import CheckpointError, OutputError
from medidiff.export.bundle import GENERATOR, RESTORER, write_bundle
from medidiff.export.bundled import DenoiserAt, OneLook
from medidiff.geometry import Geometry
from medidiff.io import read_volume, write_volume
from medidiff.models import FOLDER, shipped_models
from medidiff.reconstruct import ReconstructOptions, reconstruct
from medidiff.synthesize import SynthesizeOptions, synthesize
from medidiff.volume import Volume
from tests.tiny_generator import SHAPE, write_tiny_generator
from tests.tiny_model import write_tiny_model

RUNNABLE = [model.name for model in shipped_models() if model.header["format"] in (RESTORER, GENERATOR)]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundles")
    return write_bundle(write_tiny_model(folder / "tiny.safetensors"), folder / "tiny")


@pytest.fixture(scope="module")
def scan(mni: Volume, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Slices of 16 mm, of a part of the head at 4 mm."""
    data = mni.data[:, ::4, ::4, ::4][:, 8:32, 8:40, 8:32].reshape(1, 24, 32, 6, 4).mean(-1)
    affine = mni.geometry.affine @ np.diag([4.0, 4, 16, 1])
    path = tmp_path_factory.mktemp("scans") / "head.nii.gz"
    write_volume(Volume(np.ascontiguousarray(data), Geometry(affine, data.shape[1:])), path)
    return path


def files_of(bundle: Path) -> dict[str, Any]:
    return {
        "config_file": str(bundle / "configs" / "inference.json"),
        "meta_file": str(bundle / "configs" / "metadata.json"),
        "bundle_root": str(bundle),
    }


def test_a_bundle_gives_the_bits_of_the_command_line(bundle: Path, scan: Path, tmp_path: Path) -> None:
    from monai.bundle import run

    run(**files_of(bundle), dataset_dir=str(scan.parent), output_dir=str(tmp_path / "out"), device="cpu")
    options = ReconstructOptions(model=str(bundle.parent / "tiny.safetensors"), device="cpu")
    expected = reconstruct(scan, tmp_path / "head.nii.gz", options)
    found = tmp_path / "out" / "head_medidiff.nii.gz"
    assert found.read_bytes() == expected.output.read_bytes()
    records = [
        json.loads(path.with_name(path.name.replace(".nii.gz", ".json")).read_text())
        for path in (found, expected.output)
    ]
    for record in records:
        del record["seconds"], record["peak_memory_mb"]
    assert records[0] == records[1]
    # The tiny network's answer is wrong, but it is an answer: without a network the voxels are others.
    plain = reconstruct(scan, tmp_path / "plain.nii.gz", ReconstructOptions(fast=True))
    assert not np.array_equal(read_volume(plain.output).data, read_volume(found).data)


def test_monai_finds_all_that_a_bundle_needs(bundle: Path, scan: Path) -> None:
    from monai.bundle import ConfigWorkflow

    files = files_of(bundle)
    workflow = ConfigWorkflow(files["config_file"], files["meta_file"], workflow_type="inference", logging_file=False)
    workflow.bundle_root, workflow.dataset_dir = files["bundle_root"], str(scan.parent)
    workflow.initialize()
    assert workflow.check_properties() == []


@pytest.mark.parametrize("name", RUNNABLE)
def test_every_model_that_ships_passes_monais_check_of_its_network(name: str, tmp_path: Path) -> None:
    from monai.bundle import verify_net_in_out

    folder = write_bundle(name, tmp_path / name)
    verify_net_in_out(net_id="network_def", device="cpu", n=2, **files_of(folder))
    weights = folder / "models" / f"{name}.safetensors"
    assert weights.read_bytes() == (FOLDER / weights.name).read_bytes()
    assert {path.suffix for path in folder.rglob("*") if path.is_file()} <= {".json", ".md", ".txt", ".safetensors", ""}
    card = json.loads((folder / "configs" / "metadata.json").read_text())["medidiff_card"]
    page = (folder / "docs" / "README.md").read_text()
    assert all(key in page for key in card)
    assert (folder / "LICENSE").read_text().strip()


def test_the_check_of_monai_does_find_a_wrong_network(bundle: Path, tmp_path: Path) -> None:
    from monai.bundle import verify_net_in_out

    files = files_of(bundle)
    meta = json.loads(Path(files["meta_file"]).read_text())
    meta["network_data_format"]["outputs"]["pred"]["num_channels"] = 2
    files["meta_file"] = str(tmp_path / "metadata.json")
    Path(files["meta_file"]).write_text(json.dumps(meta))
    with pytest.raises(ValueError, match="output channel number"):
        verify_net_in_out(net_id="network_def", device="cpu", n=2, **files)


def test_the_metadata_say_what_the_specification_asks_for(bundle: Path) -> None:
    meta = json.loads((bundle / "configs" / "metadata.json").read_text())
    texts = (
        "version",
        "monai_version",
        "pytorch_version",
        "numpy_version",
        "task",
        "description",
        "authors",
        "copyright",
    )
    assert all(isinstance(meta[key], str) and meta[key] for key in texts)
    assert "+" not in meta["pytorch_version"]
    assert "medidiff" in meta["required_packages_version"]
    for side, name in (("inputs", "image"), ("outputs", "pred")):
        tensor = meta["network_data_format"][side][name]
        assert len(tensor["channel_def"]) == tensor["num_channels"]
        assert len(tensor["spatial_shape"]) == 3


def test_one_look_is_the_posterior_mean_for_a_known_task(bundle: Path) -> None:
    network = OneLook(str(bundle / "models" / "tiny.safetensors"), {"factor": 4.0})
    x = torch.rand(2, 2, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        both, one = network(x), network(x[1:])
    assert both.shape == (2, 1, 16, 16, 16)
    torch.testing.assert_close(both[1:], one)
    assert not torch.equal(both, x[:, :1])


def test_a_generators_bundle_denoises_its_channels_and_makes_the_set_of_the_command_line(tmp_path: Path) -> None:
    from monai.bundle import run, verify_net_in_out

    path = write_tiny_generator(tmp_path / "gen.safetensors")
    folder = write_bundle(path, tmp_path / "gen")
    verify_net_in_out(net_id="network_def", device="cpu", **files_of(folder))
    x = torch.randn(2, 3, *SHAPE, generator=torch.Generator().manual_seed(0))
    model, _ = load_generator(path)
    with torch.no_grad():
        wanted = model.given(model.conditions([{}, {}]))(x, torch.ones(2))
        assert torch.equal(DenoiserAt(str(path), 1.0)(x), wanted)

    changes: dict[str, Any] = {"device": "cpu", "count": 2, "seed": 5, "options#steps": 2}
    run(**files_of(folder), output_dir=str(tmp_path / "out"), **changes)
    options = SynthesizeOptions(model=str(path), count=2, seed=5, steps=2, device="cpu")
    made = synthesize(tmp_path / "plain", options)
    assert made.items == 2
    for kind in ("images", "labels"):
        found = {file.name: file.read_bytes() for file in (tmp_path / "out" / "synthetic" / kind).glob("*.nii.gz")}
        assert found == {file.name: file.read_bytes() for file in (tmp_path / "plain" / kind).glob("*.nii.gz")}
        assert len(found) == 2


def test_what_is_in_the_way_is_told(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="exists"):
        write_bundle(bundle.parent / "tiny.safetensors", bundle)
    with pytest.raises(CheckpointError, match="no model nobody"):
        write_bundle("nobody", tmp_path / "x")
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        write_bundle(bundle.parent / "tiny.safetensors", tmp_path / "file" / "x")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


@pytest.fixture(autouse=True)
def _quiet() -> None:
    logging.getLogger("monai").setLevel(logging.ERROR)
