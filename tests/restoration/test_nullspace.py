"""What the data fixes and what it does not: the split holds to rounding, for every operator that can be inverted."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from medidiff.operators import CartesianKSpace, Identity, MaskOperator, SliceOperator, SliceProfile
from medidiff.restoration.nullspace import Projectable, fixed_by_data, provenance

SHAPE = (1, 12, 10, 20)


def chains() -> dict[str, Sequence[Projectable]]:
    known = torch.rand(SHAPE[1:], generator=torch.Generator().manual_seed(0)) > 0.3
    # As a plan has them: the coarsest axis first, and the last operator acts on the finest image.
    second = SliceOperator(SHAPE, 0, SliceProfile(3, 3))
    first = SliceOperator((1, 4, 10, 20), 2, SliceProfile(4, 4, "gaussian"))
    return {
        "slices": [SliceOperator(SHAPE, 2, SliceProfile(4, 4))],
        "not-whole": [SliceOperator(SHAPE, 1, SliceProfile(2.6, 2.0))],
        "gaussian": [SliceOperator(SHAPE, 2, SliceProfile(5, 5, "gaussian"))],
        "two-axes": [first, second],
        "mask": [MaskOperator(SHAPE, known)],
        "everything": [Identity(SHAPE)],
        "nothing-done": [],
    }


@pytest.mark.parametrize("axes", [(0, 1), (0, 1, 2)])
def test_k_space_fixes_the_frequencies_that_were_sampled(axes: tuple[int, ...]) -> None:
    mask = torch.rand(SHAPE[1:], generator=torch.Generator().manual_seed(3)) > 0.6
    operator = CartesianKSpace(SHAPE, mask, axes=axes)
    x = torch.randn((1, *SHAPE), generator=torch.Generator().manual_seed(4), dtype=torch.complex64)
    fixed = fixed_by_data([operator], x)
    torch.testing.assert_close(operator.forward(fixed), operator.forward(x), rtol=1e-4, atol=1e-4)
    assert float(operator.forward(x - fixed).abs().max()) < 1e-4
    share = float((fixed.abs() ** 2).sum() / (x.abs() ** 2).sum())
    assert share == pytest.approx(float(mask.float().mean()), abs=0.05)  # white noise: as much as was sampled


def measure(operators: Sequence[Projectable], x: torch.Tensor) -> torch.Tensor:
    for operator in reversed(operators):
        x = operator.forward(x)
    return x


@pytest.mark.parametrize("name", chains())
def test_the_rest_changes_no_measurement_and_stands_at_right_angles(name: str) -> None:
    operators = chains()[name]
    x = torch.randn((1, *SHAPE), generator=torch.Generator().manual_seed(1))
    fixed = fixed_by_data(operators, x)
    torch.testing.assert_close(measure(operators, fixed), measure(operators, x), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(fixed_by_data(operators, fixed), fixed, rtol=1e-4, atol=1e-5)
    assert abs(float((fixed * (x - fixed)).sum())) < 1e-3 * float((x * x).sum())
    if name in ("everything", "nothing-done"):
        torch.testing.assert_close(fixed, x)
    else:
        assert float((x - fixed).norm()) > 0.3 * float(x.norm())


@pytest.mark.parametrize("name", ["slices", "two-axes"])
def test_images_with_the_same_measurements_have_the_same_fixed_part(name: str) -> None:
    operators = chains()[name]
    generator = torch.Generator().manual_seed(2)
    x, other = (torch.randn((1, *SHAPE), generator=generator) for _ in range(2))
    same = x + (other - fixed_by_data(operators, other))
    torch.testing.assert_close(fixed_by_data(operators, same), fixed_by_data(operators, x), rtol=1e-4, atol=1e-5)


def test_shares_of_a_result_that_is_known() -> None:
    """Touching box slices of two voxels: the part that is not fixed is half the difference within each pair."""
    operators = [SliceOperator((1, 1, 1, 8), 2, SliceProfile(2, 2))]
    mean = np.array([1.0, 3, 1, 3, 5, 7, 5, 7], dtype=np.float32).reshape(1, 1, 1, 8)
    baseline = np.repeat([2.0, 2, 6, 6], 2).reshape(1, 1, 1, 8)
    found = provenance(operators, mean, baseline)
    np.testing.assert_allclose(found.from_prior[0, 0, 0], [-1, 1, -1, 1, -1, 1, -1, 1], atol=1e-5)
    # Contrast: squares about 4 sum to 40; the rest is 8 times one.
    assert found.share == pytest.approx(8 / 40, rel=1e-5)
    assert found.learned_share == pytest.approx(8 / 40, rel=1e-5)
    assert found.record() == {"share": found.share, "learned_share": found.learned_share}


def test_frames_are_split_each_on_its_own_and_a_flat_image_has_no_shares() -> None:
    operators = chains()["slices"]
    rng = np.random.default_rng(0)
    frames = rng.normal(size=(2, *SHAPE[1:])).astype(np.float32)
    both = provenance(operators, frames, frames).from_prior
    np.testing.assert_allclose(both[1], provenance(operators, frames[1:], frames[1:]).from_prior[0], atol=1e-6)
    flat = np.full_like(frames, 3.0)
    assert provenance(operators, flat, flat).share == 0
