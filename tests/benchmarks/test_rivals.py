"""The classical rivals are at their best: right positions, right data, the library's own optimum."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks.superresolution.cases import Case
from benchmarks.superresolution.rivals import BASELINE, RIVALS
from benchmarks.superresolution.tv import denoise, total_variation
from medidiff.metrics import data_consistency, psnr
from medidiff.operators.slices import Profile
from medidiff.volume import Volume

SHAPE = (36, 42, 38)


@pytest.fixture(scope="module")
def head(mni: Volume) -> torch.Tensor:
    return torch.from_numpy(mni.data[:, 70 : 70 + SHAPE[0], 90 : 90 + SHAPE[1], 80 : 80 + SHAPE[2]].copy())[None]


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("factor", [2.0, 3.0, 4.0, 3.3])
@pytest.mark.parametrize("method", RIVALS)
def test_a_ramp_stays_where_it_is(method: str, factor: float, axis: int) -> None:
    """Means of a ramp are the ramp at the slices' centres: half a voxel of displacement would show at once."""
    shape = [12, 12, 12]
    shape[axis] = 48
    ramp = torch.arange(48.0).reshape([-1 if a == axis else 1 for a in range(3)]).expand(*shape)[None, None] + 5
    operator = Case(factor, "box", axis).operator(shape)
    found = RIVALS[method](operator, operator.forward(ramp))
    assert found.shape == ramp.shape
    inner = slice(20, 28)  # away from the ends, where the answer must be made up
    tolerance = 0.35 if method == "total variation" else 0.05 * factor
    torch.testing.assert_close(found.narrow(axis + 2, 20, 8), ramp[0, 0].narrow(axis, 20, 8)[None, None].contiguous(),
                               atol=tolerance, rtol=0)  # fmt: skip
    assert float(found.narrow(axis + 2, inner.start, 8).mean()) == pytest.approx(28.5, abs=0.05)


@pytest.mark.parametrize("profile", ["box", "gaussian"])
@pytest.mark.parametrize("method", RIVALS)
def test_constants_stay_constant(method: str, profile: Profile) -> None:
    tolerance = 0.01 if method == "windowed sinc" else 1e-3  # the weights of a windowed sinc do not quite sum to one
    constant = torch.full((1, 1, 16, 16, 22), 7.0)
    operator = Case(4.0, profile, 2).operator((16, 16, 22))
    torch.testing.assert_close(RIVALS[method](operator, operator.forward(constant)), constant, atol=tolerance, rtol=0)


def test_the_strong_baseline_and_total_variation_agree_with_the_data(head: torch.Tensor) -> None:
    operator = Case(4.0, "box", 2).operator(SHAPE)
    y = operator.forward(head)
    errors = {name: data_consistency(operator, method(operator, y), y) for name, method in RIVALS.items()}
    assert errors[BASELINE] < 1e-5
    assert errors["total variation"] < 1e-5
    assert min(errors["linear"], errors["cubic"], errors["windowed sinc"]) > 1e-3


def test_every_rival_beats_repeating_slices(head: torch.Tensor) -> None:
    operator = Case(4.0, "box", 2).operator(SHAPE)
    y = operator.forward(head)
    nearest = np.abs(np.arange(SHAPE[2])[:, None] - operator.centres).argmin(axis=1)
    floor = psnr(y[..., nearest], head, data_range=255)
    scores = {name: psnr(method(operator, y), head, data_range=255) for name, method in RIVALS.items()}
    assert min(scores.values()) > floor + 0.5
    assert scores[BASELINE] > scores["cubic"] > scores["linear"]


def test_total_variation_without_slices_is_scikit_images(head: torch.Tensor) -> None:
    """With nothing to project onto, the problem is that of Rudin, Osher & Fatemi: one optimum, two solvers."""
    from skimage.restoration import denoise_tv_chambolle

    noisy = head / 255 + 0.05 * torch.randn(head.shape, generator=torch.Generator().manual_seed(0))
    clean = denoise(noisy, 0.1, 300)
    ours, theirs, start = (
        np.asarray(x, dtype=np.float64)
        for x in (
            clean[0, 0],
            denoise_tv_chambolle(noisy[0, 0].double().numpy(), 0.1, eps=1e-9, max_num_iter=1000),
            noisy[0, 0],
        )
    )

    def energy(x: np.ndarray) -> float:
        steps = [np.diff(x, axis=a, append=x.take([-1], axis=a)) for a in range(3)]
        return float(np.sqrt(sum(s**2 for s in steps)).sum() + ((x - start) ** 2).sum() / 0.2)

    assert energy(ours) <= energy(theirs) * (1 + 1e-4) < energy(start) / 2
    assert np.abs(ours - theirs).mean() < 5e-4


def test_the_sinc_matrix_is_what_simpleitk_does_in_3d(head: torch.Tensor) -> None:
    import SimpleITK as sitk

    operator = Case(4.0, "box", 1).operator(SHAPE)
    y = operator.forward(head)
    padded = np.pad(y[0, 0].numpy(), [(0, 0), (8, 8), (0, 0)], mode="edge")
    image = sitk.GetImageFromArray(padded.transpose(2, 1, 0))
    image.SetSpacing([1.0, 4.0, 1.0])
    image.SetOrigin([0.0, float(operator.centres[0]) - 32, 0.0])
    theirs = sitk.Resample(image, list(SHAPE), sitk.Transform(), sitk.sitkLanczosWindowedSinc, [0.0] * 3, [1.0] * 3)
    ours = RIVALS["windowed sinc"](operator, y)[0, 0].numpy()
    np.testing.assert_allclose(ours, sitk.GetArrayFromImage(theirs).transpose(2, 1, 0), atol=1e-3)


def test_total_variation_of_no_weight_is_the_baseline(head: torch.Tensor) -> None:
    operator = Case(4.0, "gaussian", 1).operator(SHAPE)
    y = operator.forward(head)
    torch.testing.assert_close(total_variation(operator, y, weight=0.0), operator.reference(y), atol=1e-3, rtol=1e-5)
