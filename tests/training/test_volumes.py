"""From files to training volumes, on the packaged head."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from medidiff.errors import ConfigError
from medidiff.geometry import Geometry
from medidiff.io import write_volume
from medidiff.training.volumes import Source, compact_labels, conform, crop_to_head, list_files, load_volumes
from medidiff.volume import Modality, Volume


@pytest.fixture(scope="module")
def folder(mni: Volume, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The head at 4 mm twice: axes as they are, and the same scan stored sagittally with flips; and a label map."""
    root = tmp_path_factory.mktemp("scans")
    data = np.ascontiguousarray(mni.data[:, ::4, ::4, ::4])
    affine = mni.geometry.affine @ np.diag([4.0, 4, 4, 1])
    plain = Volume(data, Geometry(affine, data.shape[1:]))  # type: ignore[arg-type]
    write_volume(plain, root / "plain.nii.gz")
    turn = np.array([[0, 0, -1.0, data.shape[1] - 1], [1, 0, 0, 0], [0, -1, 0, data.shape[3] - 1], [0, 0, 0, 1]])
    turned = np.ascontiguousarray(data.transpose(0, 2, 3, 1)[:, :, ::-1, ::-1])
    write_volume(Volume(turned, Geometry(affine @ turn, turned.shape[1:])), root / "turned.nii.gz")  # type: ignore[arg-type]
    labels = np.digitize(data, [0.3 * data.max(), 0.6 * data.max()]).astype(np.int16) * 17
    write_volume(Volume(labels, plain.geometry, Modality.LABEL), root / "labels.nii.gz")
    return root


def record(path: Path, kind: str = "image", zoom: float = 1.0) -> dict[str, object]:
    return {"path": path, "kind": kind, "weight": 1.0, "zoom": zoom}


def test_orientation_does_not_matter(folder: Path) -> None:
    plain, turned = (conform(record(folder / name))["data"] for name in ("plain.nii.gz", "turned.nii.gz"))
    np.testing.assert_allclose(turned, plain, atol=1e-5)
    assert plain.dtype == np.float32
    # Model units: a head between 0 and about 1.
    assert 0.9 < np.percentile(plain[plain > 0.2], 99) < 1.2


def test_a_zoom_makes_another_size_with_the_same_head(folder: Path) -> None:
    plain, coarse = (conform(record(folder / "plain.nii.gz", zoom=zoom))["data"] for zoom in (1.0, 0.5))
    assert coarse.shape == tuple(round(n / 2) for n in plain.shape)
    assert coarse.mean() == pytest.approx(plain.mean(), rel=0.05)


def test_everything_is_loaded_conformed_and_cropped(folder: Path) -> None:
    sources = [Source(files="plain*", weight=2.0, zooms=(1.0, 0.5)), Source(files="labels*", kind="labels")]
    image, coarse, labels = load_volumes(folder, sources, torch.device("cpu"))
    assert (image.weight, coarse.weight, labels.weight) == (1.0, 1.0, 1.0)
    assert image.data.dtype == torch.float16
    assert labels.data.dtype == torch.uint8
    assert (image.labels, labels.labels) == (0, 2)
    assert labels.data.unique().tolist() == [0, 1, 2]
    for volume in (image, coarse, labels):
        i, j, k = volume.foreground.T
        assert (volume.data[i, j, k] > 0.1).all()


def test_a_pattern_without_files_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\*"):
        list_files(folder, [Source(files="none*")])


def test_air_around_the_head_is_cut_but_for_a_margin() -> None:
    data = np.zeros((40, 50, 60), dtype=np.float32)
    data[20:25, 2:40, 30] = 1
    assert crop_to_head(data, margin=8).shape == (21, 48, 17)
    assert crop_to_head(data, margin=0).shape == (5, 38, 1)
    assert crop_to_head(np.zeros((9, 9, 9), dtype=np.float32)).shape == (9, 9, 9)


def test_labels_are_counted_from_zero_in_their_order() -> None:
    data = np.array([[[0, 4.0, 53, 4, 17]]])
    assert compact_labels(data).tolist() == [[[0, 1, 3, 1, 2]]]
