"""Validation scores what a user will get, and the baseline is what we compare with."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medidiff.diffusion.denoiser import Preconditioned
from medidiff.operators import SliceOperator, SliceProfile
from medidiff.training.validate import HEAD_THRESHOLD, SliceValidation
from tests.diffusion.networks import Zero, random_unet


def test_a_silent_network_scores_the_baseline_and_a_random_one_less(head: np.ndarray) -> None:
    truth = torch.from_numpy(head[:48, :56, :48].copy())
    validation = SliceValidation(truth, SliceProfile(4, 4))
    operator = SliceOperator((1, 48, 56, 48), 2, SliceProfile(4, 4))
    reference = operator.reference(operator.forward(truth[None, None]))[0, 0]
    inside = truth > HEAD_THRESHOLD
    expected = -10 * torch.log10((reference - truth)[inside].square().mean())
    assert validation.baseline() == pytest.approx(float(expected), abs=1e-3)
    assert validation(Preconditioned(Zero())) == pytest.approx(validation.baseline(), abs=1e-3)
    assert validation(Preconditioned(random_unet())) < validation.baseline() - 0.1
