"""Heads at 4 mm: where they lie, what their tissues are, and that a generator's training can read them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medidiff.data.cohort import Cohort, load_people, people
from medidiff.errors import ConfigError
from medidiff.geometry import Geometry
from medidiff.io import write_volume
from medidiff.training.coarse_heads import (
    CROWN_MM,
    SPACING_MM,
    TISSUES,
    CoarseHeadsConfig,
    Placement,
    draw_heads,
    one_sided,
    prepare,
    tissues_of,
)
from medidiff.volume import Modality, Volume

SHAPE = (16, 24, 16)


def test_every_number_belongs_to_one_tissue() -> None:
    codes = [code for group in TISSUES.values() for code in group]
    assert len(set(codes)) == len(codes)
    labels = np.array([0, 2, 41, 42, 24, 515, 516, 507, 999])
    names = ["air", *TISSUES]
    told = [names[number] for number in tissues_of(labels)]
    assert told == [
        "air", "white matter", "white matter", "grey matter", "csf", "skull", "marrow", "soft tissue", "soft tissue",
    ]  # fmt: skip
    assert one_sided(np.array([41, 3, 60, 515])).tolist() == [2, 3, 28, 515]


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (2.0, 1.0, 0.8)])
def test_a_head_lies_in_the_middle_below_its_crown(spacing: tuple[float, float, float]) -> None:
    size = [round(96 / mm) for mm in spacing]
    volume = np.zeros(size, np.float32)
    box = tuple(
        slice(round(a / mm), round(b / mm)) for mm, (a, b) in zip(spacing, [(20, 60), (8, 72), (16, 56)], strict=True)
    )
    volume[box] = 1
    placement = Placement.of(volume > 0, spacing, SHAPE)
    coarse = placement.take(volume)
    where = np.argwhere(coarse > 0.5)
    middle = (where.min(0) + where.max(0)) / 2
    np.testing.assert_allclose(middle[:2], [(n - 1) / 2 for n in SHAPE[:2]], atol=0.5)
    assert where.max(0)[2] == pytest.approx(SHAPE[2] - 1 - CROWN_MM / SPACING_MM, abs=1)
    # What is inside a thick voxel is averaged, not picked: mass is kept.
    assert coarse.sum() * SPACING_MM**3 == pytest.approx(volume.sum() * np.prod(spacing), rel=0.05)
    assert set(np.unique(placement.take_labels(volume.astype(np.uint8), 1))) == {0, 1}
    larger = Placement.of(volume > 0, spacing, SHAPE, zoom=1.2).take(volume)
    assert larger.sum() > 1.5 * coarse.sum()
    with pytest.raises(ConfigError, match="no head"):
        Placement.of(np.zeros(size, bool), spacing, SHAPE)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A head of three shells as a label map."""
    folder = tmp_path_factory.mktemp("heads")
    grid = np.stack(np.meshgrid(*[np.arange(64) - 31.5] * 3, indexing="ij"))
    radius = np.sqrt((grid**2).sum(0))
    labels = np.select([radius < 12, radius < 18, radius < 22, radius < 28], [2, 3, 24, 507], 0).astype(np.int16)
    geometry = Geometry(np.diag([1.0, 1.0, 1.0, 1.0]), labels.shape)
    write_volume(Volume(labels[None], geometry, Modality.LABEL), folder / "map.nii.gz", dtype=np.int16)
    return folder


def test_drawn_heads_have_the_tissues_of_their_map(root: Path) -> None:
    config = CoarseHeadsConfig(root=root, labels=("map*",), shape=SHAPE, drawn=3)
    heads = list(draw_heads(root / "map.nii.gz", config, 5, like_t1=True))
    assert len(heads) == 3
    for head in heads:
        levels = {n: head.image[head.tissues == n].mean() for n in np.unique(head.tissues)}
        assert levels[1] > levels[2] > levels[3] > levels[0]
    again = next(iter(draw_heads(root / "map.nii.gz", config, 5, like_t1=True)))
    assert np.array_equal(again.image, heads[0].image)
    first, second = (h.image for _, h in zip(range(2), draw_heads(root / "map.nii.gz", config, 5), strict=False))
    assert not np.array_equal(first, second)


def test_prepared_heads_are_a_cohort(root: Path, tmp_path: Path) -> None:
    config = CoarseHeadsConfig(root=root, labels=("map*",), shape=SHAPE, drawn=2)
    assert prepare(config, tmp_path / "out") == 4
    cohort = Cohort(images=tmp_path / "out" / "images", labels=tmp_path / "out" / "labels")
    found = load_people(people(cohort), SHAPE)
    assert len(found) == 4
    assert found.geometry.spacing == (4.0, 4.0, 4.0)
    lines = (tmp_path / "out" / "contrasts.tsv").read_text().splitlines()
    assert lines[0] == "name\tcontrast"
    assert sorted(line.split("\t")[1] for line in lines[1:]) == ["any", "any", "t1", "t1"]
    with pytest.raises(ConfigError, match="no file matches"):
        prepare(config.model_copy(update={"labels": ("nobody*",)}), tmp_path / "other")
