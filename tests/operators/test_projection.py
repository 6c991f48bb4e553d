"""Parallel-beam projections against closed forms, scikit-image and ASTRA."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest
import torch
from torch import Tensor

from medidiff.errors import ConfigError, GeometryError
from medidiff.operators import ParallelBeam, projection
from medidiff.operators.projection import views, whole_plane


def ellipse(n: int, semi: tuple[float, float], centre: tuple[float, float], tilt: float, fine: int = 8) -> Tensor:
    """An ellipse as pixel means, shape (1, 1, n, n, 1)."""
    axis = (np.arange(n * fine) + 0.5) / fine - n / 2
    x, y = np.meshgrid(axis - centre[0], axis - centre[1], indexing="ij")
    u, v = x * np.cos(tilt) + y * np.sin(tilt), -x * np.sin(tilt) + y * np.cos(tilt)
    inside = ((u / semi[0]) ** 2 + (v / semi[1]) ** 2 <= 1).astype(np.float64)
    return torch.from_numpy(inside.reshape(n, fine, n, fine).mean((1, 3)))[None, None, ..., None]


def ellipse_chord(t: np.ndarray, angle: float, semi: tuple[float, float], centre: tuple[float, float], tilt: float):
    """Length of a ray in an ellipse (Kak & Slaney 1988, eq. 3.5)."""
    width = math.hypot(semi[0] * math.cos(angle - tilt), semi[1] * math.sin(angle - tilt))
    s = t - centre[0] * math.cos(angle) - centre[1] * math.sin(angle)
    return 2 * semi[0] * semi[1] / width**2 * np.sqrt(np.clip(width**2 - s**2, 0, None))


@pytest.mark.parametrize(("pitch", "centre"), [(1.0, 0.0), (0.7, 2.3), (1.6, -1.25)])
def test_an_ellipse_casts_its_chords(pitch: float, centre: float) -> None:
    shape = ((20.0, 9.0), (4.0, -6.0), 0.5)
    operator = ParallelBeam((1, 64, 64, 1), views(9, 180, 3), pitch=pitch, centre=centre)
    y = operator.forward(ellipse(64, *shape))[0, 0, :, :, 0].numpy()
    bins = np.arange(operator.detectors * 32) + 0.5
    t = (bins / 32 - operator.detectors / 2 - centre) * pitch
    expected = np.stack(
        [ellipse_chord(t, angle, *shape).reshape(operator.detectors, 32).mean(1) for angle in operator.angles]
    )
    # Pixels blur the rim of the ellipse, which is all that is left of the difference; a shift by 0.1 bins gives 0.03.
    assert np.linalg.norm(y - expected) / np.linalg.norm(expected) < 0.014


def test_every_view_sees_the_whole_mass() -> None:
    x = torch.rand(1, 2, 17, 23, 3, dtype=torch.float64)
    y = ParallelBeam((2, 17, 23, 3), views(11, 360, 7), pitch=0.8, centre=1.5).forward(x)
    torch.testing.assert_close(0.8 * y.sum(3), x.sum((2, 3))[:, :, None].expand(1, 2, 11, 3))


def test_at_right_angles_rays_are_rows_and_columns() -> None:
    x = torch.rand(1, 1, 6, 9, 2, dtype=torch.float64)
    along_j = ParallelBeam((1, 6, 9, 2), [0.0], detectors=6).forward(x)[:, :, 0]
    along_i = ParallelBeam((1, 6, 9, 2), [math.pi / 2], detectors=9).forward(x)[:, :, 0]
    torch.testing.assert_close(along_j, x.sum(3))
    torch.testing.assert_close(along_i, x.sum(2))


def test_it_agrees_with_scikit_image() -> None:
    transform = pytest.importorskip("skimage.transform")
    x = ellipse(65, (20, 12), (5, -3), 0.4) + 0.5 * ellipse(65, (6, 9), (-4, 8), 1.1)
    degrees = np.linspace(0, 180, 13, endpoint=False)
    operator = ParallelBeam((1, 65, 65, 1), np.deg2rad(degrees).tolist(), detectors=65)
    ours = operator.forward(x)[0, 0, :, :, 0].numpy()
    # Their detector lies along the columns of the image, whose rows count downwards.
    theirs = transform.radon(x[0, 0, :, :, 0].numpy()[:, ::-1].T, degrees, circle=True).T
    assert np.linalg.norm(ours - theirs) / np.linalg.norm(theirs) < 0.01


@pytest.mark.parametrize("count", [7, 31])
def test_astra_gives_the_same_numbers(count: int) -> None:
    pytest.importorskip("astra", exc_type=ImportError, reason="astra-toolbox is not installed")
    given = {"in_shape": (1, 24, 31, 2), "angles": views(count, 180, 11), "pitch": 1.3, "centre": 0.75}
    ours, theirs = ParallelBeam(**given), pickle.loads(pickle.dumps(ParallelBeam(**given, backend="astra")))
    x, v = torch.rand(2, 1, 24, 31, 2), torch.rand(2, *ours.out_shape)
    torch.testing.assert_close(theirs.forward(x), ours.forward(x), rtol=2e-4, atol=2e-4)
    torch.testing.assert_close(theirs.adjoint(v), ours.adjoint(v), rtol=2e-4, atol=2e-4)


def test_weights_on_the_fly_are_those_of_the_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.rand(2, 1, 10, 12, 3, dtype=torch.float64)
    v = torch.rand(2, 1, 5, 15, 3, dtype=torch.float64)
    results = []
    for budget in (10**9, 0):
        monkeypatch.setattr(projection, "MATRIX_WEIGHTS", budget)
        # Too small a detector, so that some pixels miss it.
        operator = ParallelBeam((1, 10, 12, 3), views(5), detectors=15, pitch=0.9, centre=0.6)
        results.append((operator.forward(x), operator.adjoint(v)))
    for kept, made in zip(*results, strict=True):
        torch.testing.assert_close(kept, made, rtol=1e-12, atol=1e-12)


def test_more_views_and_steps_bring_the_classical_image_nearer() -> None:
    x = ellipse(48, (18, 12), (2, -3), 0.3) + 0.5 * ellipse(48, (4, 6), (-4, 4), 1.0)

    def error(count: int, steps: int) -> float:
        operator = ParallelBeam((1, 48, 48, 1), views(count))
        return float((operator.classical(operator.forward(x), steps=steps) - x).norm() / x.norm())

    assert error(60, 20) < 0.5 * error(12, 20)
    assert error(60, 20) < 0.7 * error(60, 4)


def test_consistency_lowers_the_misfit_and_leaves_what_agrees() -> None:
    operator = ParallelBeam((1, 32, 32, 2), views(15))
    truth = ellipse(32, (10, 7), (0, 2), 0.2).expand(1, 1, 32, 32, 2)
    y = operator.forward(truth)
    wrong = truth + 0.2 * torch.randn(truth.shape, generator=torch.Generator().manual_seed(0), dtype=truth.dtype)
    better = operator.consistent(wrong, y, 0.1, steps=5)
    assert (operator.forward(better) - y).norm() < 0.25 * (operator.forward(wrong) - y).norm()
    assert (better - truth).norm() < (wrong - truth).norm()
    torch.testing.assert_close(operator.consistent(truth, y, 0.1, steps=5), truth)


def test_planes_do_not_meet_in_the_classical_image() -> None:
    operator, alone = ParallelBeam((1, 16, 16, 2), views(7)), ParallelBeam((1, 16, 16, 1), views(7))
    x = torch.rand(1, 1, 16, 16, 2, dtype=torch.float64)
    y = operator.forward(x)
    torch.testing.assert_close(operator.reference(y)[..., :1], alone.reference(y[..., :1].contiguous()))


def test_the_task_tells_few_views_and_a_missing_arc() -> None:
    many, few = (ParallelBeam((1, 64, 64, 1), views(count)) for count in (101, 25))
    assert many.task().sparse_views == 0
    assert few.task().sparse_views == pytest.approx(math.log2(math.pi / 2 * 64 / 25) / 6)
    assert few.task().missing == 0
    assert ParallelBeam((1, 64, 64, 1), views(40, 120)).task().missing == pytest.approx(1 / 3, abs=0.01)
    # The noise of a filtered back-projection, measured.
    y = torch.randn(1, *few.out_shape, dtype=torch.float64)
    assert few.task(0.3).noise == pytest.approx(0.3 * math.pi / math.sqrt(12 * 25))
    assert y.shape[2] == 25


def test_the_default_detector_sees_every_corner() -> None:
    for pitch, centre in ((1.0, 0.0), (0.6, 3.0), (1.7, -2.0)):
        operator = ParallelBeam((1, 9, 14, 1), views(16), pitch=pitch, centre=centre)
        assert operator.detectors == whole_plane((9, 14), pitch, centre)
        assert torch.allclose(pitch * operator.forward(torch.ones(1, 1, 9, 14, 1)).sum(3), torch.tensor(126.0))


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"angles": []}, ConfigError),
        ({"angles": [math.nan]}, ConfigError),
        ({"centre": math.inf}, ConfigError),
        ({"pitch": 0.0}, ConfigError),
        ({"detectors": 0}, ConfigError),
        ({"in_shape": (1, 4, 4, 0)}, GeometryError),
    ],
)
def test_impossible_geometries_are_refused(changes: dict, error: type[Exception]) -> None:
    given = {"in_shape": (1, 4, 4, 2), "angles": [0.0]} | changes
    with pytest.raises(error):
        ParallelBeam(given.pop("in_shape"), given.pop("angles"), **given)


@pytest.mark.parametrize(("count", "arc"), [(0, 180), (10, 0), (10, 361)])
def test_impossible_views_are_refused(count: int, arc: float) -> None:
    with pytest.raises(ConfigError):
        views(count, arc)
