"""The second stage: finer voxels over the same space that give back the coarse image when they are made thick again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from medidiff.data.cohort import centred_grid
from medidiff.diffusion.checkpoint import load_model
from medidiff.errors import ConfigError
from medidiff.generation.cascade import ORDER, Upsampler
from medidiff.io import read_volume
from medidiff.synthesize import SynthesizeOptions, synthesize
from medidiff.synthetic import SyntheticSet
from medidiff.volume import Modality, Volume
from tests.tiny_generator import SHAPE, SPEC, write_tiny_generator
from tests.tiny_model import write_tiny_model


@pytest.fixture(scope="module")
def upsampler(tmp_path_factory: pytest.TempPathFactory) -> Upsampler:
    path = write_tiny_model(tmp_path_factory.mktemp("model") / "tiny.safetensors")
    return Upsampler(load_model(path)[0], spacing=1.5, steps=2)


@pytest.fixture
def coarse() -> Volume:
    grid = centred_grid((9, 10, 8), (4.0, 4.0, 4.0))
    data = np.random.default_rng(0).uniform(0, 1, (1, *grid.shape)).astype(np.float32)
    return Volume(data, grid, Modality.MR)


@pytest.mark.parametrize("sample", [False, True])
def test_made_thick_again_it_is_the_coarse_image(upsampler: Upsampler, coarse: Volume, sample: bool) -> None:
    stage = Upsampler(upsampler.prior, upsampler.spacing, sample, steps=2)
    fine = stage.image(coarse, seed=3)
    x = torch.from_numpy(fine.data)[None]
    for operator in reversed(stage.operators(coarse.geometry, fine.geometry)):
        x = operator.forward(x)
    assert float((x[0] - torch.from_numpy(coarse.data)).norm() / np.linalg.norm(coarse.data)) < 0.01
    again = stage.image(coarse, seed=4)
    assert np.array_equal(again.data, fine.data) is not sample


def test_the_fine_grid_covers_the_same_space(upsampler: Upsampler, coarse: Volume) -> None:
    fine = upsampler.grid(coarse.geometry)
    assert fine.shape == (24, 27, 22)
    for grid_corner, sign in ((-0.5, 0), (None, 1)):
        ends = [
            grid.to_world(np.array([grid_corner if grid_corner is not None else n - 0.5 for n in grid.shape]))
            for grid in (coarse.geometry, fine)
        ]
        np.testing.assert_allclose(*ends, atol=1e-9, err_msg=str(sign))
    assert len(upsampler.operators(coarse.geometry, fine)) == len(ORDER)


def test_labels_are_drawn_finer_and_keep_their_volume(upsampler: Upsampler, coarse: Volume) -> None:
    labels = np.zeros(coarse.data.shape, np.uint8)
    labels[0, 2:6, 3:7, 2:6] = 3
    labels[0, 6:8, 3:7, 2:6] = 7
    fine = upsampler.label(Volume(labels, coarse.geometry, Modality.LABEL))
    assert set(np.unique(fine.data)) == {0, 3, 7}
    for value in (3, 7):
        before = (labels == value).sum() * 4.0**3
        after = (fine.data == value).sum() * float(np.prod(fine.geometry.spacing))
        assert after == pytest.approx(before, rel=0.15)


def test_a_step_that_the_prior_never_saw_is_refused(upsampler: Upsampler, coarse: Volume) -> None:
    for spacing in (0.3, 4.0, 8.0):
        with pytest.raises(ConfigError, match="factor"):
            Upsampler(upsampler.prior, spacing).grid(coarse.geometry)


def test_a_set_is_made_in_two_stages(tmp_path: Path) -> None:
    generator = write_tiny_generator(tmp_path / "tiny.safetensors")
    prior = write_tiny_model(tmp_path / "prior.safetensors")
    options = SynthesizeOptions(
        model=str(generator), upsample=str(prior), spacing=0.75, count=1, steps=2, name="cascade"
    )
    synthesize(tmp_path / "set", options)
    made = SyntheticSet.open(tmp_path / "set")
    assert made.record.generator.sampler["upsample"] == "prior"
    assert len(made.record.generator.sampler["upsample_sha256"]) == 64
    image = read_volume(next((tmp_path / "set" / "images").glob("*.nii.gz")))
    label = read_volume(next((tmp_path / "set" / "labels").glob("*.nii.gz")))
    np.testing.assert_allclose(image.geometry.spacing, 0.75, rtol=0.06)
    assert label.geometry.distance(image.geometry) < 1e-3
    assert all(n > old * 0.6 for n, old in zip(image.geometry.shape, SHAPE, strict=True))
    with pytest.raises(ConfigError, match="factor"):
        synthesize(tmp_path / "other", options.model_copy(update={"spacing": SPEC.spacing_mm[2]}))
    assert not (tmp_path / "other").exists()
