"""Attacks find whom a model knows, and nobody where it knows nobody."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from medidiff.privacy.leakage.decision import auc
from medidiff.privacy.leakage.likeness import embedded_likeness, label_likeness, lead
from medidiff.privacy.leakage.membership import from_samples, together, white_box

MEMBERS = OTHERS = 24


class Remembering:
    """The exact posterior mean under "the image is one of these, or anything": a network that learned them by heart.

    Prior: half a mixture of the known people, half a standard Gaussian.
    """

    def __init__(self, known: Tensor) -> None:
        self.known = known.flatten(1)

    def __call__(self, x: Tensor, sigma: Tensor) -> Tensor:
        flat, variance = x.flatten(1).double(), sigma[:, None].double() ** 2
        size = flat.shape[1]
        near = -((flat[:, None] - self.known.double()) ** 2).sum(-1) / (2 * variance) - size / 2 * variance.log()
        broad = -(flat**2).sum(1, keepdim=True) / (2 * (1 + variance)) - size / 2 * (1 + variance).log()
        weights = torch.softmax(torch.cat([near - np.log(len(self.known)), broad], 1), 1)
        mean = weights[:, :-1] @ self.known.double() + weights[:, -1:] * flat / (1 + variance)
        return mean.view(x.shape).float()


@pytest.fixture(scope="module")
def everybody() -> Tensor:
    return torch.randn((MEMBERS + OTHERS, 1, 6, 6, 6), generator=torch.Generator().manual_seed(0))


def attack(model: Remembering, everybody: Tensor) -> dict[str, float]:
    found = white_box(lambda _: model, everybody, (0.2, 0.5), draws=2, seed=1, batch=7)
    assert {name: scores.shape for name, scores in found.items()} == dict.fromkeys(("loss", "PIA", "SimA"), (2, 48))
    return {name: auc(*np.split(together(scores), [MEMBERS])).value for name, scores in found.items()}


def test_a_model_that_learned_by_heart_is_found_out(everybody: Tensor) -> None:
    found = attack(Remembering(everybody[:MEMBERS]), everybody)
    assert min(found.values()) > 0.95, found


def test_a_model_of_others_tells_nothing(everybody: Tensor) -> None:
    strangers = torch.randn((MEMBERS, 1, 6, 6, 6), generator=torch.Generator().manual_seed(9))
    found = attack(Remembering(strangers), everybody)
    assert all(0.3 < value < 0.7 for value in found.values()), found


def test_voxels_that_were_not_acquired_do_not_count(everybody: Tensor) -> None:
    model = Remembering(everybody[:MEMBERS])
    inside = torch.ones_like(everybody, dtype=torch.bool)
    inside[..., 0] = False
    spoiled: list[Tensor] = []

    def bind(_: slice) -> object:
        def denoise(x: Tensor, sigma: Tensor) -> Tensor:
            out = model(x, sigma).clone()
            out[..., 0] = torch.rand(len(x), 1, 6, 6, generator=torch.Generator().manual_seed(len(spoiled))) * 50
            spoiled.append(out)
            return out

        return denoise

    found = white_box(bind, everybody, (0.2,), draws=1, seed=1, inside=inside)  # type: ignore[arg-type]
    plain = white_box(lambda _: model, everybody, (0.2,), draws=1, seed=1, inside=inside)
    np.testing.assert_allclose(found["loss"], plain["loss"], rtol=1e-5)
    assert spoiled


def test_samples_near_a_person_give_him_away_unless_he_is_near_to_everybody() -> None:
    rng = np.random.default_rng(0)
    among_real = rng.normal(0.3, 0.02, (20, 30))
    items = rng.normal(0.3, 0.02, (50, 30))
    items[:10, 4] += 0.3  # copied
    among_real[:, 7] += 0.3  # like everybody
    items[:, 7] += 0.3
    scores = from_samples(items, among_real)
    assert scores.argmax() == 4
    assert abs(scores[7]) < 0.1


def test_levels_weigh_the_same() -> None:
    scores = np.array([[1.0, 2, 3, 4], [4e6, 3e6, 2e6, 1e6]])
    np.testing.assert_allclose(together(scores), 0, atol=1e-12)


def test_a_lead_is_over_the_middle_of_the_next_five() -> None:
    likeness = np.array([[0.9, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0, np.nan], [0.1, 0.5, 0.4, 0.3, 0.2, 0.1, 0.0, 0.9]])
    nearest, leads = lead(likeness, range(8))
    assert nearest.tolist() == [0, 7]
    np.testing.assert_allclose(leads, [0.6, 0.6])
    assert lead(likeness, [1, 2, 3])[0].tolist() == [1, 1]


def blobs(count: int, seed: int) -> np.ndarray:
    from scipy import ndimage

    rng = np.random.default_rng(seed)
    fields = np.stack([ndimage.gaussian_filter(rng.normal(size=(20, 24, 20)), 3.0) for _ in range(count)])
    fields[:, :4], fields[:, -4:] = -1, -1
    return np.digitize(fields, [np.quantile(fields, 0.8), np.quantile(fields, 0.92)]).astype(np.uint8)


def test_a_copied_label_map_is_found_flipped_moved_and_turned() -> None:
    from scipy import ndimage

    maps = blobs(12, 0)
    turned = ndimage.rotate(maps[3], 7, (0, 1), reshape=False, order=0)
    queries = np.stack([maps[5], np.flip(maps[2], (1,)), np.roll(maps[8], (2, 0), (0, 1)), turned])
    found = label_likeness(queries, maps)
    assert found.argmax(1).tolist() == [5, 2, 8, 3]
    np.testing.assert_allclose(found.max(1)[:3], 1, atol=0.02)
    others = label_likeness(maps, maps)
    np.fill_diagonal(others, 0)
    assert found.max(1).min() > others.max()


def test_an_empty_label_map_is_like_nobodys() -> None:
    assert (label_likeness(np.zeros((1, 20, 24, 20), dtype=np.uint8), blobs(3, 1)) == 0).all()


def test_features_are_compared_under_every_flip() -> None:
    class Corner:
        """Sees the voxels as they lie: what is flipped looks different to it."""

        def embed(self, images: np.ndarray) -> np.ndarray:
            return images[:, 0, :2, :2, :2].reshape(len(images), -1).astype(np.float64)

    images = np.random.default_rng(3).normal(size=(6, 8, 8, 8))
    features = Corner().embed(images[:, None])
    queries = np.stack([np.flip(images[2], (0, 1)), images[4]])
    found = embedded_likeness(queries, features, Corner())
    assert found.argmax(1).tolist() == [2, 4]
    np.testing.assert_allclose(found.max(1), 1)
