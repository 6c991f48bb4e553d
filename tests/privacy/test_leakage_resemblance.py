"""Copies are found however they were disguised; people who are no copies are not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medidiff.data.cohort import Cohort, load_people, people
from medidiff.errors import InputError
from medidiff.privacy.leakage.memorisation import apart, fit_limit
from medidiff.privacy.leakage.planting import HARDER, KINDS, plant
from medidiff.privacy.leakage.resemblance import Gallery, joined, reduced
from tests.privacy.leakage_people import textures

TRAINED = 16


@pytest.fixture(scope="module")
def real(shared: Path) -> np.ndarray:
    """Hippocampi of 16 people and, at the end, of 4 others."""
    images = shared / "data" / "msd-hippocampus" / "images"
    some = [*people(Cohort(images=images, first=TRAINED)), *people(Cohort(images=images, last=4))]
    return load_people(some, (40, 56, 40)).images[:, 0]


@pytest.fixture(scope="module")
def gallery(real: np.ndarray) -> Gallery:
    return Gallery(real[:TRAINED])


@pytest.fixture(scope="module")
def limit(real: np.ndarray, gallery: Gallery) -> float:
    found = [gallery.search(real[part], [among]).matches[0] for part, among in apart(range(TRAINED))]
    return fit_limit(np.array([match.lead for piece in found for match in piece]), 10).value


@pytest.mark.parametrize("kind", [*KINDS, *HARDER])
def test_a_planted_copy_is_caught_and_its_source_named(
    kind: str, real: np.ndarray, gallery: Gallery, limit: float
) -> None:
    copies = [plant(kind, source, real[:TRAINED], real[TRAINED:], seed=source) for source in (3, 13)]
    for copy, match in zip(copies, gallery.search(np.stack([c.volume for c in copies])).matches[0], strict=True):
        assert match.person == copy.source
        assert match.lead > limit


def test_people_who_were_not_trained_on_are_no_copies(real: np.ndarray, gallery: Gallery, limit: float) -> None:
    others = gallery.search(real[TRAINED:]).matches[0]
    assert max(match.lead for match in others) < limit


def test_a_flip_and_an_inversion_are_named() -> None:
    volumes = textures(6, 0)
    turned = np.stack([np.flip(volumes[2], (0, 2)), volumes[4].max() - volumes[4]])
    flipped, inverted = Gallery(volumes).search(turned).matches[0]
    assert (flipped.person, flipped.flips, flipped.inverted) == (2, (True, False, True), False)
    assert (inverted.person, inverted.inverted) == (4, True)
    assert flipped.under == "flipped left to right and top to bottom"
    assert inverted.under == "contrast inverted"
    assert flipped.likeness == pytest.approx(1, abs=1e-3)


def test_whoever_is_left_out_is_not_found() -> None:
    volumes = textures(6, 1)
    gallery = Gallery(volumes)
    found = gallery.search(volumes, leave_out=range(6))
    assert [match.person == number for number, match in enumerate(found.matches[0])] == [False] * 6
    assert np.isnan(np.diag(found.coarse)).all()
    assert np.isfinite(found.coarse).sum() == 30


def test_groups_are_searched_apart() -> None:
    volumes = textures(8, 2)
    first, second = Gallery(volumes).search(volumes[:1], [range(4), range(4, 8)]).matches
    assert first[0].person == 0
    assert second[0].person >= 4
    assert first[0].lead > 0.3 > second[0].lead


def test_the_result_does_not_depend_on_what_is_searched_together() -> None:
    volumes, queries = textures(5, 3), textures(10, 4)
    gallery = Gallery(volumes)
    whole = gallery.search(queries)
    parts = joined([gallery.search(queries[:3]), gallery.search(queries[3:])])
    np.testing.assert_allclose(parts.coarse, whole.coarse, atol=1e-5)
    assert [match.person for match in parts.matches[0]] == [match.person for match in whole.matches[0]]


def test_large_volumes_are_reduced_and_small_ones_refused() -> None:
    large = textures(1, 5, (150, 90, 40))[0]
    assert reduced(large).shape == (50, 30, 12)
    assert reduced(large).mean() == pytest.approx(large.mean(), rel=0.02)
    with pytest.raises(InputError, match="16 voxels a side"):
        Gallery(np.zeros((2, 8, 20, 20), dtype=np.float32))
